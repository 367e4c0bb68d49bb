"""Result records grouped by experiment and variant: what all runs say together."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from kinn.report.schema import Record
from kinn.report.wording import NORMALIZED


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


def natural_order(text: str) -> list[tuple[int, int, str]]:
    """Sort key that puts K=2 before K=10."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"([0-9]+)", text)]
