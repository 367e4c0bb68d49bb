"""What happens beside the optimiser steps: the history, the best model's file, progress."""

from __future__ import annotations

import itertools
import math
import operator
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import nn
from torch.utils.data import DataLoader

from kinn.files import atomic_file, write_text
from kinn.notices import warn_once
from kinn.progress import ProgressBar
from kinn.train.loading import SharedBatches
from kinn.train.settings import epoch_seed


class AtomicCheckpoints(TorchCheckpointIO):
    """Checkpoints that appear complete or not at all."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint."""
        with atomic_file(path) as file:
            try:
                torch.save(checkpoint, file)
            except RuntimeError as error:
                # On a full disk torch goes on to close its archive, and complains of that instead.
                if isinstance(error.__context__, OSError):
                    raise error.__context__ from None
                raise


class History(Callback):
    """Curves over epochs, kept through a resume; saves the model at each new best score.

    Every process keeps them; the first one writes the files.

    Args:
        folder: `metrics.csv` is written here after every epoch, unless another program keeps it from that.
        data: what identifies the data; a resumed run must have the same.
        save_best: called when the score is the lowest yet, with the epoch and the metrics.
        score: of an epoch, from its row of the curves; by default the validation loss.
    """

    def __init__(
        self,
        folder: Path,
        *,
        data: Mapping[str, Any],
        save_best: Callable[[int, Mapping[str, float]], None],
        score: Callable[[Mapping[str, float]], float] = operator.itemgetter("validation_loss"),
    ) -> None:
        self.folder, self.data, self.save_best, self.score = folder, dict(data), save_best, score
        self.curves: dict[str, list[float]] = {}
        self.best_epoch, self.best_loss, self.best_score = 0, math.inf, math.inf
        self._epoch_started = 0.0

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        found = ("data", "curves", "best_epoch", "best_loss", "best_score")
        return {name: getattr(self, name) for name in found}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.curves = {name: list(values) for name, values in state_dict["curves"].items()}
        self.best_epoch, self.best_loss = state_dict["best_epoch"], state_dict["best_loss"]
        self.best_score = state_dict.get("best_score", self.best_loss)

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Take the time; seed what draws from the global generator (dropout) by epoch, in each process apart."""
        seed = epoch_seed(pl_module.seed, trainer.current_epoch)  # pyright: ignore[reportArgumentType]
        torch.manual_seed(seed + (trainer.global_rank << 48))
        self._epoch_started = time.perf_counter()

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Extend the curves; stop a diverged run; save a best model."""
        known = trainer.callback_metrics
        epoch, train_loss = trainer.current_epoch + 1, float(known["train_loss_epoch"])
        loss = float(known["validation_loss"])
        if not math.isfinite(train_loss):  # a rollout that blows up in an early validation is no reason to stop
            raise FloatingPointError(
                f"the training loss of epoch {epoch} is {train_loss:g}: lower the learning rate or clip gradients"
            )
        metrics = {
            name.removeprefix("validation/"): float(value)
            for name, value in known.items()
            if name.startswith("validation/")
        }
        row = {
            "epoch": epoch,
            "train_loss": train_loss,
            "validation_loss": loss,
            "seconds": time.perf_counter() - self._epoch_started,
            **metrics,
        }
        for name, value in row.items():
            self.curves.setdefault(name, []).append(value)
        is_best = self.score(row) < self.best_score
        if is_best:
            self.best_epoch, self.best_loss, self.best_score = epoch, loss, self.score(row)
        if not trainer.is_global_zero:
            return
        columns = [",".join(self.curves), *(",".join(f"{v:.9g}" for v in r) for r in zip(*self.curves.values()))]
        try:
            write_text(self.folder / "metrics.csv", "\n".join(columns) + "\n")
        except PermissionError as error:  # on Windows while Excel shows it; a later epoch writes all of it
            warn_once(f"{self.folder / 'metrics.csv'} lacks epochs until it can be written ({error.strerror})")
        if is_best:
            self.save_best(epoch, metrics)


