"""Run an experiment: make its data, train each variant with each seed, evaluate its best epoch on the test parts."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from kinn.data import TrajectoryDataset
from kinn.metrics import METRICS
from kinn.nn.regridding import Points
from kinn.recipes.experiment import PARTS, Experiment, File, Source, Variant, spacing
from kinn.recipes.files import files_of
from kinn.recipes.grids import Data
from kinn.recipes.headers import command_of, file_stem, identity_of, is_done, labels_of
from kinn.recipes.loading import load_parts, load_transfer
from kinn.records import write_record
from kinn.train import FitResult, OperatorTask, RolloutTask, TrainSettings, build_task, evaluate, fit
from kinn.train.evaluate import evaluation_items, steps_of
from kinn.train.settings import chosen_device, expect_devices

# of the equations and their data, where files differ in them
_CONSTANTS = (
    *("beta", "high", "low", "bumps", "viscosity", "alpha", "tau"),
    *("gravity", "inner_height", "outer_height", "max_mode", "smoothness"),
)


def run_experiment(
    experiment: Experiment,
    *,
    output: str | Path,
    seeds: Sequence[int] = (0,),
    device: str | None = None,
    devices: int | None = None,
    data: Sequence[str | Path] = (),
    progress: bool = True,
    recipe: str = "",
    budget: str = "",
) -> list[Path]:
    """Train and evaluate all variants of an experiment, one of the recipes' or your own; write a record for each.

    Called again with the same arguments, it goes on where it stopped; finished variants are not run again.

    Args:
        experiment: what to train, on what, and how.
        output: folder for data, runs and records, which `kinn report` and `kinn.report.print_table` draw.
        seeds: of initialisation and data order, one run each.
        device: "auto", "cpu" or "cuda"; None for what the experiment's `training` says.
        devices: how many train one model together; None likewise.
        data: files to use instead of the source's, in any layout that `kinn.data.open_dataset` reads: the data, then
            one for each further test set.
        progress: show progress bars.
        recipe: name of the recipe that it comes from, for the records.
        budget: and the recipe's budget.

    Returns:
        the records' paths, in the order of the seeds and variants.

    Raises:
        ValueError: an experiment that contradicts itself, no seed, an unknown device, data that do not fit, or a folder
            with another run's records.
        FileNotFoundError: if a file of data does not exist.
    """
    output, seeds = Path(output), tuple(dict.fromkeys(seeds))
    given: dict[str, Any] = {"device": device, "devices": devices}
    training = replace(experiment.training, **{name: value for name, value in given.items() if value is not None})
    experiment = replace(experiment, training=training)
    _check(experiment, seeds)
    if not data:
        _check_samples(experiment)
    files = files_of(experiment, [data] if isinstance(data, (str, Path)) else data)
    paths, left = [], []
    for seed in seeds:
        header = {"recipe": recipe, "budget": budget}
        for variant in experiment.variants:
            path = output / "records" / experiment.name / f"{file_stem(variant)}-seed{seed}.json"
            identity = identity_of(experiment, variant, seed, files)
            if not is_done(path, identity):
                command = command_of(recipe, budget, variant, seed, files)
                left.append((variant, seed, path, {**header, "command": command, **identity}))
            paths.append(path)
    if left:  # what is finished needs no data
        folder = output / "data"
        kind = chosen_device(training.device).type
        where = {"progress": progress, "device": "cuda" if kind == "cuda" else "cpu"}
        parts = load_parts(experiment, folder, files, **where)
        for variant in {variant.name: variant for variant, *_ in left if variant.solve is None}.values():
            _try_out(experiment, variant, parts["train"])
        experiment = as_told_by(parts["train"], experiment)
        transfer, why_none = load_transfer(experiment, folder, files, **where)
        told = (files[0] if files else experiment.source).note, *experiment.notes, why_none
        experiment = replace(experiment, notes=tuple(filter(None, told)))
        for variant, seed, path, header in left:
            run = output / "runs" / experiment.name / path.stem
            settings = replace(experiment.tuned_to(variant).training, seed=seed)
            try:
                if variant.solve is None:
                    result = _train(experiment, variant, settings, parts, transfer, run, progress)
                else:
                    result = variant.solve(experiment, parts["test"], seed=seed, device=training.device, folder=run)
            except FloatingPointError as error:  # a result, too: the others go on
                told = f"{variant.name} diverged with seed {seed}: {error}"
                warnings.warn(f"{told}. To try again, remove {path} and {run}", stacklevel=2)
                result = {
                    "metrics": {"test": {experiment.primary_metric: None}},
                    "notes": [*experiment.notes, told],
                }
            except ImportError as error:
                if variant.solve is None:
                    raise
                warnings.warn(f"{variant.name} is left out: {error}", stacklevel=2)  # an optional baseline
                paths.remove(path)
                continue
            write_record(path, {**header, **labels_of(experiment, variant), **result})
    return paths


def _check(experiment: Experiment, seeds: Sequence[int]) -> None:
    """What would otherwise show after data are made, or after training."""
    if not seeds:
        raise ValueError(f"experiment {experiment.name!r} needs at least one seed, got none")
    expect_devices(chosen_device(experiment.training.device), experiment.training.devices)
    if set(experiment.sizes) != {*PARTS} or min(experiment.sizes.values()) < 1:
        raise ValueError(f"sizes must name train, validation and test, none of them empty, but are {experiment.sizes}")
    if taken := [name for name in experiment.tests if name in PARTS]:
        raise ValueError(f"further tests need names other than {', '.join(PARTS)}, but one is called {taken[0]!r}")
    metric = experiment.primary_metric.removesuffix("_normalized")
    if metric not in METRICS:
        raise ValueError(
            f"primary_metric must be one of {', '.join(METRICS)}, or one of them with _normalized, but is "
            f"{experiment.primary_metric!r}"
        )
    files = [file_stem(variant) for variant in experiment.variants]
    if len({*files} - {""}) < len(files):
        names = [variant.name for variant in experiment.variants]
        raise ValueError(f"variants need names that differ in letters and digits, but are {names}")


def _check_samples(experiment: Experiment) -> None:
    """Refuse parts that are larger than what the source makes."""
    total, source = sum(experiment.sizes.values()), experiment.source
    samples = source.settings.get("samples", total) if isinstance(source, Source) else total
    if samples < total:
        raise ValueError(f"experiment {experiment.name!r} needs {total} samples, but its source makes {samples}")


@torch.no_grad()
def _try_out(experiment: Experiment, variant: Variant, train: Data) -> None:
    """Build a contender and apply it once: what would end a later training shows before the first."""
    one, where = train.subset(slice(1)), chosen_device(experiment.training.device)
    forecast: dict[str, Any] = {"rollout": experiment.rollout} if isinstance(train, TrajectoryDataset) else {}
    trained = build_task(variant.model, variant.arguments, one, seed=0, normalize="none", **forecast).trained
    trained.to(where).model.eval()
    given, truth = evaluation_items(one, trained.rollout).batch([0])
    trained.predict_normalized(given.to(where), 1)
    if trained.rollout is not None:
        steps_of(experiment.field_steps, truth.shape[1])


def as_told_by(data: Data, experiment: Experiment) -> Experiment:
    """The experiment with the title that its data give it; without the paper's figures if their constants differ."""
    told, rollout = data.metadata, experiment.rollout
    steps = data.n_frames - rollout.n_history if rollout and isinstance(data, TrajectoryDataset) else 0
    viscosity = f", viscosity {told['viscosity']:g}" if _is_number(told.get("viscosity")) else ""
    title = experiment.title.replace("{steps}", str(steps)).replace("{viscosity}", viscosity)  # braces may be LaTeX's
    experiment = replace(experiment, title=title)
    shown = any(variant.paper or variant.paper_ratio for variant in experiment.variants)
    if not shown or isinstance(experiment.source, File):
        return experiment
    stated, ours = experiment.source.parameters, experiment.source.settings
    theirs = [name for name in _CONSTANTS if _is_number(ours.get(name))]
    other = [f"{name} = {told[name]:g}" for name in theirs if _is_number(told.get(name)) and told[name] != ours[name]]
    if not other:
        unsaid = [f"{name} = {ours[name]:g}" for name in ("beta", "viscosity") if name in stated and name not in told]
        note = f"The paper's figures are for {', '.join(unsaid)}, which these data do not state."
        return replace(experiment, notes=(*experiment.notes, note)) if unsaid else experiment
    note = f"The paper's figures are for other data than these, which have {', '.join(other)}: they are not shown."
    variants = tuple(replace(variant, paper=None, paper_ratio=None) for variant in experiment.variants)
    return replace(experiment, variants=variants, notes=(*experiment.notes, note))


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def train_variant(
    experiment: Experiment,
    variant: Variant,
    settings: TrainSettings,
    parts: dict[str, Data],
    folder: Path,
    *,
    progress: bool,
) -> tuple[OperatorTask | RolloutTask, FitResult]:
    """Train one contender on the part "train", choosing its epoch by "validation"; the model as it was best.

    Args:
        experiment: says how.
        variant: the contender.
        settings: those of the experiment as tuned to the variant, with seed and device.
        parts: see :func:`kinn.recipes.loading.load_parts`.
        folder: for checkpoints; a run that stopped there goes on.
        progress: show a progress bar.
    """
    experiment, train, forecast = experiment.tuned_to(variant), parts["train"], {}
    # constants that we computed of a whole file know its test samples: not for training
    published = {} if "ranges_of" in train.metadata else train.metadata
    if isinstance(train, TrajectoryDataset):
        forecast = {name: getattr(experiment, name) for name in ("rollout", "unroll", "window_stride", "input_noise")}
    task = build_task(
        variant.model,
        variant.arguments,
        train,
        seed=settings.seed,
        normalize=experiment.normalize,
        ranges=published,
        loss=experiment.loss,
        optimizer=experiment.optimizer,
        **forecast,
    )
    return task, fit(task, train, parts["validation"], settings, folder, title=variant.name, progress=progress)


