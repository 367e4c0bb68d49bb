"""The comparison of the variants of one experiment: a table whose cells are ready to print."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from kinn.report.records import Experiment, Measure, Variant, measure
from kinn.report.schema import Record
from kinn.report.verdict import verdict
from kinn.report.wording import NORMALIZED, metric_name, number_format, split_name

NOTHING = "–"
DIVERGED = "diverged"

MAIN, ASIDE = "", "aside"
METRICS, NORMALISED = "Further metrics", "Metrics in normalised units"
"""Parts of a table: what decides, what a narrow console leaves out of that, and what stands in tables of its own."""


@dataclass(frozen=True)
class Column:
    """A table column: its cells as text, and which rows hold the best value."""

    header: str
    cells: tuple[str, ...]
    numeric: bool = True
    part: str = MAIN
    best: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Table:
    """A comparison of the variants of one experiment, one row each, with the verdict in words below."""

    title: str
    slug: str
    roles: tuple[str, ...]
    columns: tuple[Column, ...]
    notes: tuple[str, ...]

    def main(self) -> Table:
        """The columns that decide: primary metric, ratio, parameters, time."""
        return replace(self, columns=tuple(column for column in self.columns if column.part in (MAIN, ASIDE)))

    def further(self) -> dict[str, Table]:
        """The other metrics as narrower tables by heading, each row under its model's name."""
        tables = {}
        for part, name in ((METRICS, "metrics"), (NORMALISED, "normalised")):
            columns = tuple(column for column in self.columns if column.part == part)
            if columns:
                title, slug = f"{self.title}: {part.lower()}", f"{self.slug}-{name}"
                tables[part] = replace(self, title=title, slug=slug, columns=(self.columns[0], *columns), notes=())
        return tables


def comparison_table(experiment: Experiment) -> Table:
    """Compare the variants of an experiment: primary metric first, then the rest.

    Every number is the mean over seeds, ``±`` the sample standard deviation where there are several. The ratio is
    taken to the baseline with the lowest primary metric, the hardest one to beat.

    Args:
        experiment: variants with their runs.

    Returns:
        The table, ready for any of the renderers in `kinn.report.tables`.
    """
    variants, primary = experiment.variants, experiment.primary_metric
    columns = [
        Column("Model", tuple(v.label for v in variants), numeric=False),
        Column("Role", tuple(v.role for v in variants), numeric=False, part=ASIDE),
    ]
    counts = [len(v.records) for v in variants]
    if max(counts) > 1:
        columns.append(Column("Seeds", tuple(map(str, counts))))
    columns.append(measures(metric_name(primary), [v.metric(primary) for v in variants], rank=experiment.ranks))
    columns.extend(_paper(variants, primary, MAIN))
    columns.extend(_ratio(experiment))
    columns.extend(_against(experiment, primary, ASIDE))
    for split in experiment.splits[1:]:
        header = f"{metric_name(primary)}, {split_name(split)}"
        columns.append(measures(header, [v.metric(primary, split) for v in variants], rank=experiment.ranks))
        columns.extend(_paper(variants, primary, ASIDE, split))
    for name in experiment.other_metrics:
        part = NORMALISED if name.endswith(NORMALIZED) else METRICS
        columns.append(measures(metric_name(name), [v.metric(name) for v in variants], part))
        columns.extend(_paper(variants, name, part))
        columns.extend(_against(experiment, name, part))
    if any(v.parameters is not None for v in variants):
        cells = (NOTHING if v.parameters is None else f"{v.parameters:,}" for v in variants)
        columns.append(Column("Parameters", tuple(cells)))
    columns.extend(_seconds(variants))
    columns.extend(_memory(variants))
    notes = (*verdict(experiment), *experiment.notes)
    return Table(experiment.title, experiment.slug, tuple(v.role for v in variants), tuple(columns), notes)


def measures(header: str, values: Sequence[Measure | None], part: str = MAIN, *, rank: bool = False) -> Column:
    """One number per row, mean and spread over seeds, in one notation; the lowest is best if they are to be ranked."""
    show = number_format([m.mean for m in values if m is not None])
    cells = []
    for m in values:
        if m is None:
            cells.append(NOTHING)
        elif not m.finite:
            cells.append(DIVERGED)
        else:
            cells.append(show(m.mean) if m.spread is None else f"{show(m.mean)} ± {show(m.spread)}")
    best: frozenset[int] = frozenset()
    if rank:
        means = {i: show(m.mean) for i, m in enumerate(values) if m is not None and m.finite}
        lowest = min(means.values(), key=float, default=None)
        best = frozenset(i for i, mean in means.items() if mean == lowest)
    return Column(header, tuple(cells), part=part, best=best)