@contextmanager
def fresh_statistics(model: nn.Module) -> Iterator[bool]:
    """Take the statistics of batch norms anew, from what the model is given within; yields whether it has any norms."""
    norms = [
        module
        for module in model.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
        and module.num_batches_tracked is not None
        and module.num_batches_tracked > 0  # else the model does not call it
    ]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the average of all batches
        norm.train()
    try:
        yield bool(norms)
    finally:
        for norm, momentum in zip(norms, momenta):
            norm.momentum = momentum
            norm.eval()


class FreshBatchNorm(Callback):
    """Measure the statistics of batch norms anew before every validation, with the weights that are validated.

    The running averages of training lag behind weights that move fast, and in a deep network on a small data set the
    lag, not the model, decides the validation loss. Without batch norms this does nothing. Of several processes each
    goes through the same whole batches, so that all find the statistics of one.

    Args:
        loader: of the training data, in whole batches, by `SharedBatches`.
        batches: how many of them, in the order of the epoch, are averaged over, at most.
    """

    def __init__(self, loader: DataLoader, batches: int) -> None:
        self.loader, self.batches = loader, batches

    @torch.no_grad()
    def on_validation_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Run the training batches through the model; only its batch norms behave as in training."""
        assert isinstance(pl_module.model, nn.Module)
        with fresh_statistics(pl_module.model) as any_norms:
            if not any_norms:
                return
            assert isinstance(self.loader.batch_sampler, SharedBatches)
            self.loader.batch_sampler.sampler.set_epoch(trainer.current_epoch)
            for given, truth in itertools.islice(self.loader, self.batches):
                given = trainer.strategy.batch_to_device(given)
                with trainer.precision_plugin.val_step_context():
                    pl_module.predict_for_training(given, truth.shape[1])  # pyright: ignore[reportCallIssue]


class TrainingProgress(Callback):
    """A bar over the whole training, with the time left for all its epochs.

    Args:
        title: of the bar.
        history: whose losses are shown.
        samples: of an optimiser step, to show how many a second are trained on; None shows nothing.
        unit: what a sample is, in the plural.
    """

    def __init__(self, title: str, history: History, *, samples: int | None = None, unit: str = "samples") -> None:
        self.title, self.history, self.samples, self.unit = title, history, samples, unit
        self._bar: ProgressBar | None = None
        self._epoch_start: tuple[int, float] = 0, 0.0
        self._rate = ""

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Open the bar; it estimates from the first step's end on, as that step may hold compiling."""
        self._bar = ProgressBar(self.title, total=int(trainer.estimated_stepping_batches)).__enter__()

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move the bar."""
        assert self._bar is not None
        if batch_idx == 0:  # an epoch's first step may hold compiling, or readers' start
            self._epoch_start = trainer.global_step, time.monotonic()
        elif self.samples is not None:
            steps, seconds = trainer.global_step - self._epoch_start[0], time.monotonic() - self._epoch_start[1]
            self._rate = f"  {steps * self.samples / seconds:.3g} {self.unit}/s" if steps else ""
        if self._bar.due() and trainer.global_step < self._bar.total:
            self._bar.update(trainer.global_step, self._text(trainer))

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Show the epoch's losses; the last one completes the bar."""
        assert self._bar is not None
        self._bar.update(trainer.global_step, self._text(trainer))

    def on_fit_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Close the bar."""
        self._close()

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        """Close the bar, so that the message starts on its own line."""
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _text(self, trainer: lightning.Trainer) -> str:
        text = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}{self._rate}"
        curves = self.history.curves
        if curves:
            text += f"  train {curves['train_loss'][-1]:.3g}  validation {curves['validation_loss'][-1]:.3g}"
            text += f" (best {self.history.best_loss:.3g})"
        return text
