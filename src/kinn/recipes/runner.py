"""Run an experiment: make its data, train each variant with each seed, evaluate its best epoch on the test part."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal, cast

import torch

from kinn.data import Identity, MinMax, OperatorDataset, TrajectoryDataset, open_dataset, split
from kinn.models import build
from kinn.recipes.experiment import Experiment, Variant
from kinn.train import OperatorTask, ProgressBar, RolloutTask, date, evaluate, fit, hardware, versions, write_record

Parts = dict[str, OperatorDataset | TrajectoryDataset]


def run_experiment(
    experiment: Experiment,
    *,
    recipe: str,
    budget: str,
    seeds: Sequence[int],
    device: str,
    output: Path,
    progress: bool,
) -> list[Path]:
    """Train and evaluate all variants; see :func:`kinn.recipes.run`."""
    parts = _load(experiment, output / "data", progress=progress)
    records = []
    for seed in seeds:
        command = f"kinn reproduce {recipe} --budget {budget} --seeds {seed}"
        header = {"recipe": recipe, "budget": budget, "command": command}
        for variant in experiment.variants:
            slug = "".join(c if c.isalnum() else "-" for c in variant.name.lower()).strip("-")
            path = output / "records" / experiment.name / f"{slug}-seed{seed}.json"
            identity = _identity(experiment, variant, seed)
            if not _is_done(path, identity):
                folder = output / "runs" / experiment.name / path.stem
                result = _train(experiment, variant, seed, parts, device, folder, progress)
                write_record(path, {**header, **identity, **result})
            records.append(path)
    return records


def _load(experiment: Experiment, folder: Path, *, progress: bool) -> Parts:
    path = folder / f"{experiment.name}.h5"
    with ProgressBar(f"Data: {experiment.title}", total=1) if progress else nullcontext() as bar:

        def report(done: int, total: int) -> None:
            if bar is not None:
                bar.total = total
                bar.update(done)

        experiment.generate(path, report)
    # Small enough to hold; reading single samples from HDF5 would cost more than a training step.
    dataset: Any = open_dataset(path).in_memory()
    return split(dataset, experiment.sizes, seed=None)


def _identity(experiment: Experiment, variant: Variant, seed: int) -> dict[str, Any]:
    """All that determines a result: a record that agrees in it need not be made again."""
    training = asdict(replace(experiment.training, seed=seed))
    del training["compile"]  # how fast, not what
    rollout = None if experiment.rollout is None else {**asdict(experiment.rollout), "unroll": experiment.unroll}
    return {
        "experiment": experiment.name,
        "title": experiment.title,
        "variant": variant.name,
        "role": variant.role,
        "model": variant.model,
        "arguments": variant.arguments,
        "seed": seed,
        "primary_metric": experiment.primary_metric,
        "paper": variant.paper,
        "data": {**experiment.data, **experiment.sizes},
        "config": {
            "loss": experiment.loss,
            "normalize": experiment.normalize,
            "optimizer": asdict(experiment.optimizer),
            "training": training,
            "rollout": rollout,
        },
    }


def _is_done(path: Path, identity: dict[str, Any]) -> bool:
    if not path.exists():
        return False
    try:
        found = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not a result record: choose another output folder") from error
    for key, value in json.loads(json.dumps(identity)).items():
        if found.get(key) != value:
            raise ValueError(
                f"{path} is the result of another run: its {key} is {found.get(key)!r}, this run has {value!r}; "
                "choose another output folder"
            )
    return True


def _train(
    experiment: Experiment, variant: Variant, seed: int, parts: Parts, device: str, folder: Path, progress: bool
) -> dict[str, Any]:
    train, test = parts["train"], parts["test"]
    channels = _channels(experiment, train)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build(variant.model, {**channels, **variant.arguments})
    if experiment.rollout is None:
        assert isinstance(train, OperatorDataset)
        task = OperatorTask(
            model,
            input_normalizer=_normalizer(experiment, train.inputs),
            output_normalizer=_normalizer(experiment, train.outputs),
            loss=experiment.loss,
            optimizer=experiment.optimizer,
        )
    else:
        task = RolloutTask(
            model,
            normalizer=_normalizer(experiment, train),
            rollout=experiment.rollout,
            unroll=experiment.unroll,
            loss=experiment.loss,
            optimizer=experiment.optimizer,
        )
    chosen = cast(Literal["auto", "cpu", "cuda", "mps"], device)
    settings = replace(experiment.training, seed=seed, device=chosen)
    fitted = fit(task, train, parts["validation"], settings, folder, title=variant.name, progress=progress)
    found = evaluate(task, test, field_samples=(0,), field_steps=experiment.field_steps)
    rollout_curves = {
        "rollout_step": list(range(1, len(found.rollout_relative_l2) + 1)),
        "rollout_relative_l2": found.rollout_relative_l2,
    }
    validation = evaluate(task, parts["validation"])
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "metrics": {"test": found.metrics, "validation": validation.metrics},
        "curves": {**fitted.curves, **(rollout_curves if found.rollout_relative_l2 else {})},
        "best_epoch": fitted.best_epoch,
        "time": {
            "train_seconds": fitted.train_seconds,
            "seconds_per_epoch": fitted.seconds_per_epoch,
            "evaluate_seconds": found.seconds,
        },
        "memory": fitted.memory,
        "hardware": hardware(),
        "versions": versions(),
        "date": date(),
        "fields": found.fields,
    }


def _channels(experiment: Experiment, train: OperatorDataset | TrajectoryDataset) -> dict[str, int]:
    if isinstance(train, OperatorDataset):
        return {"in_channels": train.in_channels, "out_channels": train.out_channels}
    assert experiment.rollout is not None
    return {"in_channels": experiment.rollout.n_history * train.channels, "out_channels": train.channels}


def _normalizer(experiment: Experiment, data: Any) -> Identity | MinMax:
    return MinMax.fit(data) if experiment.normalize == "min-max" else Identity()
