"""Pictures of curves: losses against epochs, errors against steps, parameters, time and wavenumber."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kinn.report.fields import samples
from kinn.report.records import Experiment, Measure, Variant
from kinn.report.schema import Record
from kinn.report.style import (
    FONT,
    WIDTH,
    Picture,
    Series,
    Theme,
    label_ends,
    label_width,
    log_axis,
    series,
    spread_apart,
)
from kinn.report.wording import join, metric_name

HEIGHT = 2.7
LEFT = 0.55

Curve = tuple[np.ndarray, np.ndarray]
Curves = dict[str, list[Curve]]
"""By variant, one curve per run."""


def curve_pictures(experiment: Experiment) -> list[Picture]:
    """Every picture of curves that the records hold enough for."""
    makers = (_losses, _rollout_errors, _costs, _spectra)
    return [picture for maker in makers for picture in maker(experiment)]


def _curves(experiment: Experiment, x: str, y: str) -> Curves:
    curves: Curves = {}
    for variant in experiment.variants:
        for record in variant.records:
            if (points := _points(record, x, y)) is not None:
                curves.setdefault(variant.name, []).append(points)
    return curves


def _points(record: Record, x: str, y: str) -> Curve | None:
    """What a logarithmic axis can show of a curve, or None."""
    values = np.asarray(record.curves.get(y) or [], dtype=float)
    places = np.asarray(record.curves.get(x) or np.arange(1, values.size + 1), dtype=float)
    shown = np.isfinite(values) & (values > 0)
    return (places[shown], values[shown]) if shown.any() else None


def _losses(experiment: Experiment) -> Iterator[Picture]:
    panels = {
        "Training loss": _curves(experiment, "epoch", "train_loss"),
        "Validation loss": _curves(experiment, "epoch", "validation_loss"),
    }
    panels = {title: curves for title, curves in panels.items() if curves}
    if not panels:
        return
    best = {
        variant.name: [r.best_epoch for r in variant.records if _points(r, "epoch", "validation_loss") is not None]
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
    alt = f"Line chart of {last.lower()} against epoch. {_ends_in_words(shown)}"

    def draw(theme: Theme) -> Figure:
        figure = Figure(figsize=(WIDTH, HEIGHT))
        styles = series(experiment, theme)
        count = len(panels)
        width = (WIDTH - LEFT - label_width(shown) - 0.2 * (count - 1)) / count
        everything = [pair for curves in panels.values() for runs in curves.values() for pair in runs]
        for i, (title, curves) in enumerate(panels.items()):
            axes = _axes(figure, LEFT + i * (width + 0.2), width, title, "epoch")
            _limits(axes, everything, log=True)
            _draw_lines(axes, curves, styles)
            if i:
                axes.tick_params(axis="y", labelleft=False)
            if title == "Validation loss":
                for name, runs in curves.items():
                    for (epochs, values), epoch in zip(runs, best[name]):
                        at = np.flatnonzero(epochs == epoch)
                        axes.plot(epochs[at], values[at], "o", ms=4, color=styles[name].color, clip_on=False)
            if i == count - 1:
                label_ends(axes, _ends(curves), styles, width, HEIGHT - 0.75)
        return figure

    yield Picture(f"{experiment.slug}-losses", "svg", caption, alt, draw)


def _rollout_errors(experiment: Experiment) -> Iterator[Picture]:
    curves = _curves(experiment, "rollout_step", "rollout_relative_l2")
    if not curves:
        return
    many = any(len(runs) > 1 for runs in curves.values())
    caption = (
        "Relative L2 error on test against the step of the rollout: each step takes the model’s own earlier "
        f"predictions as its input, so errors accumulate.{' One line per seed.' if many else ''}"
    )
    alt = f"Line chart of relative L2 error against rollout step. {_ends_in_words(curves)}"
    yield Picture(
        f"{experiment.slug}-rollout", "svg", caption, alt, _single(experiment, curves, "rollout step", "Relative L2")
    )


def _single(
    experiment: Experiment, curves: Curves, x_label: str, title: str, *, log_x: bool = False
) -> Callable[[Theme], Figure]:
    def draw(theme: Theme) -> Figure:
        figure = Figure(figsize=(WIDTH, HEIGHT))
        styles = {**series(experiment, theme), "truth": Series(theme.ink, "solid", "o")}
        width = WIDTH - LEFT - label_width(curves)
        axes = _axes(figure, LEFT, width, title, x_label)
        everything = [pair for runs in curves.values() for pair in runs]
        values = np.concatenate([pair[1] for pair in everything])
        _limits(axes, everything, log=log_x or values.max() > 20 * values.min(), log_x=log_x)
        _draw_lines(axes, curves, styles)
        label_ends(axes, _ends(curves), styles, width, HEIGHT - 0.75)
        return figure

    return draw


def _costs(experiment: Experiment) -> Iterator[Picture]:
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
        styles = series(experiment, theme)
        width = (WIDTH - LEFT - 0.15 - 0.5 * (len(panels) - 1)) / len(panels)
        for i, (label, points) in enumerate(panels.items()):
            axes = _axes(figure, LEFT + i * (width + 0.5), width, metric, label)
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
    axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1e6:g} M" if prices.max() >= 1e6 else f"{value:,.0f}")
    to_fraction = axes.transScale + axes.transLimits
    true = to_fraction.transform(np.column_stack([prices, scores]))
    places = spread_apart(true[:, 1].tolist(), 1.5 * FONT / 72 / (HEIGHT - 0.75))
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


def _spectra(experiment: Experiment) -> Iterator[Picture]:
    truths: list[Curve] = []
    errors: dict[str, list[Curve]] = {}
    for steps in samples(experiment).values():
        step = max((s for s in steps if s is not None), default=None)
        for i, (name, shot) in enumerate(steps[step].items()):
            if min(shot.truth.shape) < 8 or not np.isfinite(shot.error).all():
                continue
            errors.setdefault(name, []).append(power_spectrum(shot.error))
            truths += [power_spectrum(shot.truth)] if i == 0 else []
    curves = {"truth": truths, **errors}
    curves = {name: _average(runs) for name, runs in curves.items() if runs}
    if not errors or not truths:
        return
    curves = {name: runs for name, runs in curves.items() if runs[0][1].size > 1}
    caption = (
        "Power spectrum of the error beside that of the truth, averaged over directions and over the samples shown "
        f"({len(truths)}; of a rollout, the last step). Where a variant’s line meets the truth’s, nothing of that "
        "scale is predicted; small wavenumbers are large structures."
    )
    alt = f"Line chart of power against wavenumber for the truth and the errors of {join(list(errors))}."
    yield Picture(
        f"{experiment.slug}-spectrum",
        "svg",
        caption,
        alt,
        _single(experiment, curves, "wavenumber", "Power of the truth and of each error", log_x=True),
    )


def power_spectrum(field: np.ndarray) -> Curve:
    """Radially averaged power spectrum of a field on a unit square.

    Args:
        field: values of shape (nx, ny).

    Returns:
        Wavenumbers 1, 2, ... up to half the shorter side, and for each the mean of ``|FFT / (nx ny)|^2`` over the ring
        of modes whose modulus rounds to it.
    """
    power = np.abs(np.fft.fft2(field) / field.size) ** 2
    kx, ky = (np.fft.fftfreq(n, 1 / n) for n in field.shape)
    ring = np.hypot(kx[:, None], ky[None, :]).round().astype(int)
    highest = min(field.shape) // 2
    total = np.bincount(ring.ravel(), power.ravel())[1 : highest + 1]
    count = np.bincount(ring.ravel())[1 : highest + 1]
    return np.arange(1, highest + 1, dtype=float), total / count


def _average(runs: list[Curve]) -> list[Curve]:
    shortest = min(runs, key=lambda run: run[0].size)[0]
    values = np.mean([values[: shortest.size] for _, values in runs], axis=0)
    shown = values > 1e-12 * values.max()  # what lies below is rounding of the five digits kept
    return [(shortest[shown], values[shown])]


def _axes(figure: Figure, left: float, width: float, title: str, x_label: str) -> Axes:
    w, h = figure.get_size_inches()
    axes = figure.add_axes((left / w, 0.45 / h, width / w, (h - 0.75) / h))
    axes.set_title(title, fontweight="bold", pad=6)
    axes.set_xlabel(x_label)
    return axes


def _limits(axes: Axes, pairs: list[Curve], *, log: bool, log_x: bool = False) -> None:
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


def _draw_lines(axes: Axes, curves: Curves, styles: dict[str, Series]) -> None:
    for name, runs in curves.items():
        for x, y in runs:
            dot = {"marker": styles[name].marker, "ms": 3} if x.size == 1 else {}
            axes.plot(x, y, **styles[name].line(), lw=1.6 if len(runs) == 1 else 0.9, clip_on=x.size > 1, **dot)


def _ends(curves: Curves) -> dict[str, float]:
    return {name: float(np.exp(np.mean([np.log(values[-1]) for _, values in runs]))) for name, runs in curves.items()}


def _ends_in_words(curves: Curves) -> str:
    return f"At the end: {join([f'{name} {end:.3g}' for name, end in _ends(curves).items()])}."
