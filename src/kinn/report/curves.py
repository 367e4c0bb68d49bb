"""Pictures of curves: losses against epochs, and errors against the steps of a rollout."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from matplotlib.figure import Figure

from kinn.report.overview import Overview
from kinn.report.panels import Curves, curves_of, draw_panels, ends_in_words, line_chart, points_of, spans_decades
from kinn.report.records import Experiment
from kinn.report.style import Picture, Theme, series

ROLLOUT = (
    "Relative L2 error on test against the step of the rollout: each step takes the model’s own earlier predictions "
    "as its input, so errors accumulate."
)


def loss_pictures(experiment: Experiment) -> Iterator[Picture]:
    """Training and validation loss against epoch, side by side."""
    panels = {
        "Training loss": curves_of(experiment, "epoch", "train_loss"),
        "Validation loss": curves_of(experiment, "epoch", "validation_loss"),
    }
    panels = {title: curves for title, curves in panels.items() if curves}
    if not panels:
        return
    best = {
        variant.name: [r.best_epoch for r in variant.records if points_of(r, "epoch", "validation_loss") is not None]
        for variant in experiment.variants
    }
    many = any(len(runs) > 1 for curves in panels.values() for runs in curves.values())
    caption = (
        f"{' and '.join(title.lower() for title in panels).capitalize()} against epoch, on a logarithmic scale."
        f"{' One line per seed.' if many else ''}"
    )
    if "Validation loss" in panels and any(epoch is not None for epochs in best.values() for epoch in epochs):
        caption += " The dot marks the epoch with the best validation result, whose weights are the ones reported."
    last, shown = list(panels.items())[-1]
    alt = f"Line chart of {last.lower()} against epoch. {ends_in_words(shown)}"

    def draw(theme: Theme) -> Figure:
        styles = series(experiment.variants, theme)
        figure, axes = draw_panels(list(panels.items()), styles, "epoch", log=True)
        for name, runs in panels.get("Validation loss", {}).items():
            for (epochs, values), epoch in zip(runs, best[name]):
                at = np.flatnonzero(epochs == epoch)
                axes[-1].plot(epochs[at], values[at], "o", ms=4, color=styles[name].color, clip_on=False)
        return figure

    yield Picture(f"{experiment.slug}-losses", "svg", caption, alt, draw)


def rollout_pictures(experiment: Experiment) -> Iterator[Picture]:
    """The error of each step of a rollout."""
    curves = curves_of(experiment, "rollout_step", "rollout_relative_l2")
    if not curves:
        return
    caption = " ".join(filter(None, [ROLLOUT, "One line per seed." if _many(curves) else "", experiment.caveat]))
    alt = f"Line chart of relative L2 error against rollout step. {ends_in_words(curves)}"
    draw = line_chart(curves, lambda theme: series(experiment.variants, theme), "rollout step", "Relative L2")
    yield Picture(f"{experiment.slug}-rollout", "svg", caption, alt, draw)


def _many(curves: Curves) -> bool:
    return any(len(runs) > 1 for runs in curves.values())


def overview_pictures(overview: Overview) -> Iterator[Picture]:
    """The error of each step of a rollout, one panel per experiment on a common scale."""
    found = [(e.label, curves_of(e, "rollout_step", "rollout_relative_l2")) for e in overview.experiments]
    panels = [(label, curves) for label, curves in found if curves]
    if len(panels) < 2:
        return
    caption = f"{overview.title}: one panel each, all on the same scale. {ROLLOUT}"
    caption += " One line per seed." if any(_many(curves) for _, curves in panels) else ""
    alt = " ".join(
        ["Line charts of relative L2 error against rollout step.", *(f"{p}: {ends_in_words(c)}" for p, c in panels)]
    )

    def draw(theme: Theme) -> Figure:
        log = spans_decades(*(curves for _, curves in panels))
        return draw_panels(panels, series(overview.variants, theme), "rollout step", "Relative L2", log=log)[0]

    yield Picture(f"{overview.slug}-rollout", "svg", caption, alt, draw)
