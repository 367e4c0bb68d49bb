"""Result records, read from files and grouped by experiment and variant."""

from __future__ import annotations

import json
import math
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from kinn.report.schema import ROLES, Record, parse_record
from kinn.report.wording import NORMALIZED

Source: TypeAlias = "str | Path | Mapping[str, Any] | Sequence[str | Path | Mapping[str, Any]]"


@dataclass(frozen=True)
class Measure:
    """Mean and sample standard deviation of one number over seeds; the spread of one seed is unknown (None)."""

    mean: float
    spread: float | None
    count: int

    @property
    def finite(self) -> bool:
        """Whether every seed gave a finite number (a diverged run does not)."""
        return math.isfinite(self.mean)

    def is_apart(self, other: Measure) -> bool | None:
        """Whether two means differ by more than the larger of their spreads; None where one is unknown."""
        if self.spread is None or other.spread is None:
            return None
        return abs(self.mean - other.mean) > max(self.spread, other.spread)


def measure(values: Iterable[float]) -> Measure | None:
    """Summarise one number over seeds, or None when no seed has it.

    >>> measure([1.0, 3.0])
    Measure(mean=2.0, spread=1.4142135623730951, count=2)
    """
    numbers = np.asarray(list(values), dtype=float)
    if numbers.size == 0:
        return None
    if not np.isfinite(numbers).all():
        return Measure(math.nan, None, numbers.size)
    spread = float(numbers.std(ddof=1)) if numbers.size > 1 else None
    return Measure(float(numbers.mean()), spread, numbers.size)


@dataclass(frozen=True)
class Variant:
    """One model configuration of an experiment with its runs, one per seed, in the order of the seeds."""

    name: str
    role: str
    records: tuple[Record, ...]

    def metric(self, name: str, split: str = "test") -> Measure | None:
        """A metric over seeds, or None where no run has it; not finite where a run diverged."""
        of_runs = [(record.metrics.get(split, {}), record.diverged) for record in self.records]
        if not any(name in metrics for metrics, _ in of_runs):
            return None
        found = [metrics.get(name) for metrics, diverged in of_runs if diverged or name in metrics]
        return measure(math.nan if value is None else value for value in found)

    def seconds(self) -> float | None:
        """Training time in seconds of the quickest seed: its median epoch times their number, if the records tell.

        Compiling in the first epoch and other work on the machine say nothing of the variant.
        """
        return min((s for record in self.records if (s := _undisturbed(record)) is not None), default=None)

    @property
    def parameters(self) -> int | None:
        """Number of parameters, those that published counts include and no forward pass applies among them."""
        return next((r.parameters for r in self.records if r.parameters is not None), None)

    @property
    def factor(self) -> tuple[str, float] | None:
        """Name and value of the number that sets it apart from its siblings, such as ("order", 2.0)."""
        found = next((r.factor for r in self.records if r.factor), None)
        return (found["name"], float(found["value"])) if found else None

    @property
    def part(self) -> tuple[int, int] | None:
        """How many samples of how many in the test set it was measured on, if not on all."""
        for record in self.records:
            samples, all_samples = record.test_samples, record.data.get("test")
            if samples is not None and isinstance(all_samples, int) and samples < all_samples:
                return samples, all_samples
        return None

    @property
    def label(self) -> str:
        """Its name, and the part of the test set that its figures are of."""
        return f"{self.name} (on {self.part[0]} of {self.part[1]} samples)" if self.part else self.name

    def at_resolutions(self, name: str) -> dict[int, Measure]:
        """A metric over seeds by the resolution it was evaluated at, coarsest first."""
        found: dict[int, list[float]] = {}
        for place in (place for record in self.records for place in record.transfer):
            if name in place["metrics"]:
                value = place["metrics"][name]
                found.setdefault(place["resolution"], []).append(math.nan if value is None else value)
        if any(record.diverged for record in self.records):
            found = {resolution: [math.nan] for resolution in found}
        return {resolution: m for resolution in sorted(found) if (m := measure(found[resolution]))}

    def published(self, metric: str, split: str = "test") -> float | None:
        """The paper's figure; of another set than test it stands in the record under "<set>.<metric>"."""
        key = metric if split == "test" else f"{split}.{metric}"
        return next((r.paper[key] for r in self.records if r.paper.get(key) is not None), None)

    def published_ratio(self, metric: str) -> float | None:
        """How many times lower the paper's model is than this baseline."""
        return next((r.paper_ratio[metric] for r in self.records if r.paper_ratio.get(metric) is not None), None)


