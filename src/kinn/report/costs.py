"""Pictures of what accuracy costs: error against parameters and training time."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kinn.report.panels import HEIGHT, LEFT, PLOT, add_panel
from kinn.report.records import Experiment, Measure, Variant
from kinn.report.style import FONT, WIDTH, Picture, Series, Theme, log_axis, series, spread_apart
from kinn.report.wording import join, metric_name


def cost_pictures(experiment: Experiment) -> Iterator[Picture]:
    """Error against parameters and time: two points say no more than the table, so from three variants on."""
    costs: dict[str, Callable[[Variant], float | None]] = {
        "parameters": lambda v: v.parameters,
        "training time in seconds": lambda v: m.mean if (m := v.seconds()) else None,
    }
    panels: dict[str, dict[str, tuple[float, Measure]]] = {}
    for label, cost in costs.items():
        points = {}
        for variant in experiment.variants:
            score, price = variant.metric(experiment.primary_metric), cost(variant)
            if score is not None and score.finite and score.mean > 0 and price:
                points[variant.name] = (float(price), score)
        if len(points) > 2 and len({price for price, _ in points.values()}) > 1:
            panels[label] = points
    if not panels:
        return
    metric = metric_name(experiment.primary_metric)
    caption = (
        f"{metric} on test against {join(list(panels))}: what accuracy costs. Lower and further left is better. "
        "Bars show the standard deviation over seeds where there are several."
    )
    label, points = next(iter(panels.items()))
    values = [f"{name} {score.mean:.3g} at {price:,.0f}" for name, (price, score) in points.items()]
    alt = f"Scatter chart of {metric} against {label}: {join(values)}."

    def draw(theme: Theme) -> Figure:
        figure = Figure(figsize=(WIDTH, HEIGHT))
        styles = series(experiment.variants, theme)
        width = (WIDTH - LEFT - 0.15 - 0.5 * (len(panels) - 1)) / len(panels)
        for i, (label, points) in enumerate(panels.items()):
            axes = add_panel(figure, LEFT + i * (width + 0.5), width, metric, label)
            _draw_points(axes, points, styles, theme)
        return figure

    yield Picture(f"{experiment.slug}-costs", "svg", caption, alt, draw)


def _draw_points(axes: Axes, points: dict[str, tuple[float, Measure]], styles: dict[str, Series], theme: Theme) -> None:
    prices = np.array([price for price, _ in points.values()])
    scores = np.array([score.mean for _, score in points.values()])
    spreads = np.array([score.spread or 0.0 for _, score in points.values()])
    low, high = (scores - spreads).min(), (scores + spreads).max()
    if low > 0 and high / low > 5:
        axes.set_ylim(low / 1.4, high * 1.4)
        log_axis(axes, "y")
    else:
        pad = 0.15 * ((high - low) or high)
        axes.set_ylim(low - pad, high + pad)
    pad = 0.15 * (prices.max() - prices.min())
    axes.set_xlim(prices.min() - pad, prices.max() + pad)
    axes.locator_params(axis="x", nbins=5)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1e6:g} M" if prices.max() >= 1e6 else f"{value:,g}")
    to_fraction = axes.transScale + axes.transLimits
    true = to_fraction.transform(np.column_stack([prices, scores]))
    places = spread_apart(true[:, 1].tolist(), 1.5 * FONT / 72 / PLOT)
    for (name, (price, score)), (x, y), place in zip(points.items(), true, places):
        style = styles[name]
        axes.errorbar(price, score.mean, yerr=score.spread, fmt=style.marker, ms=5, color=style.color, lw=1)
        side = 1 if x < 0.5 else -1
        axes.annotate(
            name,
            (x, y),
            (x + 0.035 * side, place),
            xycoords="axes fraction",
            textcoords="axes fraction",
            ha="left" if side > 0 else "right",
            va="center",
            fontsize=FONT - 0.5,
            arrowprops={"arrowstyle": "-", "lw": 0.5, "color": theme.ink, "shrinkA": 0, "shrinkB": 3}
            if abs(place - y) > 0.02
            else None,
        )
