"""Pictures of error against the number that sets variants apart: the order of the cascade, the routes of the scan."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from matplotlib.figure import Figure

from kinn.report.panels import (
    HEIGHT,
    LEFT,
    PLOT,
    Points,
    add_panel,
    draw_points,
    drawable,
    limits_of_measures,
    points_in_words,
)
from kinn.report.records import Experiment, Measure, Variant, slug
from kinn.report.style import DASHES, MARKERS, WIDTH, Picture, Series, Theme, label_ends, label_width
from kinn.report.wording import FACTOR_NAMES, join, metric_name, split_name


@dataclass(frozen=True)
class Lines:
    """What one picture shows, each line under its name; all of one test set have one colour."""

    splits: tuple[str, ...]
    measured: dict[str, tuple[str, Points]]
    level: dict[str, tuple[str, Measure]]
    paper: dict[str, tuple[str, dict[float, float]]]

    def styles(self, theme: Theme) -> dict[str, Series]:
        """Lines through points solid, levels dashed, the paper's figures dotted."""
        styles = {}
        of = {name: split for kind in (self.measured, self.level, self.paper) for name, (split, _) in kind.items()}
        for i, split in enumerate(self.splits):
            color = theme.ours[i % len(theme.ours)]
            levels = [name for name in self.level if of[name] == split]
            for name in (name for name, its in of.items() if its == split):
                if name in self.measured:
                    styles[name] = Series(color, "solid", MARKERS["ours"][i % len(MARKERS["ours"])])
                elif name in self.paper:
                    styles[name] = Series(color, (0, (1, 1)), "x")
                else:
                    greys, dashes, j = theme.baseline, DASHES["baseline"], levels.index(name)
                    alone = greys[j % len(greys)] if len(self.splits) == 1 else color
                    styles[name] = Series(alone, dashes[j % len(dashes)], "x")
        return styles


def factor_pictures(experiment: Experiment) -> Iterator[Picture]:
    """The primary metric against each number in which variants differ, those without it as horizontal lines."""
    for name in dict.fromkeys(v.factor[0] for v in experiment.variants if v.factor):
        family = [v for v in experiment.variants if v.factor and v.factor[0] == name]
        lines = _lines(experiment, family)
        places = sorted({x for _, points in lines.measured.values() for x in points})
        if len(places) > 1:
            yield _picture(experiment, name, family, lines, places)


def _lines(experiment: Experiment, family: list[Variant]) -> Lines:
    metric, splits = experiment.primary_metric, experiment.splits
    lines = Lines(splits, {}, {}, {})
    for split in splits:
        ending = f", {split_name(split)}" if len(splits) > 1 else ""
        for label, variants in _by_model(family).items():
            values = {v.factor[1]: v.metric(metric, split) for v in variants if v.factor}
            if points := drawable(values):
                lines.measured[f"{label}{ending}"] = (split, points)
            told = {v.factor[1]: figure for v in variants if v.factor and (figure := v.published(metric, split))}
            if told:
                lines.paper[f"{label}{ending}, paper"] = (split, dict(sorted(told.items())))
        for variant in experiment.variants:
            score = None if variant in family else variant.metric(metric, split)
            if score is not None and score.finite and score.mean > 0:
                lines.level[f"{variant.name}{ending}"] = (split, score)
    return lines


def _by_model(family: list[Variant]) -> dict[str, list[Variant]]:
    """One line of variants, or one for each model where their numbers repeat."""
    models = list(dict.fromkeys(variant.records[0].model for variant in family))
    if len({v.factor[1] for v in family if v.factor}) < len(family):
        return {model: [v for v in family if v.records[0].model == model] for model in models}
    return {(len(models) == 1 and models[0]) or "variants": family}


def _picture(experiment: Experiment, name: str, family: list[Variant], lines: Lines, places: list[float]) -> Picture:
    metric, axis = metric_name(experiment.primary_metric), FACTOR_NAMES.get(name, name.replace("_", " "))
    caption = f"{metric} against {axis}"
    caption += f", on {join([split_name(split) for split in lines.splits])}." if len(lines.splits) > 1 else ", on test."
    if lines.level:
        others = dict.fromkeys(v.name for v in experiment.variants if v not in family)
        caption += f" Dashed horizontal lines: {join(list(others))}, to which this number does not apply."
    if lines.paper:
        caption += " Dotted: the paper’s figures."
    if any(len(v.records) > 1 for v in experiment.variants):
        caption += f" {'Bars and bands' if lines.level else 'Bars'} show the standard deviation over seeds."
    absent = [v.name for v in family if v.factor and v.factor[1] not in places]
    if absent:
        caption += f" Not drawn, for want of a finite result: {join(absent)}."
    points = {label: points for label, (_, points) in lines.measured.items()}
    alt = f"Line chart of {metric} against {axis}. {points_in_words(points)}."
    levels = {label: score for label, (_, score) in lines.level.items()}
    figures = {label: told for label, (_, told) in lines.paper.items()}

    def draw(theme: Theme) -> Figure:
        figure = Figure(figsize=(WIDTH, HEIGHT))
        styles = lines.styles(theme)
        width = WIDTH - LEFT - label_width(styles)
        axes = add_panel(figure, LEFT, width, metric, axis)
        span = places[-1] - places[0]
        axes.set_xlim(places[0] - 0.06 * span, places[-1] + 0.06 * span)
        axes.set_xticks(places, [f"{place:g}" for place in places])
        told = [value for values in figures.values() for value in values.values()]
        measured = [m for values in points.values() for m in values.values()]
        # a far baseline is not to press the variants into one line
        limits_of_measures(axes, [*measured, *levels.values()], told, beyond=2)
        for label, score in levels.items():
            axes.axhline(score.mean, **styles[label].line(), lw=1.1)
            if score.spread:
                low, high = score.mean - score.spread, score.mean + score.spread
                axes.axhspan(low, high, color=styles[label].color, alpha=0.12, lw=0)
        for label, values in figures.items():
            style = styles[label]
            axes.plot(list(values), list(values.values()), **style.line(), marker=style.marker, ms=4.5, lw=1.1)
        for label, values in points.items():
            draw_points(axes, values, styles[label])
        last = {label: list(values.values())[-1].mean for label, values in points.items()}
        last |= {label: score.mean for label, score in levels.items()}
        last |= {label: list(values.values())[-1] for label, values in figures.items()}
        label_ends(axes, last, styles, width, PLOT)
        return figure

    return Picture(f"{experiment.slug}-{slug(name)}", "svg", caption, alt, draw)
