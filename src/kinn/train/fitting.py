"""Train a task: seeded, resumable, logged; the best model on the validation data is what comes out."""

from __future__ import annotations

import statistics
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.strategies import DDPStrategy
from torch.utils.data import DataLoader

from kinn.data import OperatorDataset, TrajectoryDataset, datasets
from kinn.records import peak_memory, plain, reset_peak_memory
from kinn.train.callbacks import FreshBatchNorm, History, TrainingProgress
from kinn.train.compiling import compiled_loss
from kinn.train.folder import RunFolder
from kinn.train.loading import Items, SharedBatches, batches
from kinn.train.memory import keep_freed_memory
from kinn.train.processes import Process, run_processes
from kinn.train.saving import load_model, save_model, take_weights
from kinn.train.settings import TrainSettings, chosen_device, expect_devices
from kinn.train.tasks import OperatorTask, RolloutTask
from kinn.train.trainer import calm, make_trainer, run_trainer

_LOOKED_AT = 64  # samples of large data, to know them again


@dataclass(frozen=True)
class FitResult:
    """What a training gave.

    Args:
        model_path: file of the best model on the validation data.
        best_epoch: its epoch, counted from 1.
        epochs: that were trained.
        curves: lists over epochs: `epoch`, `train_loss`, `validation_loss`, `seconds`, and the validation metrics; None
            where a value was not finite.
        train_seconds: of all epochs, validations included, over all parts of a resumed run.
        seconds_per_epoch: their median.
        memory: `peak_rss_bytes` (and `peak_gpu_bytes`) of the last part, in the process of the first device.
        devices: that the last part ran on.
        compiled: what `torch.compile` made of the steps of the last part: `none` (not asked for, or not to be had),
            `kernels`, `cuda-graphs`, `cuda-graphs in part`, or `failed` (the run went on without); None if not known.
    """

    model_path: Path
    best_epoch: int
    epochs: int
    curves: dict[str, list[Any]]
    train_seconds: float
    seconds_per_epoch: float
    memory: dict[str, int]
    devices: int = 1
    compiled: str | None = None


@dataclass(frozen=True)
class _Job:
    """What the processes of a training need to know."""

    task: OperatorTask | RolloutTask
    train: Items
    validation: Items
    settings: TrainSettings
    device: torch.device
    folder: Path
    config: dict[str, Any]
    data: dict[str, Any]
    title: str | None


def fit(
    task: OperatorTask | RolloutTask,
    train: OperatorDataset | TrajectoryDataset,
    validation: OperatorDataset | TrajectoryDataset,
    settings: TrainSettings,
    folder: str | Path,
    *,
    initial: str | Path | None = None,
    config: Mapping[str, Any] | None = None,
    title: str = "Training",
    progress: bool = True,
) -> FitResult:
    """Train a task; afterwards its model holds the best weights, in evaluation mode, on the CPU.

    Called again with the same task, settings and folder, an interrupted training goes on after its last checkpoint and
    gives the numbers of an uninterrupted one; a finished one returns its result at once.

    On several devices a script must keep its code under `if __name__ == "__main__":`, as wherever it starts processes.

    Args:
        task: model, loss and optimiser. Build the model under a seed of your own: only what follows is seeded here.
        train: what to learn from.
        validation: decides which epoch is best, and when to stop early. Never the test data.
        settings: epochs, batch size, seed and the like.
        folder: for the run's files, see `kinn.train.folder`.
        initial: model file (`save_model`) whose weights the model starts from, all of which must fit; once the run has
            a checkpoint the file may be gone. Normalisers stay the task's.
        config: plain values that fix the run, for `config.yaml`; by default the task's description and the settings.
        title: of the progress bar.
        progress: whether to show it.

    Raises:
        ValueError: if the data does not fit the task, parameters are not of float32, the folder belongs to another run,
            another process trains there, the model is not a registered one, there is no such device or not so many,
            fewer samples than devices, or `initial` does not fit the model.
        FileNotFoundError: if there is no file `initial`.
        FloatingPointError: if the loss becomes NaN or infinite.
        KeyboardInterrupt: if the user stops it; the same call resumes.
        OSError: if the folder cannot be written, or a process of several is ended from outside.
    """
    device = chosen_device(settings.device)
    expect_devices(device, settings.devices)
    strange = {p.dtype for p in task.model.parameters()} - {torch.float32, torch.complex64}
    if strange:
        raise ValueError(
            f"models are trained in float32, `precision` mixing in bf16 or 16, but this one has parameters of "
            f"{', '.join(sorted(map(str, strange)))}: call .float()"
        )
    train_items, validation_items = task.training_items(train), task.validation_items(validation)
    for name, items in (("training", train_items), ("validation", validation_items)):
        if len(items) < settings.devices:
            raise ValueError(f"{settings.devices} devices need as many {name} samples, but there are {len(items)}")
    data: dict[str, Any] = {"train": _fingerprint(train), "validation": _fingerprint(validation)}
    run = RunFolder(folder)
    start = {} if initial is None else {"initial": str(initial)}
    config = dict(config) if config is not None else {**task.describe(), "training": asdict(settings), **start}
    if initial is not None:
        data["initial"] = run.digest(initial)
    with nullcontext() if run.finished() else run.alone():
        if initial is not None and run.finished() is None and not run.checkpoint.exists():
            take_weights(task.model, initial)  # those that do not fit leave no folder
        run.claim(config, data, free={"data", "validation"})  # data are known by what they hold, wherever they lie
        if run.finished() is None:
            title_shown = title if progress else None
            job = _Job(task, train_items, validation_items, settings, device, run.path, config, data, title_shown)
            if settings.devices == 1:
                _train(Process(), job)
            else:
                run_processes(_train, [job], device=device, count=settings.devices)
        summary = run.finished()
    assert summary is not None
    best = load_model(run.model)
    task.model.load_state_dict(best.model.state_dict())
    task.trained.metadata["extra"] = best.metadata["extra"]  # the grid, without which other grids are guessed at
    task.eval()
    seconds = summary["curves"]["seconds"]
    return FitResult(
        model_path=run.model,
        best_epoch=summary["best_epoch"],
        epochs=len(seconds),
        curves=summary["curves"],
        train_seconds=sum(seconds),
        seconds_per_epoch=statistics.median(seconds),
        memory=summary["memory"],
        devices=summary.get("devices", 1),
        compiled=summary.get("compiled"),
    )