def _paper(variants: Sequence[Variant], metric: str, part: str, split: str = "test") -> list[Column]:
    where = "" if split == "test" else f"{split_name(split)}, "
    header = f"{where}paper".capitalize() if part in (MAIN, ASIDE) else f"{metric_name(metric)}, paper"
    return published([v.published(metric, split) for v in variants], header, part)


def published(figures: Sequence[float | None], header: str, part: str = MAIN) -> list[Column]:
    """The paper's figures as a column, or none where it has none."""
    if all(figure is None for figure in figures):
        return []
    return [Column(header, tuple(NOTHING if figure is None else f"{figure:.4g}" for figure in figures), part=part)]


def _against(experiment: Experiment, metric: str, part: str) -> list[Column]:
    """How much lower our best variant is than each baseline, the paper's ratio beside it."""
    ours = experiment.ours
    ratios = [v.published_ratio(metric) for v in experiment.variants]
    mine = ours.metric(metric) if ours else None
    if ours is None or all(ratio is None for ratio in ratios):
        return []
    cells = []
    for variant, ratio in zip(experiment.variants, ratios):
        theirs = variant.metric(metric) if variant.role == "baseline" else None
        found = _factor(mine, theirs)
        cells.append(f"{found} (paper: {ratio:g}× lower)" if ratio is not None else found)
    header = f"{ours.name} against it" if part == ASIDE else f"{metric_name(metric)}, {ours.name} against it"
    return [Column(header, tuple(cells), part=part)]


def _factor(mine: Measure | None, theirs: Measure | None) -> str:
    if mine is None or theirs is None or not (mine.finite and theirs.finite and mine.mean > 0 and theirs.mean > 0):
        return NOTHING
    ratio = theirs.mean / mine.mean
    return f"{ratio:.2f}× lower" if ratio >= 1 else f"{1 / ratio:.2f}× higher"


def _ratio(experiment: Experiment) -> list[Column]:
    baseline = experiment.baseline
    reference = baseline.metric(experiment.primary_metric) if baseline else None
    if baseline is None or reference is None or reference.mean == 0 or len(experiment.variants) < 2:
        return []
    cells = []
    for variant in experiment.variants:
        score = variant.metric(experiment.primary_metric)
        cells.append(f"{score.mean / reference.mean:.2f}×" if score and score.finite else NOTHING)
    return [Column(f"vs {baseline.name}", tuple(cells))]


def _seconds(variants: Sequence[Variant]) -> list[Column]:
    times = [v.seconds() for v in variants]
    longest = max((t for t in times if t is not None), default=None)
    if longest is None:
        return []
    unit, seconds = next(((u, s) for u, s in (("s", 1.0), ("min", 60.0)) if longest < 120 * s), ("h", 3600.0))
    cells = tuple(NOTHING if t is None else f"{t / seconds:.1f}" for t in times)
    paper = published([v.published("train_seconds") for v in variants], "Training, paper (s)", ASIDE)
    return [Column(f"Training ({unit})", cells), *paper]


def _memory(variants: Sequence[Variant]) -> list[Column]:
    """The process's where it trained on a CPU, the device's where on a GPU: in columns of their own."""
    columns = []
    for header, on_gpu, key in (
        ("Peak memory (MiB)", False, "peak_rss_bytes"),
        ("Peak GPU memory (MiB)", True, "peak_gpu_bytes"),
    ):
        of = [[r.memory.get(key) for r in v.records if _trained_on_gpu(r) == on_gpu] for v in variants]
        peaks = [measure(value for value in values if value) for values in of]
        if any(peaks):
            cells = tuple(NOTHING if peak is None else f"{peak.mean / 2**20:,.0f}" for peak in peaks)
            columns.append(Column(header, cells, part=METRICS))
    return columns


def _trained_on_gpu(record: Record) -> bool:
    # not every record names its device; of a training on the CPU some count a GPU's memory that it did not use
    return record.device != "cpu" and bool(record.memory.get("peak_gpu_bytes"))
