"""Tables across: the variants of a recipe over its experiments, and those of an experiment over resolutions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from kinn.report.comparison import NOTHING, Column, Table, measures, published
from kinn.report.records import Experiment, Measure, Variant, natural_order, slug
from kinn.report.schema import ROLES
from kinn.report.wording import RANKS_NOTHING, gap, join, metric_name


@dataclass(frozen=True)
class Overview:
    """Experiments of one recipe and budget that train the same variants under other settings."""

    experiments: tuple[Experiment, ...]

    @property
    def metric(self) -> str:
        """The primary metric of every experiment."""
        return self.experiments[0].primary_metric

    @property
    def labels(self) -> tuple[str, ...]:
        """The experiments in a word or two each."""
        return tuple(experiment.label for experiment in self.experiments)

    @property
    def slug(self) -> str:
        """A name for files and anchors."""
        return slug(self.experiments[0].recipe, self.experiments[0].budget, "overview")

    @property
    def title(self) -> str:
        """What the titles begin with alike, and the labels."""
        titles, labels = [experiment.title for experiment in self.experiments], self.labels
        stems = {title.removesuffix(f" {label}") for title, label in zip(titles, labels)}
        if len(stems) == 1:
            return f"{stems.pop()} {join(labels)}"
        parts = zip(*(re.split(r"(?<=[:,]) ", title) for title in titles))
        common = " ".join(words[0] for words in takewhile(lambda words: len(set(words)) == 1, parts)).rstrip(":,")
        return f"{common or self.experiments[0].recipe}: {join(labels)}"

    @property
    def variants(self) -> tuple[Variant, ...]:
        """One of each name, baselines first."""
        named = {v.name: v for experiment in reversed(self.experiments) for v in experiment.variants}
        return tuple(sorted(named.values(), key=lambda v: (ROLES.index(v.role), natural_order(v.name))))

    def scores(self, experiment: Experiment) -> list[Variant | None]:
        """The variants of an experiment in the order of `variants`; None for those that it lacks."""
        named = {variant.name: variant for variant in experiment.variants}
        return [named.get(variant.name) for variant in self.variants]


def overviews(experiments: Sequence[Experiment]) -> list[Overview]:
    """The recipes that deserve an overview: two experiments or more, one primary metric, a variant in common."""
    groups: dict[tuple[str, str, str], list[Experiment]] = {}
    for experiment in experiments:
        if experiment.recipe:
            key = (experiment.recipe, experiment.budget, experiment.primary_metric)
            groups.setdefault(key, []).append(experiment)
    found = []
    for group in groups.values():
        names = [{variant.name for variant in experiment.variants} for experiment in group]
        if len(group) > 1 and set.intersection(*names):
            found.append(Overview(tuple(group)))
    return found


def overview_table(overview: Overview) -> Table:
    """The primary metric of each variant in each experiment, the paper's figure beside it where there is one."""
    metric, variants = overview.metric, overview.variants
    columns = [
        Column("Model", tuple(v.name for v in variants), numeric=False),
        Column("Role", tuple(v.role for v in variants), numeric=False),
    ]
    for experiment in overview.experiments:
        there = overview.scores(experiment)
        columns.append(measures(experiment.label, [v and v.metric(metric) for v in there], rank=experiment.ranks))
        columns.extend(published([v and v.published(metric) for v in there], f"{experiment.label}, paper"))
    title = f"{overview.title}. {metric_name(metric)} on test"
    return Table(title, overview.slug, tuple(v.role for v in variants), tuple(columns), tuple(_tally(overview)))


def _tally(overview: Overview) -> list[str]:
    """In how many experiments ours was better, and by how much in each."""
    if not overview.experiments[0].ranks:
        return [RANKS_NOTHING]
    metric = overview.metric
    won, details = 0, []
    for experiment in overview.experiments:
        ours, baseline = experiment.ours, experiment.baseline
        mine, theirs = (v.metric(metric) if v else None for v in (ours, baseline))
        if ours is None or baseline is None or mine is None or theirs is None:
            details.append(f"{experiment.label}: no finite results to compare")
            continue
        decided = mine.is_apart(theirs) is not False
        won += mine.mean < theirs.mean and decided
        apart = "level with"
        if mine.mean != theirs.mean:
            falls = mine.mean < theirs.mean
            apart = f"{gap(*sorted((mine.mean, theirs.mean)), falls=falls)} than"
        within = "" if decided else ", within the spread over seeds"
        details.append(f"{experiment.label}: {ours.name} is {apart} {baseline.name}{within}")
    count = len(overview.experiments)
    return [f"By {metric_name(metric)} ours was better in {won} of {count}. {'; '.join(details)}."]


def transfer_table(experiment: Experiment) -> Table | None:
    """The primary metric of models trained at one resolution and evaluated at several, or None without any.

    Args:
        experiment: variants with their runs.

    Returns:
        One column per resolution; the last says how much the error grows from that of the training to the finest.
    """
    found = [v.at_resolutions(experiment.primary_metric) for v in experiment.variants]
    resolutions = sorted({resolution for places in found for resolution in places})
    if not resolutions:
        return None
    trained, finest = experiment.resolution, resolutions[-1]
    columns = [Column("Model", tuple(v.name for v in experiment.variants), numeric=False)]
    for resolution in resolutions:
        header = f"{resolution} (training)" if resolution == trained else str(resolution)
        columns.append(measures(header, [places.get(resolution) for places in found], rank=experiment.ranks))
    if trained in resolutions and trained != finest:
        cells = tuple(_growth(places.get(trained), places.get(finest)) for places in found)
        columns.append(Column(f"{finest} vs {trained}", cells))
    title = f"{experiment.title}: {metric_name(experiment.primary_metric)} at other resolutions"
    roles = tuple(v.role for v in experiment.variants)
    return Table(title, f"{experiment.slug}-resolutions", roles, tuple(columns), ())


def _growth(first: Measure | None, last: Measure | None) -> str:
    if first is None or last is None or not (first.finite and last.finite) or first.mean <= 0:
        return NOTHING
    return f"{last.mean / first.mean:.2f}×"
