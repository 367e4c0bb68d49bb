"""Pictures of resolution transfer: models trained at one resolution, evaluated at others."""

from __future__ import annotations

from collections.abc import Iterator

from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from kinn.models.parts import OnTrainingGrid
from kinn.models.registry import model_class, model_names
from kinn.report.panels import (
    HEIGHT,
    LEFT,
    PLOT,
    add_panel,
    draw_points,
    drawable,
    limits_of_measures,
    points_in_words,
)
from kinn.report.records import Experiment
from kinn.report.style import FONT, WIDTH, Picture, Theme, label_ends, label_width, series
from kinn.report.wording import join, metric_name


def transfer_pictures(experiment: Experiment) -> Iterator[Picture]:
    """The primary metric of each variant against the resolution that it is evaluated at."""
    found = {v.name: drawable(v.at_resolutions(experiment.primary_metric)) for v in experiment.variants}
    lines = {name: points for name, points in found.items() if points}
    places = sorted({place for points in lines.values() for place in points})
    if len(places) < 2:
        return
    metric, trained = metric_name(experiment.primary_metric), experiment.resolution
    # of a public file: its test part; of generated data: samples of their own
    samples = "and those of the table’s test."
    if not all("files" in r.data for v in experiment.variants for r in v.records if r.transfer):
        samples = "and not those of the table: even at the training’s the figures differ a little."
    caption = (
        f"{metric} against the resolution (grid points to a side) of the evaluation, on samples that are the same "
        f"functions at every resolution, {samples}"
    )
    if trained in places:
        caption += f" All models were trained at {trained}, marked by the vertical line, and at no other resolution."
    told = [v.name for v in experiment.variants if any(p.get("dt_scale") for r in v.records for p in r.transfer)]
    if told:
        caption += f" {join(told)} {'is' if len(told) == 1 else 'are'} told the ratio of the grid spacings."
        if carried := [v.name for v in experiment.variants if v.name in told and _is_carried(v.records[0].model)]:
            caption += (
                f" {join(carried)} {'works' if len(carried) == 1 else 'work'} on the grid of training, fields being "
                "interpolated there and back."
            )
    counts = {p["samples"] for v in experiment.variants for r in v.records for p in r.transfer if p.get("samples")}
    if len(counts) == 1:
        caption += f" {counts.pop()} samples at each resolution."
    if any(m.spread is not None for points in lines.values() for m in points.values()):
        caption += " Bars show the standard deviation over seeds."
    elsewhere = [v for v in experiment.variants if not v.at_resolutions(experiment.primary_metric)]
    if elsewhere:
        caption += f" Not evaluated at other resolutions: {join([v.name for v in elsewhere])}."
    if absent := [v.name for v in experiment.variants if v.name not in lines and v not in elsewhere]:
        caption += f" Not drawn, for want of a finite result: {join(absent)}."
    alt = f"Line chart of {metric} against resolution. {points_in_words(lines)}."

    def draw(theme: Theme) -> Figure:
        figure = Figure(figsize=(WIDTH, HEIGHT))
        styles, width = series(experiment.variants, theme), WIDTH - LEFT - label_width(lines)
        axes = add_panel(figure, LEFT, width, metric, "resolution")
        axes.set_xscale("log", base=2)
        axes.set_xlim(places[0] / 1.1, places[-1] * 1.1)
        axes.set_xticks(places, [f"{place:g}" for place in places])
        axes.xaxis.set_minor_locator(NullLocator())
        limits_of_measures(axes, [m for points in lines.values() for m in points.values()])
        if trained in places:
            axes.axvline(trained, color=theme.ink, lw=0.8)
            side = 1 if trained < places[-1] else -1
            axes.annotate(
                "training",
                (trained, 1),
                (3 * side, -2),
                xycoords=("data", "axes fraction"),
                textcoords="offset points",
                ha="left" if side > 0 else "right",
                va="top",
                fontsize=FONT - 1,
            )
        for name, points in lines.items():
            draw_points(axes, points, styles[name])
        label_ends(axes, {name: list(points.values())[-1].mean for name, points in lines.items()}, styles, width, PLOT)
        return figure

    yield Picture(f"{experiment.slug}-resolutions", "svg", caption, alt, draw)


def _is_carried(model: str) -> bool:
    """Whether fields are brought to the grid of its training, and back."""
    return model in model_names() and issubclass(model_class(model), OnTrainingGrid)
