"""Pictures of what accuracy costs: error against parameters and training time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import product

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kinn.report.panels import HEIGHT, LEFT, PLOT, add_panel, limits_of_measures
from kinn.report.records import Experiment, Measure, Variant
from kinn.report.style import FONT, WIDTH, Picture, Series, Theme, series
from kinn.report.wording import TIMES_APART, join, metric_name

ALIKE = 1.1
"""Times that costs must differ: else a panel says nothing of them."""

LETTER, LINE, MARK = 0.068, 0.155, 0.1
"""Width of a letter, height of a line and size of a marker in inches."""

Points = dict[str, tuple[float, Measure]]
"""Cost and error by variant."""

Box = tuple[float, float, float, float]
"""Left, bottom, right and top."""


def cost_pictures(experiment: Experiment) -> Iterator[Picture]:
    """Error against parameters and time: two points say no more than the table, so from three variants on."""
    costs: dict[str, Callable[[Variant], float | None]] = {
        "parameters": lambda v: v.parameters,
        "training time in seconds": Variant.seconds,
    }
    panels: dict[str, Points] = {}
    alike = []
    for label, cost in costs.items():
        points = {}
        for variant in experiment.variants:
            score, price = variant.metric(experiment.primary_metric), cost(variant)
            if score is not None and score.finite and score.mean > 0 and price:
                points[variant.name] = (float(price), score)
        if len(points) < 3:
            continue
        prices = [price for price, _ in points.values()]
        if max(prices) > ALIKE * min(prices):
            panels[label] = points
        else:
            alike.append(f"{label}, which differ by {100 * (max(prices) / min(prices) - 1):.1f} % at most")
    if not panels:
        return
    metric = metric_name(experiment.primary_metric)
    caption = (
        f"{metric} on test against {join(list(panels))}: what accuracy costs. Lower and further left is better. "
        "Costs start at zero, and so does the error unless its axis is logarithmic. "
        "Bars show the standard deviation over seeds where there are several."
    )
    if "training time in seconds" in panels:
        caption += " Times are the quickest seed’s, its median epoch times their number."
        caption += f" {TIMES_APART}" if experiment.machines > 1 else ""
    caption += f" {experiment.caveat}" if experiment.caveat else ""
    if alike:
        caption += f" Not drawn: {join(alike)}."
    label, points = next(iter(panels.items()))
    values = [f"{name} {score.mean:.3g} at {price:,.0f}" for name, (price, score) in points.items()]
    alt = f"Scatter chart of {metric} against {label}: {join(values)}."

    def draw(theme: Theme) -> Figure:
        figure = Figure(figsize=(WIDTH, HEIGHT))
        styles = series(experiment.variants, theme)
        width = (WIDTH - LEFT - 0.15 - 0.5 * (len(panels) - 1)) / len(panels)
        for i, (label, points) in enumerate(panels.items()):
            axes = add_panel(figure, LEFT + i * (width + 0.5), width, metric, label)
            _draw_points(axes, points, styles, theme, width)
        return figure

    yield Picture(f"{experiment.slug}-costs", "svg", caption, alt, draw)


def _draw_points(axes: Axes, points: Points, styles: Mapping[str, Series], theme: Theme, width: float) -> None:
    limits_of_measures(axes, [score for _, score in points.values()])
    largest = max(price for price, _ in points.values())
    axes.set_xlim(0, 1.08 * largest)
    axes.locator_params(axis="x", nbins=5)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1e6:g} M" if largest >= 1e6 else f"{value:,g}")
    to_fraction = axes.transScale + axes.transLimits
    places, taken = {}, []
    for name, (price, score) in points.items():
        style, spread = styles[name], score.spread or 0.0
        axes.errorbar(
            price, score.mean, yerr=score.spread, fmt=style.marker, ms=5, color=style.color, lw=1, clip_on=False
        )
        heights = (score.mean, max(score.mean - spread, axes.get_ylim()[0]), score.mean + spread)
        (x, y), (_, bottom), (_, top) = to_fraction.transform([(price, height) for height in heights])
        places[name] = (x * width, y * PLOT)
        taken += [
            _around(x * width, y * PLOT, MARK, MARK),
            (x * width - 0.02, bottom * PLOT, x * width + 0.02, top * PLOT),
        ]
    for name, (x, y) in place_labels(places, taken, width, PLOT).items():
        at = places[name]
        axes.annotate(
            name,
            (at[0] / width, at[1] / PLOT),
            (x / width, y / PLOT),
            xycoords="axes fraction",
            textcoords="axes fraction",
            ha="center",
            va="center",
            fontsize=FONT - 0.5,
            arrowprops={"arrowstyle": "-", "lw": 0.5, "color": theme.ink, "shrinkA": 0, "shrinkB": 3}
            if abs(y - at[1]) > 0.05
            else None,
        )


def place_labels(
    points: Mapping[str, tuple[float, float]], taken: list[Box], width: float, height: float
) -> dict[str, tuple[float, float]]:
    """A place for each name beside its point, as near as leaves it clear of what is drawn and of the other names.

    Args:
        points: by name, where it stands in inches from the lower left of the axes.
        taken: boxes in inches that no name may cover.
        width: of the axes in inches.
        height: of the axes in inches.

    Returns:
        The centres of the names in inches; where there is no room, the place that covers least.
    """
    taken, places = list(taken), {}
    for name, (x, y) in points.items():
        long = LETTER * len(name)
        shifts = sorted(product((1, -1), (0, 1, -1, 2, -2, 3, -3, 4, -4)), key=lambda shift: abs(shift[1]))
        centres = [(x + side * (long / 2 + MARK + 0.05 * bool(up)), y + up * LINE) for side, up in shifts]
        boxes = [_around(*centre, long, LINE) for centre in centres]
        inside = [b[0] >= 0 and b[1] >= 0 and b[2] <= width and b[3] <= height + LINE for b in boxes]
        best = min(range(len(boxes)), key=lambda i: (not inside[i], sum(_shared(boxes[i], box) for box in taken)))
        places[name] = centres[best]
        taken.append(boxes[best])
    return places


def _around(x: float, y: float, width: float, height: float) -> Box:
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def _shared(one: Box, other: Box) -> float:
    wide, tall = (min(one[i + 2], other[i + 2]) - max(one[i], other[i]) for i in (0, 1))
    return max(wide, 0.0) * max(tall, 0.0)
