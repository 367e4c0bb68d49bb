"""Line charts with the names of their lines beside them: axes in inches, common limits, one line per run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kinn.report.records import Experiment, Measure
from kinn.report.schema import Record
from kinn.report.style import WIDTH, Series, Theme, label_ends, label_width, log_axis
from kinn.report.wording import join

HEIGHT = 2.7
"""Of a row of panels, in inches."""

PLOT = HEIGHT - 0.75
"""Of the axes in it."""

LEFT = 0.55
GAP = 0.2
"""Between panels side by side, in inches."""

PANELS = 4
"""At most, side by side."""

Curve = tuple[np.ndarray, np.ndarray]
Curves = dict[str, list[Curve]]
"""By variant, one curve per run."""


def curves_of(experiment: Experiment, x: str, y: str) -> Curves:
    """The curves that the records hold under two names, as far as a logarithmic axis can show them."""
    curves: Curves = {}
    for variant in experiment.variants:
        for record in variant.records:
            if (points := points_of(record, x, y)) is not None:
                curves.setdefault(variant.name, []).append(points)
    return curves


def points_of(record: Record, x: str, y: str) -> Curve | None:
    """What a logarithmic axis can show of a curve, or None."""
    values = np.asarray(record.curves.get(y) or [], dtype=float)
    places = np.asarray(record.curves.get(x) or np.arange(1, values.size + 1), dtype=float)
    shown = np.isfinite(values) & (values > 0)
    return (places[shown], values[shown]) if shown.any() else None


def line_chart(
    curves: Curves, styles: Callable[[Theme], Mapping[str, Series]], x_label: str, title: str, *, log_x: bool = False
) -> Callable[[Theme], Figure]:
    """One panel with every curve; the vertical axis is logarithmic where the values span more than a factor of 20."""

    def draw(theme: Theme) -> Figure:
        figure = Figure(figsize=(WIDTH, HEIGHT))
        width = WIDTH - LEFT - label_width(curves)
        axes = add_panel(figure, LEFT, width, title, x_label)
        set_limits(axes, flatten_curves(curves), log=log_x or spans_decades(curves), log_x=log_x)
        draw_lines(axes, curves, styles(theme))
        label_ends(axes, ends(curves), styles(theme), width, PLOT)
        return figure

    return draw


def draw_panels(
    panels: Sequence[tuple[str, Curves]],
    styles: Mapping[str, Series],
    x_label: str,
    y_label: str = "",
    *,
    log: bool,
) -> tuple[Figure, list[Axes]]:
    """Panels with their titles in rows on one scale; the last one of a row names the lines of all up to it."""
    groups, columns = [curves for _, curves in panels], min(len(panels), PANELS)
    figure = Figure(figsize=(WIDTH, -(-len(panels) // columns) * HEIGHT))
    room = label_width(name for curves in groups for name in curves)
    width = (WIDTH - LEFT - room - GAP * (columns - 1)) / columns
    drawn = []
    for i, (title, curves) in enumerate(panels):
        row, column = divmod(i, columns)
        axes = add_panel(figure, LEFT + column * (width + GAP), width, title, x_label, row)
        set_limits(axes, flatten_curves(*groups), log=log)
        draw_lines(axes, curves, styles)
        if column:
            axes.tick_params(axis="y", labelleft=False)
        else:
            axes.set_ylabel(y_label, labelpad=2)
        if column == columns - 1 or i == len(panels) - 1:
            named = {name: runs for earlier in groups[: i + 1] for name, runs in earlier.items()}
            label_ends(axes, ends(named), styles, width, PLOT)
        drawn.append(axes)
    return figure, drawn


def flatten_curves(*groups: Curves) -> list[Curve]:
    """The curves of all runs."""
    return [curve for curves in groups for runs in curves.values() for curve in runs]


def spans_decades(*groups: Curves) -> bool:
    """Whether the values span more than a linear axis shows."""
    values = np.concatenate([values for _, values in flatten_curves(*groups)])
    return bool(values.max() > 20 * values.min())


def add_panel(figure: Figure, left: float, width: float, title: str, x_label: str, row: int = 0) -> Axes:
    """Axes at a place in inches, in a row from the top."""
    w, h = figure.get_size_inches()
    axes = figure.add_axes((left / w, (h - (row + 1) * HEIGHT + 0.45) / h, width / w, PLOT / h))
    axes.set_title(title, fontweight="bold", pad=6)
    axes.set_xlabel(x_label)
    return axes


def set_limits(axes: Axes, pairs: Iterable[Curve], *, log: bool, log_x: bool = False) -> None:
    """Limits that hold all curves; a linear vertical axis starts at zero."""
    pairs = list(pairs)
    x, y = (np.concatenate([pair[i] for pair in pairs]) for i in (0, 1))
    axes.set_xlim(x.min(), x.max() if x.max() > x.min() else x.min() + 1)
    if log_x:
        log_axis(axes, "x")
    else:
        axes.locator_params(axis="x", integer=True)
    if log:
        axes.set_ylim(y.min() / 1.25, y.max() * 1.25)
        log_axis(axes, "y")
    else:
        axes.set_ylim(0, 1.08 * y.max())


def draw_lines(axes: Axes, curves: Curves, styles: Mapping[str, Series]) -> None:
    """One line per run, thinner where a variant has several; a single point as a marker."""
    for name, runs in curves.items():
        for x, y in runs:
            dot = {"marker": styles[name].marker, "ms": 3} if x.size == 1 else {}
            axes.plot(x, y, **styles[name].line(), lw=1.6 if len(runs) == 1 else 0.9, clip_on=x.size > 1, **dot)


Points = Mapping[float, Measure]
"""Mean and spread by where they stand on the horizontal axis."""


def drawable(measures: Mapping[Any, Measure | None]) -> dict[float, Measure]:
    """Those that a run reached with a finite, positive number, in order of their places."""
    return {float(x): m for x, m in sorted(measures.items()) if m is not None and m.finite and m.mean > 0}


def draw_points(axes: Axes, points: Points, style: Series) -> None:
    """A line through the means, with bars where seeds spread."""
    x, means = list(points), [m.mean for m in points.values()]
    spreads = [m.spread or 0.0 for m in points.values()]
    bars = spreads if any(spreads) else None
    axes.errorbar(x, means, bars, **style.line(), marker=style.marker, ms=4.5, lw=1.4, elinewidth=0.9, clip_on=False)


def limits_of_measures(
    axes: Axes, measures: Iterable[Measure], further: Iterable[float] = (), *, beyond: float = 8
) -> None:
    """A vertical axis for means with their bars: logarithmic where they differ beyond a factor, else from zero."""
    found = list(measures)
    means = [*(m.mean for m in found), *further]
    top = max([*(m.mean + (m.spread or 0.0) for m in found), *further])
    if max(means) > beyond * min(means):
        low = min([*(m.mean - (m.spread or 0.0) for m in found if m.mean > (m.spread or 0.0)), *means])
        axes.set_ylim(low / 1.25, top * 1.25)
        log_axis(axes, "y")
    else:
        axes.set_ylim(0, 1.08 * top)


def points_in_words(lines: Mapping[str, Points]) -> str:
    """Every point, for those who do not see them."""
    return "; ".join(
        f"{name}: {join([f'{m.mean:.3g} at {x:g}' for x, m in points.items()])}" for name, points in lines.items()
    )


def ends(curves: Curves) -> dict[str, float]:
    """By variant, the geometric mean over its runs of where their lines end."""
    return {name: float(np.exp(np.mean([np.log(values[-1]) for _, values in runs]))) for name, runs in curves.items()}


def ends_in_words(curves: Curves) -> str:
    """Where the lines end, for those who do not see them."""
    return f"At the end: {join([f'{name} {end:.3g}' for name, end in ends(curves).items()])}."
