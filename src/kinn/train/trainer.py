"""The trainer that all trainings share: checkpoints that appear complete, a bar, Ctrl-C that interrupts, no chatter."""

from __future__ import annotations

import logging
import signal
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins.precision import MixedPrecision
from torch.utils.data import DataLoader

from kinn.train.callbacks import AtomicCheckpoints, History
from kinn.train.folder import RunFolder
from kinn.train.settings import chosen_device

_PRECISIONS = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}


class RealViews(torch.amp.GradScaler):  # pyright: ignore[reportPrivateImportUsage]
    """A scaler of gradients for models with complex weights, such as FNO's: PyTorch's own cannot unscale theirs.

    >>> weight = torch.nn.Parameter(torch.ones(2, dtype=torch.cfloat))
    >>> optimizer, scaler = torch.optim.SGD([weight], lr=0.5), RealViews("cpu")
    >>> scaler.scale(weight.abs().square().sum()).backward()
    >>> _ = scaler.step(optimizer)
    >>> weight.tolist()
    [0j, 0j]
    """

    def _unscale_grads_(self, optimizer: Any, *args: Any, **options: Any) -> Any:
        groups = [{"params": [_real(parameter) for parameter in g["params"]]} for g in optimizer.param_groups]
        return super()._unscale_grads_(SimpleNamespace(param_groups=groups), *args, **options)  # pyright: ignore


def _real(parameter: torch.Tensor) -> torch.Tensor:
    """A complex parameter as real numbers, with its gradient: both in the same memory."""
    if parameter.grad is None or not parameter.is_complex():
        return parameter
    view = torch.view_as_real(parameter.detach())
    view.grad = torch.view_as_real(parameter.grad)
    return view


def make_trainer(
    run: RunFolder,
    history: History,
    callbacks: Sequence[lightning.Callback] = (),
    *,
    device: str,
    precision: str,
    checkpoint_every: int,
    plugins: Sequence[Any] = (),
    **options: Any,
) -> lightning.Trainer:
    """Lightning's trainer for a run.

    Args:
        run: where checkpoints and logs go.
        history: comes first of all callbacks.
        callbacks: what else happens; a bar among them comes before the checkpoints.
        device: a name as in `TrainSettings`.
        precision: likewise.
        checkpoint_every: epochs.
        plugins: beside that for atomic checkpoints.
        options: of Lightning's trainer.

    Raises:
        ValueError: precision that the device does not have.
    """
    kind = chosen_device(device).type
    if precision == "16" and kind == "cpu":
        raise ValueError("precision 16 needs a GPU; on a CPU take bf16")  # Lightning would, saying so in passing
    # at the end of an epoch, after History: Lightning calls checkpoints last
    last = ModelCheckpoint(
        dirpath=run.path,
        filename=run.checkpoint.stem,
        every_n_epochs=checkpoint_every,
        save_on_train_epoch_end=True,
        enable_version_counter=False,
    )
    if precision == "16" and kind == "cuda":
        how: dict[str, Any] = {}
        plugins = [*plugins, MixedPrecision("16-mixed", "cuda", RealViews("cuda"))]
    else:
        how = {"precision": _PRECISIONS[precision]}
    return lightning.Trainer(
        accelerator=kind,
        **how,
        use_distributed_sampler=False,
        logger=TensorBoardLogger(run.path, name="tensorboard", version=""),
        callbacks=[history, *callbacks, last],
        plugins=[AtomicCheckpoints(), *plugins],
        default_root_dir=run.path,
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )


def run_trainer(
    trainer: lightning.Trainer,
    task: lightning.LightningModule,
    train: DataLoader | None,
    validation: DataLoader | None,
    checkpoint: Path | None,
) -> None:
    """Run the trainer, which on Ctrl-C would exit the process and leave the signal ignored: here it interrupts."""
    readers: Any = getattr(getattr(train, "batch_sampler", None), "sampler", None), getattr(train, "dataset", None)
    if checkpoint is not None:  # readers begin before Lightning says which epoch it is
        history = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)["callbacks"]["History"]
        for reader in readers:
            if hasattr(reader, "set_epoch"):
                reader.set_epoch(len(history["curves"]["epoch"]))
    device = trainer.strategy.root_device
    handler = signal.getsignal(signal.SIGINT)
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            # weights_only: a checkpoint holds tensors and plain values, and must not run code
            trainer.fit(task, train, validation, ckpt_path=checkpoint, weights_only=True)
    except SystemExit as stop:
        raise KeyboardInterrupt from stop
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, handler)


@contextmanager
def calm() -> Iterator[None]:
    """Without Lightning's tips and its remarks about choices that are made on purpose; other warnings stay.

    The deterministic mode, which a trainer switches on when it is made, ends with it.
    """
    deterministic = torch.are_deterministic_algorithms_enabled()
    only_warns = torch.is_deterministic_algorithms_warn_only_enabled()
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            for remark in (
                ".*does not have many workers.*",
                ".*number of training batches.*smaller than the logging interval.*",
                ".*exists and is not empty.*",
                ".*dirpath has changed.*",  # of a folder that was moved, best model and all
                ".*GPU available but not used.*",
                ".*Found .* module.* in eval mode.*",
                ".*LeafSpec.*deprecated.*",
                ".*in a directory which is not empty.*",
                ".*does not support code generation for complex operators.*",
                ".*TensorFloat32 tensor cores.*",
                ".*recommended to use `self.log.*sync_dist=True.*",  # they are the same in all processes
                "Grad strides do not match bucket view strides.*",  # those of depthwise filters, which are small
                "`broadcast_buffers` is deprecated.*",  # its successor came with torch 2.13
            ):
                warnings.filterwarnings("ignore", message=remark)
            yield
    finally:
        torch.use_deterministic_algorithms(deterministic, warn_only=only_warns)
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)