def _train(process: Process, job: _Job) -> None:
    """Train in one process, alone or with others. All that comes of it lies in the folder, written by the first."""
    task, settings, run = job.task, job.settings, RunFolder(job.folder)
    history = History(
        run.path,
        data=job.data,
        save_best=lambda epoch, metrics: save_model(
            run.model,
            task.model,
            input_normalizer=task.input_normalizer,
            output_normalizer=task.output_normalizer,
            rollout=task.trained.rollout,
            extra=plain(
                {"epoch": epoch, "validation": metrics, "config": job.config, "grid": job.data["train"]["grid"]}
            ),
        ),
    )
    reset_peak_memory()
    keep_freed_memory()
    with calm(), _as_rank(process.rank):
        train = batches(job.train, settings, shuffled=True, process=process)
        validation = batches(job.validation, settings, shuffled=False, process=process)
        whole = train if process.count == 1 else batches(job.train, settings, shuffled=True)
        assert isinstance(train.batch_sampler, SharedBatches)
        task.seed, task.process, task.shares = settings.seed, process, train.batch_sampler
        trainer = _trainer(job, run, history, whole, job.title if process.rank == 0 else None)
        with compiled_loss(
            task,
            settings.compile,
            device=job.device,
            steps=settings.epochs * len(train),
            devices=process.count,
            context=trainer.precision_plugin.train_step_context,
        ) as compiled:
            run_trainer(trainer, task, train, validation, run.checkpoint if run.checkpoint.exists() else None)
    task.process, task.shares = Process(), None
    if not history.best_epoch:
        raise FloatingPointError(
            "no epoch had a finite validation loss, so there is no model to keep: lower the learning rate, "
            "clip gradients, or unroll more steps in training"
        )
    if process.rank == 0:
        how = {"devices": process.count, "compiled": "none" if compiled is None else compiled.outcome}
        run.finish({**history.state_dict(), "memory": peak_memory(), **how})


def _trainer(job: _Job, run: RunFolder, history: History, whole: DataLoader, title: str | None) -> lightning.Trainer:
    settings = job.settings
    callbacks: list[lightning.Callback] = [] if title is None else [TrainingProgress(title, history)]
    if settings.batch_norm_batches:
        callbacks.append(FreshBatchNorm(whole, settings.batch_norm_batches))
    if settings.patience is not None:
        patience = EarlyStopping(
            "validation_loss", patience=settings.patience, check_on_train_epoch_end=True, check_finite=False
        )
        callbacks += [patience, _StayStopped(patience)]
    return make_trainer(
        run,
        history,
        callbacks,
        device=settings.device,
        precision=settings.precision,
        checkpoint_every=settings.checkpoint_every,
        plugins=[LightningEnvironment()],  # not whatever a cluster's scheduler has set
        devices=settings.devices,
        strategy=_strategy(settings.devices),
        max_epochs=settings.epochs,
        gradient_clip_val=job.task.optimizer_settings.clip or None,
        deterministic=settings.deterministic or None,
        log_every_n_steps=settings.log_every,
    )


class _StayStopped(lightning.Callback):
    """A run that had no patience left, but was killed before it was finished, does not train on."""

    def __init__(self, patience: EarlyStopping) -> None:
        self.patience = patience

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        trainer.should_stop |= self.patience.wait_count >= self.patience.patience


@contextmanager
def _as_rank(rank: int) -> Iterator[None]:
    """Lightning writes logs in the process of rank 0: here that is ours, not that of a cluster's task."""
    told: Any = rank_zero_only
    before, told.rank = told.rank, rank
    try:
        yield
    finally:
        told.rank = before


def _strategy(devices: int) -> DDPStrategy | str:
    if devices == 1:
        return "auto"
    # static: every step uses the same parameters, maybe not all that the model has. Buffers are taken over before each
    # validation instead: within one the processes may have different numbers of batches
    return DDPStrategy(static_graph=True, broadcast_buffers=False)


def _fingerprint(dataset: OperatorDataset | TrajectoryDataset) -> dict[str, Any]:
    """Number of samples, the shape of one, and a checksum: of all, or of some of what is not loaded unasked."""
    checksum = 0
    pairs = isinstance(dataset, OperatorDataset)
    for samples in (dataset.inputs, dataset.outputs) if pairs else (dataset.trajectories,):
        last = len(samples) - 1
        if dataset.n_bytes > datasets.FITS:
            samples = samples.subset(sorted({round(i * last / (_LOOKED_AT - 1)) for i in range(_LOOKED_AT)}))
        for batch in samples.batches(16):
            checksum = zlib.crc32(batch.numpy().tobytes(), checksum)
    return {"samples": len(dataset), "grid": list(dataset.grid), "checksum": checksum}