def _train(
    experiment: Experiment,
    variant: Variant,
    settings: TrainSettings,
    parts: dict[str, Data],
    transfer: list[Data],
    folder: Path,
    progress: bool,
) -> dict[str, Any]:
    task, fitted = train_variant(experiment, variant, settings, parts, folder, progress=progress)
    task.trained.to(chosen_device(settings.device))  # the trainer leaves it on the CPU
    found = evaluate(task, parts["test"], field_samples=(0,), field_steps=experiment.field_steps, spectra=True)
    others = {name: evaluate(task, parts[name]).metrics for name in ("validation", *experiment.tests)}
    curves = {**fitted.curves}
    if found.rollout_relative_l2:
        curves["rollout_step"] = list(range(1, len(found.rollout_relative_l2) + 1))
        curves["rollout_relative_l2"] = found.rollout_relative_l2
    return {
        "parameters": sum(p.numel() for p in task.model.parameters()),
        "metrics": {"test": found.metrics, **others},
        "channels": found.channels,
        "transfer": [_transfer(task, data, parts["train"].grid[0], experiment.source.points) for data in transfer],
        "curves": curves,
        "best_epoch": fitted.best_epoch,
        "time": {
            "train_seconds": fitted.train_seconds,
            "seconds_per_epoch": fitted.seconds_per_epoch,
            "evaluate_seconds": found.seconds,
        },
        "memory": fitted.memory,
        "device": chosen_device(settings.device).type,
        "devices": fitted.devices,
        "compiled": fitted.compiled,
        "fields": found.fields,
        "spectra": found.spectra,
    }


def _transfer(task: OperatorTask | RolloutTask, data: Data, trained: int, points: Points | None) -> dict[str, Any]:
    """The trained model on another grid; models that know the distance of the grid points are told it."""
    resolution, scaled = data.grid[0], task.trained.takes_dt_scale
    dt_scale = spacing(resolution, points) / spacing(trained, points) if scaled and points else 1.0
    # grids of 128 x 128 in the same memory as ours
    found = evaluate(task, data, batch_size=8, dt_scale=dt_scale)
    return {
        "resolution": resolution,
        "samples": len(data),
        "dt_scale": dt_scale if scaled else None,
        "metrics": found.metrics,
    }
