"""Pictures of fields: input, truth, prediction and error of every variant on common colour scales."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from kinn.report.records import Experiment
from kinn.report.style import FONT, WIDTH, Picture, Theme, wrap
from kinn.report.wording import join

MAX_SAMPLES = 3
MAX_STEPS = 5

GAP = 0.09
BAR = 0.62
TITLE = 0.36


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
    """A colour map with its limits, common to every panel that it is used for."""

    cmap: str
    low: float
    high: float
    clipped: bool = False

    def mappable(self) -> ScalarMappable:
        """What a colour bar is drawn from."""
        return ScalarMappable(Normalize(self.low, self.high), self.cmap)


Shots = dict[str, Shot]
"""One moment, by variant."""


def field_pictures(experiment: Experiment) -> list[Picture]:
    """One picture for each sample: a rollout where it was kept at several steps, else a comparison of variants."""
    pictures = []
    for number, (label, steps) in enumerate(list(samples(experiment).items())[:MAX_SAMPLES], 1):
        name = f"{experiment.slug}-fields-{number}"
        moments = sorted((step, shots) for step, shots in steps.items() if step is not None)
        if len(moments) > 1:
            pictures.append(_rollout_picture(experiment, name, label, _thin(moments)))
        else:
            step, shots = moments[0] if None not in steps else (None, steps[None])
            pictures.append(_sample_picture(experiment, name, label, step, shots))
    return pictures


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


def _thin(moments: list[tuple[int, Shots]]) -> list[tuple[int, Shots]]:
    if len(moments) <= MAX_STEPS:
        return moments
    return [moments[i] for i in np.linspace(0, len(moments) - 1, MAX_STEPS).round().astype(int)]


def field_scale(truths: Iterable[np.ndarray], predictions: Iterable[np.ndarray] = ()) -> Scale:
    """Limits common to truths and predictions; truths of both signs get a diverging map centred at zero.

    Predictions far off (by more than the truths' own range) do not wash out the rest: the limits stop there, and the
    colour bar ends in arrows.

    >>> field_scale([np.array([[-1.0, 3.0]])])
    Scale(cmap='RdBu_r', low=-3.0, high=3.0, clipped=False)
    >>> field_scale([np.array([[1.0, 3.0]])], [np.array([[1.0, 3.5]]), np.array([[1.0, 99.0]])])
    Scale(cmap='viridis', low=1.0, high=5.0, clipped=True)
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
    """One scale for the errors of all variants, symmetric about zero, up to the largest one.

    It stops at twice the largest truth, as that of the fields does.
    """
    low, high = _range((shot.error for shot in shots), (-1.0, 1.0))
    bottom, top = _range(shot.truth for shot in shots)
    largest, cap = max(-low, high), 2 * max(-bottom, top)
    size = min(largest, cap) if cap > 0 else largest
    return Scale("PuOr", -(size or 1.0), size or 1.0, largest > size)


def _sample_picture(experiment: Experiment, name: str, label: str, step: int | None, shots: Shots) -> Picture:
    moment = label if step is None else f"{label}, step {step}"
    drawn = "Truth" if all(shot.input is None for shot in shots.values()) else "Input, truth"
    caption = (
        f"{_title(moment)}. {drawn} and the prediction of every variant; below each its error, prediction minus truth. "
        "Truth and predictions share one colour scale, and so do all errors, whatever their size. "
        + _remarks(experiment, shots)
    )
    return Picture(name, "png", caption, _alt(moment, shots), lambda theme: draw_sample(shots, theme))


def _rollout_picture(experiment: Experiment, name: str, label: str, moments: list[tuple[int, Shots]]) -> Picture:
    first, last = moments[0][0], moments[-1][0]
    caption = (
        f"{_title(label)}, rolled out from step {first} to step {last}. Truth, then each variant’s prediction, then "
        "each variant’s error, prediction minus truth. One colour scale for truth and predictions at all steps, "
        "another for all errors. " + _remarks(experiment, *(shots for _, shots in moments))
    )
    alt = " ".join(_alt(f"{label}, step {step}", shots) for step, shots in (moments[0], moments[-1]))
    return Picture(name, "png", caption, alt, lambda theme: draw_rollout(moments, theme))


def _title(text: str) -> str:
    return text[:1].upper() + text[1:]


def _remarks(experiment: Experiment, *moments: Shots) -> str:
    seeds = {v.name: next((r.seed for r in v.records if r.fields), None) for v in experiment.variants}
    shown = dict.fromkeys(str(seeds[name]) for shots in moments for name in shots)
    seed = "Seed" if len(shown) == 1 else "Seeds"
    text = f"The number over an error is its relative L2 norm. {seed} {join(list(shown))}."
    missing = [v.name for v in experiment.variants if not any(v.name in shots for shots in moments)]
    if missing:
        text += f" No field was kept for {join(missing)}."
    for shots in moments:
        first, *others = (shot.truth for shot in shots.values())
        if any(t.shape != first.shape or not np.allclose(t, first, rtol=1e-3, equal_nan=True) for t in others):
            text += " The truths kept under this label differ: the first is shown, each error is against its own."
            break
    return text


def _alt(moment: str, shots: Shots) -> str:
    errors = [f"{name} {_percent(shot.relative_l2)}" for name, shot in shots.items()]
    return f"Fields of {moment}: truth beside prediction and error. Relative L2 error: {join(errors)}."


def _percent(ratio: float) -> str:
    if not np.isfinite(ratio):
        return "not finite"
    return f"{100 * ratio:#.3g}".rstrip(".") + " %"


def draw_sample(shots: Shots, theme: Theme) -> Figure:
    """Input, truth and predictions in a row, errors below the predictions."""
    first = next(iter(shots.values()))
    source = next((shot.input for shot in shots.values() if shot.input is not None), None)
    lead = 1 if source is None else 2
    columns = lead + len(shots)
    aspect = first.truth.shape[1] / first.truth.shape[0]
    side = min((WIDTH - BAR - 0.01 - GAP * (columns - 1)) / columns, 2.1 / max(aspect, 0.4))
    tall = side * aspect
    height = 2 * (tall + TITLE) + 0.05
    left = max(0.005, (WIDTH - BAR - columns * side - (columns - 1) * GAP) / 2)
    figure = Figure(figsize=(WIDTH, height))
    fields = field_scale([s.truth for s in shots.values()], [s.prediction for s in shots.values()])
    errors = error_scale(shots.values())

    def place(column: int, row: int) -> tuple[float, float, float, float]:
        return left + column * (side + GAP), height - (row + 1) * (tall + TITLE), side, tall

    if source is not None:
        scale = field_scale([source])
        _panel(figure, place(0, 0), source, scale, theme, "Input")
        x, y, w, _ = place(0, 0)
        _bar(figure, (x, y - 0.16, w, 0.07), scale, horizontal=True)
    _panel(figure, place(lead - 1, 0), first.truth, fields, theme, "Truth")
    for i, (name, shot) in enumerate(shots.items(), lead):
        _panel(figure, place(i, 0), shot.prediction, fields, theme, wrap(name, int(side * 13)))
        _panel(figure, place(i, 1), shot.error, errors, theme, f"error {_percent(shot.relative_l2)}")
    for row, scale in enumerate((fields, errors)):
        x, y, w, h = place(columns - 1, row)
        _bar(figure, (x + w + GAP, y, 0.08, h), scale)
    return figure


def draw_rollout(moments: list[tuple[int, Shots]], theme: Theme) -> Figure:
    """Steps from left to right; truth, predictions and errors from top to bottom."""
    names = list(dict.fromkeys(name for _, shots in moments for name in shots))
    everything = [shot for _, shots in moments for shot in shots.values()]
    shape = everything[0].truth.shape
    gutter, number = 0.95, 0.17
    side = min((WIDTH - BAR - gutter - GAP * (len(moments) - 1)) / len(moments), 1.5)
    tall = side * shape[1] / shape[0]
    rows = 1 + 2 * len(names)
    height = 0.25 + (1 + len(names)) * (tall + GAP) + len(names) * (tall + GAP + number)
    figure = Figure(figsize=(WIDTH, height))
    fields = field_scale([shot.truth for shot in everything], [shot.prediction for shot in everything])
    errors = error_scale(everything)

    def bottom(row: int) -> float:
        return height - 0.25 - (row + 1) * (tall + GAP) + GAP - max(0, row - len(names)) * number

    def say(row: int, text: str) -> None:
        middle = (bottom(row) + tall / 2) / height
        figure.text((gutter - 0.1) / WIDTH, middle, text, ha="right", va="center", linespacing=1.3)

    say(0, "Truth")
    for i, name in enumerate(names):
        say(1 + i, wrap(name, 12))
        say(1 + len(names) + i, f"{wrap(name, 12)}\nerror")
    for column, (step, shots) in enumerate(moments):
        x = gutter + column * (side + GAP)
        truth = next(iter(shots.values())).truth
        _panel(figure, (x, bottom(0), side, tall), truth, fields, theme, f"step {step}")
        for i, name in enumerate(names):
            if name not in shots:
                continue
            _panel(figure, (x, bottom(1 + i), side, tall), shots[name].prediction, fields, theme)
            below = (x, bottom(1 + len(names) + i), side, tall)
            _panel(figure, below, shots[name].error, errors, theme, _percent(shots[name].relative_l2))
    x = gutter + len(moments) * (side + GAP)
    for scale, top, low in ((fields, 0, len(names)), (errors, len(names) + 1, rows - 1)):
        _bar(figure, (x, bottom(low), 0.08, bottom(top) + tall - bottom(low)), scale)
    return figure


def _axes(figure: Figure, box: tuple[float, float, float, float]) -> Axes:
    width, height = figure.get_size_inches()
    x, y, w, h = box
    return figure.add_axes((x / width, y / height, w / width, h / height))


def _panel(
    figure: Figure,
    box: tuple[float, float, float, float],
    array: np.ndarray,
    scale: Scale,
    theme: Theme,
    title: str = "",
) -> None:
    axes = _axes(figure, box)
    cmap = colormaps[scale.cmap].with_extremes(bad=theme.faint)
    values = np.ma.masked_invalid(array.T)
    axes.imshow(
        values, cmap=cmap, vmin=scale.low, vmax=scale.high, origin="lower", aspect="auto", interpolation="nearest"
    )
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set(visible=True, linewidth=0.4)
    axes.set_title(title, fontsize=FONT - 0.5, pad=3, loc="center")


def _bar(figure: Figure, box: tuple[float, float, float, float], scale: Scale, *, horizontal: bool = False) -> None:
    axes = _axes(figure, box)
    bar = figure.colorbar(
        scale.mappable(),
        cax=axes,
        orientation="horizontal" if horizontal else "vertical",
        extend="both" if scale.clipped else "neither",
        ticks=MaxNLocator(3 if horizontal else 5),
    )
    bar.outline.set_linewidth(0.4)  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]
    axes.grid(False)
    axes.tick_params(labelsize=FONT - 1.5, length=2, pad=2)
    bar.formatter.set_powerlimits((-3, 4))  # pyright: ignore[reportAttributeAccessIssue]
    bar.update_ticks()
