"""Fields that a run left behind, and the colour scales that they share."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize

from kinn.report.records import Experiment


@dataclass(frozen=True)
class Shot:
    """One sample at one step as a variant predicted it; arrays are indexed (x, y)."""

    truth: np.ndarray
    prediction: np.ndarray
    input: np.ndarray | None

    @property
    def error(self) -> np.ndarray:
        """Prediction minus truth."""
        return self.prediction - self.truth

    @property
    def relative_l2(self) -> float:
        """Euclidean norm of the error over that of the truth."""
        size = float(np.linalg.norm(self.truth))
        return float(np.linalg.norm(self.error)) / size if size else float("nan")


@dataclass(frozen=True)
class Scale:
    """A colour map with its limits, common to every panel that it is used for; a logarithmic one shows sizes only."""

    cmap: str
    low: float
    high: float
    clipped: bool = False
    log: bool = False

    @property
    def norm(self) -> Normalize:
        """From values to the colour map."""
        return (LogNorm if self.log else Normalize)(self.low, self.high)

    def mappable(self) -> ScalarMappable:
        """What a colour bar is drawn from."""
        return ScalarMappable(self.norm, self.cmap)

    def shown(self, array: np.ndarray) -> np.ndarray:
        """What a panel draws of an array: on a logarithmic scale sizes, none below its lower end."""
        return np.maximum(np.abs(array), self.low) if self.log else array

    @property
    def extend(self) -> Literal["neither", "both", "min"]:
        """The ends of the colour bar beyond which values lie."""
        if self.log:
            return "both" if self.clipped else "min"
        return "both" if self.clipped else "neither"


UNLIKE = 4
"""Times that errors may differ on a linear scale."""

Shots = dict[str, Shot]
"""One moment, by variant."""


def samples(experiment: Experiment) -> dict[str, dict[int | None, Shots]]:
    """The fields kept by the first run of each variant that kept any: by label, step and variant."""
    found: dict[str, dict[int | None, Shots]] = {}
    for variant in experiment.variants:
        record = next((r for r in variant.records if r.fields), None)
        for sample in record.fields if record else []:
            arrays = (sample["truth"], sample["prediction"])
            truth, prediction = (np.asarray(array, dtype=float) for array in arrays)
            source = None if sample.get("input") is None else np.asarray(sample["input"], dtype=float)
            steps = found.setdefault(str(sample.get("label") or "sample"), {})
            steps.setdefault(sample.get("step"), {})[variant.name] = Shot(truth, prediction, source)
    return found


def field_scale(truths: Iterable[np.ndarray], predictions: Iterable[np.ndarray] = ()) -> Scale:
    """Limits common to truths and predictions; truths of both signs get a diverging map centred at zero.

    Predictions far off (by more than the truths' own range) do not wash out the rest: the limits stop there, and the
    colour bar ends in arrows.

    >>> field_scale([np.array([[-1.0, 3.0]])])
    Scale(cmap='RdBu_r', low=-3.0, high=3.0, clipped=False, log=False)
    >>> field_scale([np.array([[1.0, 3.0]])], [np.array([[1.0, 3.5]]), np.array([[1.0, 99.0]])])
    Scale(cmap='viridis', low=1.0, high=5.0, clipped=True, log=False)
    """
    low, high = _range(truths)
    signed = low < 0 < high and min(-low, high) > 0.1 * max(-low, high)
    reach = high - low or abs(high) or 1.0
    widest = _range(predictions, (low, high))
    clipped = widest[0] < low - reach or widest[1] > high + reach
    low, high = min(low, max(widest[0], low - reach)), max(high, min(widest[1], high + reach))
    if signed:
        return Scale("RdBu_r", -max(-low, high), max(-low, high), clipped)
    return Scale("viridis", low, high if high > low else low + 1.0, clipped)


def _range(arrays: Iterable[np.ndarray], otherwise: tuple[float, float] = (0.0, 1.0)) -> tuple[float, float]:
    values = np.concatenate([np.ravel(array) for array in arrays] or [np.empty(0)])
    values = values[np.isfinite(values)]
    return (float(values.min()), float(values.max())) if values.size else otherwise


def error_scale(shots: Collection[Shot]) -> Scale:
    """One scale for the errors of all variants and steps, up to the largest one, or to twice the largest truth.

    Where the root mean squares of two errors differ more than fourfold, a linear scale leaves the smaller one blank. It
    is then logarithmic in the error's size and begins at half the smallest root mean square. Else it is linear and
    symmetric about zero.
    """
    low, high = _range((shot.error for shot in shots), (-1.0, 1.0))
    bottom, top = _range(shot.truth for shot in shots)
    largest, cap = max(-low, high), 2 * max(-bottom, top)
    size = (min(largest, cap) if cap > 0 else largest) or 1.0
    finite = [shot.error[np.isfinite(shot.error)] for shot in shots]
    sizes = [mean for errors in finite if errors.size and (mean := float(np.sqrt(np.mean(errors**2)))) > 0]
    if sizes and max(sizes) > UNLIKE * min(sizes):
        size = max(size, 2 * min(sizes))  # all may be far above the truth
        return Scale("magma_r", min(sizes) / 2, size, largest > size, log=True)
    return Scale("PuOr", -size, size, largest > size)
