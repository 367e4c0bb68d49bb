"""Train an image classifier, alone or as one of several processes that `torchrun` or a cluster's scheduler started."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.strategies import DDPStrategy
from torch.utils.data import IterableDataset

import kinn.models.vision  # noqa: F401  its models by name
from kinn.notices import warn_once
from kinn.records import peak_memory, plain, reset_peak_memory
from kinn.train.callbacks import History, TrainingProgress
from kinn.train.folder import RunFolder
from kinn.train.images.data import evaluation_batches, normalisation, training_batches
from kinn.train.images.launch import launched, take_card
from kinn.train.images.saving import architecture, save_classifier, take_weights
from kinn.train.images.settings import ImageSettings
from kinn.train.images.sources import Images, class_names, place
from kinn.train.images.task import ImageTask
from kinn.train.memory import keep_freed_memory
from kinn.train.processes import Process
from kinn.train.settings import chosen_device
from kinn.train.trainer import calm, make_trainer, run_trainer


@dataclass(frozen=True)
class ImageFit:
    """What a training gave.

    Args:
        folder: of the run: `model.safetensors` holds the last averaged weights, which are to be reported,
            `best.safetensors` the averaged weights of the best epoch, `raw.safetensors` the last weights themselves;
            without an average, all are of the weights themselves.
        curves: lists over epochs: losses, seconds, and top-1 and top-5 accuracy on the validation part in percent, of
            the weights (`raw_top1`) and their average (`ema_top1`).
        best_epoch: counted from 1, by top-1 accuracy.
        memory: peak of the last part of the run, in bytes.
    """

    folder: Path
    curves: dict[str, list[Any]]
    best_epoch: int
    memory: dict[str, int]


def fit_images(
    settings: ImageSettings,
    train: Images,
    validation: Images,
    folder: str | Path,
    *,
    num_classes: int | None = None,
    initial: str | Path | None = None,
    config: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> ImageFit:
    """Train; called again with the same arguments, it goes on after its last finished epoch.

    Under `torchrun` (or `srun` with one task per device) every process calls this, on one node or many.

    Args:
        settings: how.
        train: images to learn from (:func:`open_images`).
        validation: images that tell the best epoch.
        folder: for the run's files.
        num_classes: logits; None for as many as `train` names.
        initial: file of weights to start from, ours or any that timm reads; a classifier for another number of classes
            is drawn anew, all else must fit. The file of a run that goes on may be gone.
        config: plain values that fix the run; by default the settings.
        progress: show a bar with images per second and the time left.

    Raises:
        ValueError: unknown model, unknown number of classes or too few, data sets that disagree in their classes or
            are one and the same, channels that images do not have, a batch that does not divide among processes, a
            folder of another run or in which another process trains, or `initial` does not fit the model.
        FileNotFoundError: there is no file `initial`.
        FloatingPointError: the loss became NaN or infinite.
        KeyboardInterrupt: the user stopped it.
    """
    process, nodes = launched()
    take_card()
    names = class_names(train)
    num_classes = num_classes or (len(names) if names else None)
    if num_classes is None:
        raise ValueError("the data set does not say how many classes it has: give num_classes")
    _check(settings, process)
    _check_images(train, validation, num_classes)
    run, reports = RunFolder(folder), process.rank == 0
    start = {} if initial is None else {"initial": str(initial)}
    config = {**asdict(settings), **start} if config is None else dict(config)
    data: dict[str, Any] = {"classes": num_classes, "names": names}
    data |= {"train": _count(train), "validation": _count(validation)}
    if initial is not None:
        data["initial"] = run.digest(initial)
    with run.alone() if reports and not run.finished() else nullcontext():
        if reports:
            run.claim(config, data)
        summary = run.finished()
        if summary is None:
            summary = _train(_Job(settings, train, validation, run, process, nodes, initial, config, data, progress))
    return ImageFit(run.path, summary["curves"], summary["best_epoch"], summary["memory"])


@dataclass(frozen=True)
class _Job:
    """What a process of a training needs to know."""

    settings: ImageSettings
    train: Images
    validation: Images
    run: RunFolder
    process: Process
    nodes: int
    initial: str | Path | None
    config: Mapping[str, Any]
    data: Mapping[str, Any]
    progress: bool


def _model(settings: ImageSettings, classes: int, arguments: Mapping[str, Any] | None = None) -> torch.nn.Module:
    arguments = settings.model_arguments if arguments is None else arguments
    if "drop_path_rate" in settings.model_arguments:
        raise ValueError("stochastic depth is the setting drop_path, not the model argument drop_path_rate")
    make = partial(timm.create_model, settings.model, num_classes=classes, **arguments)
    torch.manual_seed(settings.seed)
    try:
        return make(drop_path_rate=settings.drop_path_rate)
    except TypeError as error:
        if "drop_path_rate" not in str(error):
            raise
        if settings.drop_path:
            raise ValueError(f"{settings.model} knows no stochastic depth: leave drop_path out") from error
        warn_once(f"{settings.model} knows no stochastic depth: it is trained without")
    torch.manual_seed(settings.seed)
    return make()


def _train(job: _Job) -> dict[str, Any]:
    settings, process, run, classes = job.settings, job.process, job.run, job.data["classes"]
    if run.checkpoint.exists():  # which holds all weights
        model = _model(settings, classes, architecture(settings.model_arguments))
    else:
        model = _model(settings, classes)
        kept = [] if job.initial is None else take_weights(model, job.initial)
        if kept and process.rank == 0:
            warn_once(f"{', '.join(kept)}: drawn anew, for {classes} classes; all other weights are of {job.initial}")
    if settings.grad_checkpointing:
        model.set_grad_checkpointing()  # pyright: ignore[reportCallIssue]
    stats = normalisation(model, settings.model_arguments.get("in_chans", 3))
    batches = training_batches(job.train, settings, stats, process)
    held_out = evaluation_batches(job.validation, settings, stats, process)
    streams = isinstance(job.train, IterableDataset)  # whose loaders do not know the part of one process
    steps = max(1, (job.data["train"] or 0) // settings.batch_size if streams else len(batches) // settings.accumulate)
    task = ImageTask(model, settings, classes=classes, steps_per_epoch=steps, process=process)
    about = {
        "model": settings.model,
        "model_arguments": settings.model_arguments,
        "num_classes": classes,
        "classes": job.data["names"],
        "image_size": settings.image_size,
        "crop": settings.crop,
        "interpolation": settings.interpolation,
        **stats,
        "config": job.config,
    }

    def keep(name: str, weights: str, module: torch.nn.Module, epoch: int, metrics: Mapping[str, float]) -> None:
        found = {"weights": weights, "epoch": epoch, "validation": metrics}
        save_classifier(run.path / name, module, plain({**about, **found}))

    reported = task.reported()
    history = History(
        run.path,
        data=job.data,
        save_best=lambda epoch, metrics: keep("best.safetensors", reported.name, reported.model, epoch, metrics),
        score=lambda row: -row[f"{reported.name}_top1"],
    )
    bar = [TrainingProgress(settings.model, history, samples=settings.batch_size, unit="images")]
    reset_peak_memory()
    keep_freed_memory()
    with calm():
        trainer = make_trainer(
            run,
            history,
            bar if job.progress and process.rank == 0 else [],
            device=settings.device,
            precision=settings.precision,
            checkpoint_every=1,
            devices=process.count // job.nodes,
            num_nodes=job.nodes,
            plugins=[LightningEnvironment()] if process.count == 1 else [],
            strategy=DDPStrategy() if process.count > 1 else "auto",
            max_epochs=settings.epochs,
            limit_train_batches=steps * settings.accumulate if streams else None,
            accumulate_grad_batches=settings.accumulate,
            gradient_clip_val=settings.clip or None,
            log_every_n_steps=settings.log_every,
        )
        run_trainer(trainer, task, batches, held_out, run.checkpoint if run.checkpoint.exists() else None)
    summary = plain({**history.state_dict(), "memory": peak_memory(), "devices": process.count})
    if process.rank == 0:
        last = {name: curve[-1] for name, curve in history.curves.items()}
        keep("raw.safetensors", "raw", task.model, settings.epochs, last)
        keep("model.safetensors", reported.name, reported.model, settings.epochs, last)
        run.finish(summary)
    return summary


def _check(settings: ImageSettings, process: Process) -> None:
    if not timm.is_model(settings.model):
        head = settings.model.partition("_")[0]
        close = [n for n in timm.list_models() if n.startswith(settings.model)] or timm.list_models(f"*{head}*")
        raise ValueError(
            f"there is no model {settings.model!r}" + (f"; similar ones: {', '.join(close[:5])}" if close else "")
        )
    parts = settings.accumulate * process.count
    if settings.batch_size % parts:
        raise ValueError(
            f"batch_size must be a multiple of accumulate times processes ({parts}), but is {settings.batch_size}"
        )
    chosen_device(settings.device)


def _check_images(train: Images, validation: Images, num_classes: int) -> None:
    names, others = class_names(train), class_names(validation)
    if names and others and names != others:
        missing = sorted(set(names) ^ set(others))
        how = f"{', '.join(missing[:5])} occur in one alone" if missing else "the same names in another order"
        raise ValueError(f"training and validation images have different classes: {how}")
    if names and len(names) > num_classes:
        raise ValueError(f"num_classes is {num_classes}, but the images have {len(names)} classes")
    if (one := place(train)) is not None and one == place(validation):
        raise ValueError(f"training and validation images are the same, those of {one}")


def _count(images: Images) -> int | None:
    try:
        return len(images)
    except TypeError:
        assert isinstance(images, IterableDataset)
        return None