@dataclass(frozen=True)
class Experiment:
    """Variants that were trained for the same task and budget; baselines come first."""

    name: str
    recipe: str
    budget: str
    title: str
    label: str
    primary_metric: str
    variants: tuple[Variant, ...]
    place: int = 1  # among those that would have its name for files

    @property
    def notes(self) -> tuple[str, ...]:
        """What the recipe wants said of its setting."""
        return tuple(dict.fromkeys(note for record in self.records for note in record.notes))

    @property
    def splits(self) -> tuple[str, ...]:
        """The test sets with the primary metric: "test", then others, such as one out of distribution."""
        found = dict.fromkeys(s for r in self.records for s, m in r.metrics.items() if self.primary_metric in m)
        return ("test", *(split for split in found if split not in ("test", "validation")))

    @property
    def resolution(self) -> int | None:
        """Grid points to a side of the data that all variants were trained on, if the records tell."""
        sizes = {str(size): size for record in self.records if (size := record.data.get("resolution")) is not None}
        size = next(iter(sizes.values()), None) if len(sizes) == 1 else None
        size = size[0] if isinstance(size, list) and size else size
        return size if isinstance(size, int) else None

    @property
    def records(self) -> tuple[Record, ...]:
        """Every run, variant by variant."""
        return tuple(record for variant in self.variants for record in variant.records)

    @property
    def machines(self) -> int:
        """How many machines, devices and ways to compile the runs had."""
        timed = [record for record in self.records if record.time]  # a diverged one does not say where it ran
        return len({repr((r.hardware, r.device or "cpu", r.devices, r.compiled or "none")) for r in timed}) or 1

    @property
    def other_metrics(self) -> tuple[str, ...]:
        """Names of the test metrics besides the primary one, without normalised ones that no normaliser changed."""
        names = dict.fromkeys(name for record in self.records for name in record.metrics["test"])
        ordered = [self.primary_metric, *(name for name in names if name != self.primary_metric)]
        return tuple(name for i, name in enumerate(ordered) if i and not self._repeats(name, ordered[:i]))

    def _repeats(self, name: str, earlier: list[str]) -> bool:
        twin = name.removesuffix(NORMALIZED) if name.endswith(NORMALIZED) else name + NORMALIZED
        values = [(record.metrics["test"].get(name), record.metrics["test"].get(twin)) for record in self.records]
        return twin in earlier and all(value == other for value, other in values)

    @property
    def caveat(self) -> str:
        """A sentence on each variant that was not measured on the whole test set."""
        parts = [(v.name, *v.part) for v in self.variants if v.part]
        return " ".join(f"{name} is measured on {n} of the {total} test samples." for name, n, total in parts)

    @property
    def slug(self) -> str:
        """A name for files and anchors."""
        return slug(self.recipe, self.name, self.budget) + (f"-{self.place}" if self.place > 1 else "")

    @property
    def ranks(self) -> bool:
        """Whether its figures rank models: those of a table's few steps for a demonstration do not."""
        return self.budget != "demo" or self.recipe == "demo"

    @property
    def selection(self) -> str:
        """The part on which the best of ours is chosen: "validation", or "test" where a record lacks it."""
        ours = [variant for variant in self.variants if variant.role == "ours" and self._finite(variant, "test")]
        return "validation" if all(self._finite(variant, "validation") for variant in ours) else "test"

    def _finite(self, variant: Variant, part: str) -> bool:
        score = variant.metric(self.primary_metric, part)
        return score is not None and score.finite and score.count == len(variant.records)

    @property
    def baseline(self) -> Variant | None:
        """The baseline with the lowest finite primary metric on test, the hardest one to beat, or None."""
        return self._best("baseline", "test")

    @property
    def ours(self) -> Variant | None:
        """Of our variants with a finite primary metric the one that is lowest on the part `selection`, or None."""
        return self._best("ours", self.selection)

    def _best(self, role: str, part: str) -> Variant | None:
        scored = []
        for variant in self.variants:
            score = variant.metric(self.primary_metric, part)
            if variant.role == role and score is not None and self._finite(variant, "test"):
                scored.append((score.mean, variant.name, variant))
        return min(scored)[2] if scored else None


def _undisturbed(record: Record) -> float | None:
    epoch, epochs = record.time.get("seconds_per_epoch"), len(record.curves.get("epoch", ()))
    return epoch * epochs if epoch is not None and epochs else record.time.get("train_seconds")


def slug(*names: str) -> str:
    """A name for files and anchors, without the words that repeat.

    >>> slug("ns-rollout", "unroll-3", "small")
    'ns-rollout-unroll-3-small'
    """
    return "-".join(dict.fromkeys(re.findall(r"[^\W_]+", " ".join(names).lower()))) or "experiment"


