"""What a recipe is made of: experiments, each one data set on which several variants are trained alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from kinn.train import OptimizerSettings, Rollout, TrainSettings

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Variant:
    """One contender.

    Args:
        name: as tables and legends show it.
        model: registered model (`kinn.models.model_names`).
        role: "ours" or "baseline".
        arguments: of the model beside `in_channels` and `out_channels`, which the data determine.
        paper: the paper's figure for it by metric, if it has one.
    """

    name: str
    model: str
    role: Literal["ours", "baseline"]
    arguments: dict[str, Any] = field(default_factory=dict)
    paper: dict[str, float] | None = None


@dataclass(frozen=True)
class Experiment:
    """Variants trained on the same data with the same budget, loss, optimiser and seed.

    Args:
        name: short, for files.
        title: a sentence, for people.
        generate: makes the data file at a path; called with a progress callback.
        data: the generator's parameters, as they go into the records.
        sizes: samples for "train", "validation" and "test", in the order of the file.
        variants: the contenders.
        loss: a name in `kinn.train.LOSSES`.
        primary_metric: by which the table compares; lower is better.
        normalize: "min-max" (to [0, 1], fitted on the training part) or "none".
        optimizer: of all variants.
        training: of all variants; the seed is set per run.
        rollout: for trajectories; None for pairs.
        unroll: steps unrolled in training, for trajectories.
        field_steps: rollout steps whose fields are kept for pictures; 1 is the first, -1 the last.
    """

    name: str
    title: str
    generate: Callable[[Path, Progress], object]
    data: dict[str, Any]
    sizes: dict[str, int]
    variants: tuple[Variant, ...]
    loss: str
    primary_metric: str
    normalize: Literal["min-max", "none"]
    optimizer: OptimizerSettings
    training: TrainSettings
    rollout: Rollout | None = None
    unroll: int = 1
    field_steps: tuple[int, ...] = (-1,)
