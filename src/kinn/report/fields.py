"""Pictures of fields: input, truth, prediction and error of every variant on common colour scales."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

from kinn.report.records import Experiment
from kinn.report.shots import UNLIKE, Scale, Shots, error_scale, field_scale, samples
from kinn.report.style import FONT, WIDTH, Picture, Theme, log_steps, plain_number, wrap
from kinn.report.wording import join

MAX_SAMPLES = 3
MAX_STEPS = 5

GAP = 0.09
BAR = 0.62
TITLE = 0.36
GUTTER, HEAD, NUMBER = 0.95, 0.25, 0.17

COLUMNS = 6
"""Of panels, at most."""

BESIDE = 3
"""Steps of a rollout up to which errors stand beside predictions, not below them."""

LONGEST = 4.0
"""A panel is at most so many times as long as it is wide, whatever the field is."""

Box = tuple[float, float, float, float]
"""Left, bottom, width and height in inches."""


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


def _thin(moments: list[tuple[int, Shots]]) -> list[tuple[int, Shots]]:
    if len(moments) <= MAX_STEPS:
        return moments
    return [moments[i] for i in np.linspace(0, len(moments) - 1, MAX_STEPS).round().astype(int)]


def _sample_picture(experiment: Experiment, name: str, label: str, step: int | None, shots: Shots) -> Picture:
    moment = label if step is None else f"{label}, step {step}"
    drawn = "truth" if all(shot.input is None for shot in shots.values()) else "input, truth"
    caption = (
        f"{experiment.title}. {_title(moment)}: {drawn} and the prediction of every variant; below each its error, "
        "prediction minus truth. "
        f"Truth and predictions share one colour scale, and so do all errors. {_errors(shots)}"
        + _remarks(experiment, shots)
    )
    return Picture(name, "png", caption, _alt(moment, shots), lambda theme: draw_sample(shots, theme))


def _rollout_picture(experiment: Experiment, name: str, label: str, moments: list[tuple[int, Shots]]) -> Picture:
    first, last, all_shots = moments[0][0], moments[-1][0], [shots for _, shots in moments]
    where = "at the right of each its error at the same steps" if len(moments) <= BESIDE else "then each one’s error"
    given = "“Last input” is the newest frame that the models were given. " if _last_input(moments) is not None else ""
    caption = (
        f"{experiment.title}. {_title(label)}, rolled out from step {first} to step {last}. Truth, then each variant’s "
        f"prediction, {where}, prediction minus truth. {given}One colour scale for truth and predictions at all steps, "
        f"another for all errors. {_errors(*all_shots)}" + _remarks(experiment, *all_shots)
    )
    alt = " ".join(_alt(f"{label}, step {step}", shots) for step, shots in (moments[0], moments[-1]))
    return Picture(name, "png", caption, alt, lambda theme: draw_rollout(moments, theme))


def _errors(*moments: Shots) -> str:
    """What must be said of the colours of the errors; nothing where they are as usual."""
    if not error_scale([shot for shots in moments for shot in shots.values()]).log:
        return ""
    return (
        f"They differ more than {UNLIKE} times from panel to panel: their scale is logarithmic and shows their size "
        "without sign. It begins at half the smallest panel’s root mean square; smaller errors have its palest colour. "
    )


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
        near = 1e-3 * np.nanmax(np.abs(first), initial=0.0)  # machines round flows apart
        if any(t.shape != first.shape or not np.allclose(t, first, 0, near, equal_nan=True) for t in others):
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
    """Input, truth and predictions in a row, errors below the predictions; many variants take several such bands."""
    names, first = list(shots), next(iter(shots.values()))
    source = next((shot.input for shot in shots.values() if shot.input is not None), None)
    lead = 1 if source is None else 2
    across = max(1, min(len(names), COLUMNS - lead))
    bands = -(-len(names) // across)
    across = -(-len(names) // bands)
    columns = lead + across
    aspect = _aspect(first.truth.shape)
    side = min((WIDTH - BAR - 0.01 - GAP * (columns - 1)) / columns, 2.1 / max(aspect, 0.4))
    tall = side * aspect
    height = 2 * bands * (tall + TITLE) + 0.05
    left = max(0.005, (WIDTH - BAR - columns * side - (columns - 1) * GAP) / 2)
    figure = Figure(figsize=(WIDTH, height))
    fields = field_scale([s.truth for s in shots.values()], [s.prediction for s in shots.values()])
    errors = error_scale(shots.values())

    def place(column: int, row: int) -> Box:
        return left + column * (side + GAP), height - (row + 1) * (tall + TITLE), side, tall

    if source is not None:
        scale = field_scale([source])
        _panel(figure, place(0, 0), source, scale, theme, "Input")
        x, y, w, _ = place(0, 0)
        _bar(figure, (x, y - 0.16, w, 0.07), scale, horizontal=True)
    _panel(figure, place(lead - 1, 0), first.truth, fields, theme, "Truth")
    for i, name in enumerate(names):
        band, column = divmod(i, across)
        shot, row = shots[name], 2 * band
        _panel(figure, place(lead + column, row), shot.prediction, fields, theme, wrap(name, int(side * 13)))
        _panel(figure, place(lead + column, row + 1), shot.error, errors, theme, f"error {_percent(shot.relative_l2)}")
    for row in range(2 * bands):
        x, y, w, h = place(columns - 1, row)
        _bar(figure, (x + w + GAP, y, 0.08, h), errors if row % 2 else fields)
    return figure


def draw_rollout(moments: list[tuple[int, Shots]], theme: Theme) -> Figure:
    """Steps from left to right; truth and predictions from top to bottom, errors beside or below them."""
    names = list(dict.fromkeys(name for _, shots in moments for name in shots))
    everything = [shot for _, shots in moments for shot in shots.values()]
    newest = _last_input(moments)
    given = [] if newest is None else [newest]
    fields = field_scale([s.truth for s in everything] + given, [s.prediction for s in everything])
    errors = error_scale(everything)
    layout = Layout(len(moments), len(names), everything[0].truth.shape)
    figure = Figure(figsize=(WIDTH, layout.height))

    def say(box: Box, text: str) -> None:
        x, y, _, h = box
        figure.text((x - 0.1) / WIDTH, (y + h / 2) / layout.height, text, ha="right", va="center", linespacing=1.3)

    say(layout.place(0, 0), "Truth")
    for i, name in enumerate(names, 1):
        say(layout.place(i, 0), wrap(name, 12))
        if not layout.beside:
            say(layout.place(i, 0, error=True), f"{wrap(name, 12)}\nerror")
    if given:
        _panel(figure, layout.place(0, 0, error=True), given[0], fields, theme, "last input")
    for column, (step, shots) in enumerate(moments):
        truth = next(iter(shots.values())).truth
        _panel(figure, layout.place(0, column), truth, fields, theme, f"step {step}")
        for i, name in enumerate(names, 1):
            if name not in shots:
                continue
            shot = shots[name]
            _panel(figure, layout.place(i, column), shot.prediction, fields, theme)
            title = _percent(shot.relative_l2)
            title = f"error {title}" if layout.beside else title
            _panel(figure, layout.place(i, column, error=True), shot.error, errors, theme, title)
    for scale, top, error in ((fields, 0, False), (errors, 1, True)):
        x, y, w, h = layout.place(top, len(moments) - 1, error=error)
        low = layout.place(len(names), 0, error=error)[1]
        _bar(figure, (x + w + GAP, low, 0.08, y + h - low), scale)
    return figure


@dataclass(frozen=True)
class Layout:
    """Where the panels of a rollout stand: errors beside the predictions while the steps are few, else below them."""

    steps: int
    variants: int
    shape: tuple[int, ...]

    @property
    def beside(self) -> bool:
        """Whether the errors stand beside the predictions."""
        return self.steps <= BESIDE

    @property
    def side(self) -> float:
        """Width of a panel in inches."""
        columns, bars = (2 * self.steps, 2) if self.beside else (self.steps, 1)
        room = (WIDTH - GUTTER - bars * BAR - GAP * (columns - 1)) / columns
        return min(room, 1.5)

    @property
    def tall(self) -> float:
        """Height of a panel in inches."""
        return self.side * _aspect(self.shape)

    @property
    def height(self) -> float:
        """Of the figure in inches."""
        rows = self.variants + 1
        if self.beside:
            return HEAD + rows * self.tall + self.variants * (GAP + NUMBER) + 0.05
        return HEAD + rows * (self.tall + GAP) + self.variants * (self.tall + GAP + NUMBER)

    def place(self, row: int, column: int, *, error: bool = False) -> Box:
        """The box of a panel; row 0 is the truth, the variants follow."""
        x = GUTTER + column * (self.side + GAP)
        if self.beside:
            x += error * (self.steps * (self.side + GAP) + BAR)
            bottom = self.height - HEAD - (row + 1) * self.tall - row * (GAP + NUMBER)
        else:
            rows = row + error * self.variants
            bottom = self.height - HEAD - (rows + 1) * (self.tall + GAP) + GAP - error * row * NUMBER
        return x, bottom, self.side, self.tall


def _last_input(moments: list[tuple[int, Shots]]) -> np.ndarray | None:
    """The frame before the rollout, where there is room for it and it is a frame of the same field."""
    everything = [shot for _, shots in moments for shot in shots.values()]
    source = next((shot.input for shot in everything if shot.input is not None), None)
    fits = source is not None and len(moments) <= BESIDE and source.shape == everything[0].truth.shape
    return source if fits else None


def _aspect(shape: tuple[int, ...]) -> float:
    """Height of a panel over its width: the field's, but for long ones and lines, which would be threads."""
    return min(max(shape[1] / shape[0], 1 / LONGEST), LONGEST)


