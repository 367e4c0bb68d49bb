"""Names, numbers and settings as readers see them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

METRIC_NAMES = {
    "relative_l2": "Relative L2",
    "relative_l1": "Relative L1 (%)",
    "relative_l1_median": "Median relative L1 (%)",
    "relative_l1_mean": "Mean relative L1 (%)",
    "rmse": "RMSE",
    "nrmse": "nRMSE",
    "max_error": "Max error",
}

FACTOR_NAMES = {"order": "order K", "routes": "number of routes"}
"""What variants differ in, as an axis says it."""

NORMALIZED = "_normalized"
"""Ending of the metrics that are measured in the units that the network sees."""

RANKS_NOTHING = "A few steps of training show that everything runs; they rank nothing."
TIMES_APART = "The variants ran on different machines or devices: their times do not compare."

METRIC_MEANINGS = {
    "relative_l2": "The Euclidean norm of the error divided by that of the truth, over all grid points of a sample "
    "(and all steps of a rollout), averaged over samples. 0 is perfect; predicting zero everywhere gives 1.",
    "relative_l1": "The mean absolute error divided by the mean absolute truth, for each sample, in percent.",
    "relative_l1_median": "The mean absolute error divided by the mean absolute truth, for each sample, in percent; of "
    "these the median over samples, so that a few hard samples do not decide.",
    "relative_l1_mean": "The mean absolute error divided by the mean absolute truth, for each sample, in percent, "
    "averaged over samples.",
    "rmse": "The root of the squared error averaged over space, then averaged over samples, channels and steps. It has "
    "the unit of the field.",
    "nrmse": "The root of the squared error averaged over space, divided by the same root of the truth, then averaged "
    "over samples, channels and steps. It has no unit.",
    "max_error": "The largest absolute error anywhere in the test set, averaged over channels and steps. It has the "
    "unit of the field, and grows with the size of the test set.",
}
"""What each metric is, in words."""


def metric_name(key: str) -> str:
    """A metric's name for readers.

    >>> metric_name("nrmse"), metric_name("rmse_normalized"), metric_name("h1_error")
    ('nRMSE', 'RMSE (normalised)', 'h1 error')
    """
    if key.endswith(NORMALIZED):
        name = metric_name(key.removesuffix(NORMALIZED))
        return name.replace("(%)", "(normalised, %)") if "(%)" in name else f"{name} (normalised)"
    return METRIC_NAMES.get(key, key.replace("_", " "))


def split_name(key: str) -> str:
    """A test set's name for readers.

    >>> split_name("out_of_distribution")
    'out of distribution'
    """
    return key.replace("_", " ")


def number_format(values: Sequence[float]) -> Callable[[float], str]:
    """One notation for a column, so that its decimals align and its smallest number keeps three digits.

    >>> show = number_format([0.0123, 0.2])
    >>> show(0.0123), show(0.2)
    ('0.0123', '0.2000')
    >>> number_format([1.2e-7])(1.2e-7)
    '1.20e-07'
    """
    sizes = [abs(v) for v in values if math.isfinite(v) and v != 0]
    if sizes and (min(sizes) < 1e-4 or max(sizes) >= 1e5 or max(sizes) / min(sizes) >= 1e4):
        return lambda value: f"{value:.2e}"
    decimals = max(0, 2 - math.floor(math.log10(min(sizes)))) if sizes else 2
    return lambda value: f"{value:.{decimals}f}"


def flatten(mapping: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as one level with dotted names.

    >>> flatten({"optimizer": {"lr": 0.001}, "epochs": 3})
    {'optimizer.lr': 0.001, 'epochs': 3}
    """
    flat: dict[str, Any] = {}
    for key, value in mapping.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def gap(lower: float, higher: float, *, falls: bool) -> str:
    """How far two numbers are apart, seen from the higher one (`falls`) or from the lower.

    >>> gap(1.0, 3.0, falls=True), gap(0.75, 1.0, falls=True), gap(1.0, 1.25, falls=False)
    ('3.0 times lower', '25 % lower', '25 % higher')
    """
    if lower > 0 and higher / lower >= 2:
        return f"{higher / lower:.1f} times {'lower' if falls else 'higher'}"
    base = higher if falls else lower
    percent = 100 * (higher - lower) / base if base else math.inf
    return f"{percent:.{1 if percent < 10 else 0}f} % {'lower' if falls else 'higher'}"


def join(words: Sequence[str]) -> str:
    """A list in prose.

    >>> join(["a", "b", "c"])
    'a, b and c'
    """
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]])) if words else ""


def show_value(value: object) -> str:
    """A setting as text.

    >>> show_value([64, 64]), show_value(True), show_value({"lr": 0.001})
    ('64 × 64', 'yes', 'lr=0.001')
    """
    if value is None or value is True or value is False:
        return {None: "–", True: "yes", False: "no"}[value]
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={show_value(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        sizes = all(isinstance(item, int) for item in value)
        return (" × " if sizes else ", ").join(map(show_value, value))
    return str(value)