def load_records(source: Source) -> list[Experiment]:
    """Read result records and group them by experiment and variant.

    In a folder every ``*.json`` at any depth is looked at, and files that are no result records (model metadata, for
    example) are passed over; a file that is named must be a record. Of two records of the same run the newer counts.

    Args:
        source: a folder, a file, a record as a mapping, or a list of these.

    Returns:
        The experiments in the order of their names, each with its variants (baselines first).

    Raises:
        FileNotFoundError: there is no such file or folder.
        ValueError: no record was found, or a file is truncated, foreign, written by a newer version, or contradicts
            the others.

    Example:
        >>> run = {"schema": 1, "experiment": "poisson", "variant": "UKNO", "role": "ours", "seed": 0,
        ...        "primary_metric": "relative_l2", "metrics": {"test": {"relative_l2": 0.01}}}
        >>> load_records(run)[0].variants[0].metric("relative_l2").mean
        0.01
    """
    items = [source] if isinstance(source, (str, Path, Mapping)) else list(source)
    records: list[Record] = []
    for item in items:
        if isinstance(item, Mapping):
            records.append(parse_record(item, "the record given"))
        else:
            records.extend(_read(Path(item)))
    if not records:
        raise ValueError(f"no result records in {', '.join(str(item) for item in items) or 'an empty list'}")
    return _group(records)


def _read(path: Path) -> list[Record]:
    if path.is_dir():
        contents = ((file, _parse_json(file)) for file in sorted(path.rglob("*.json")))
        return [parse_record(content, str(file)) for file, content in contents if _looks_like_record(content)]
    if not path.exists():
        raise FileNotFoundError(f"no such file or folder: {path}")
    return [parse_record(_parse_json(path), str(path))]


def _looks_like_record(content: object) -> bool:
    return isinstance(content, Mapping) and {"schema", "experiment", "variant"} <= content.keys()


def _parse_json(path: Path) -> object:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid JSON, it may be truncated: {error}") from None


def natural_order(text: str) -> list[tuple[int, int, str]]:
    """Sort key that puts K=2 before K=10."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"([0-9]+)", text)]


def _group(records: list[Record]) -> list[Experiment]:
    newest: dict[tuple[str, str, str, str, int], Record] = {}
    for record in records:
        run = (record.recipe, record.experiment, record.budget, record.variant, record.seed)
        if run in newest:
            older, newer = sorted((newest[run], record), key=lambda r: r.date)
            alike = older.arguments == newer.arguments and older.data == newer.data
            if record.kind == "evaluation" and not alike:
                raise ValueError(
                    f"{older.origin} and {newer.origin} are both seed {record.seed} of {record.variant}, but of other "
                    f"models or data: {_APART}"
                )
            message = f"{newer.origin} replaces {older.origin}: both are seed {record.seed} of {record.variant}"
            warnings.warn(message, stacklevel=3)
            record = newer
        newest[run] = record
    experiments: dict[tuple[str, str, str], dict[str, list[Record]]] = {}
    for record in newest.values():
        variants = experiments.setdefault((record.recipe, record.experiment, record.budget), {})
        variants.setdefault(record.variant, []).append(record)
    ordered = sorted(experiments.items(), key=lambda item: [natural_order(part) for part in item[0]])
    found, places = [], Counter[str]()
    for experiment in (_experiment(*key, variants) for key, variants in ordered):
        places[experiment.slug] += 1
        found.append(replace(experiment, place=places[experiment.slug]))
    return found


_APART = "give them names of their own (kinn evaluate --name), or a folder of their own"


def _experiment(recipe: str, name: str, budget: str, groups: dict[str, list[Record]]) -> Experiment:
    metrics = sorted({record.primary_metric for runs in groups.values() for record in runs})
    if len(metrics) > 1:
        raise ValueError(f"the records of {name} disagree on their primary metric: {', '.join(metrics)}")
    evaluated = {repr(r.data.get("file")): r.origin for runs in groups.values() for r in runs if r.kind == "evaluation"}
    if len(evaluated) > 1:
        raise ValueError(f"{' and '.join(evaluated.values())} are of different data under one name: {_APART}")
    variants = []
    for variant, runs in groups.items():
        for what in ("role", "parameters", "factor"):
            values = {str(getattr(record, what)) for record in runs} - {"{}", "None"}  # a diverged run knows less
            if len(values) > 1:
                files = ", ".join(record.origin for record in runs)
                raise ValueError(
                    f"the records of {variant} in {name} disagree on {what}, {sorted(values)}: {_APART}; {files}"
                )
        variants.append(Variant(variant, runs[0].role, tuple(sorted(runs, key=lambda r: r.seed))))
    variants.sort(key=lambda v: (ROLES.index(v.role), natural_order(v.name)))
    title = next((r.title for runs in groups.values() for r in runs if r.title), name)
    label = next((r.experiment_label for runs in groups.values() for r in runs if r.experiment_label), name)
    return Experiment(name, recipe, budget, title, label, metrics[0], tuple(variants))