def _axes(figure: Figure, box: Box) -> Axes:
    width, height = figure.get_size_inches()
    x, y, w, h = box
    return figure.add_axes((x / width, y / height, w / width, h / height))


def _panel(
    figure: Figure,
    box: Box,
    array: np.ndarray,
    scale: Scale,
    theme: Theme,
    title: str = "",
) -> None:
    axes = _axes(figure, box)
    cmap = colormaps[scale.cmap].with_extremes(bad=theme.faint)
    values = np.ma.masked_invalid(scale.shown(array).T)
    axes.imshow(values, cmap=cmap, norm=scale.norm, origin="lower", aspect="auto", interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set(visible=True, linewidth=0.4)
    axes.set_title(title, fontsize=FONT - 0.5, pad=3, loc="center")


def _bar(figure: Figure, box: Box, scale: Scale, *, horizontal: bool = False) -> None:
    axes = _axes(figure, box)
    bar = figure.colorbar(
        scale.mappable(),
        cax=axes,
        orientation="horizontal" if horizontal else "vertical",
        extend=scale.extend,
        ticks=LogLocator(subs=log_steps(scale.low, scale.high)) if scale.log else MaxNLocator(3 if horizontal else 5),
    )
    bar.outline.set_linewidth(0.4)  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]
    axes.grid(False)
    axes.tick_params(labelsize=FONT - 1.5, length=2, pad=2)
    if scale.log:
        bar.minorticks_off()
        bar.formatter = FuncFormatter(lambda value, _: plain_number(value))
    else:
        bar.formatter.set_powerlimits((-3, 4))  # pyright: ignore[reportAttributeAccessIssue]
    bar.update_ticks()
