"""Training tasks: what one optimiser step does and what a validation measures, for operators and for rollouts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any, Literal, get_args

import lightning
import torch
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import Tensor, nn

from kinn.data import Identity, OperatorDataset, TrajectoryDataset, TrajectoryWindows
from kinn.train.compiling import CompiledLoss
from kinn.train.evaluate import Scores, evaluation_items, expect_kind
from kinn.train.loading import Items, Share, SharedBatches
from kinn.train.losses import expect_finite, loss_named
from kinn.train.prediction import Normalizer, Rollout, TrainedModel
from kinn.train.processes import Process
from kinn.train.saving import blueprint
from kinn.train.settings import OptimizerSettings, build_optimizer, epoch_seed, expect_one_of

Units = Literal["normalized", "physical"]


class _Task(lightning.LightningModule):
    """What both tasks share: loss, optimiser, validation; batches are pairs (given, truth) in physical units."""

    def __init__(
        self, trained: TrainedModel, *, loss: str, loss_units: Units, optimizer: OptimizerSettings | None
    ) -> None:
        super().__init__()
        expect_one_of("loss_units", loss_units, get_args(Units))
        # registered here so that Lightning moves them; `trained` is a view of the same modules
        self.model = trained.model
        self.input_normalizer, self.output_normalizer = trained.input_normalizer, trained.output_normalizer
        self.trained = trained
        self.loss, self.loss_units = loss, loss_units
        self._loss = loss_named(loss)
        self.optimizer_settings = optimizer or OptimizerSettings()
        self.scores = Scores(rollout=trained.rollout is not None)
        self._training, self._validation = _Mean(), _Mean()
        # `fit` sets these
        self.seed = 0  # of the noise
        self.compiled: CompiledLoss | None = None
        self.process = Process()
        self.shares: SharedBatches | None = None  # None takes every batch as whole

    def describe(self) -> dict[str, Any]:
        """Model, task and optimiser as plain values: with the training settings and the data, they fix a run."""
        name, arguments = blueprint(self.model)
        return {
            "model": name,
            "model_arguments": arguments,
            "task": {**self.trained.settings(), "loss": self.loss, "loss_units": self.loss_units},
            "optimizer": asdict(self.optimizer_settings),
        }

    def noise(self, given: Tensor, share: Share | None = None) -> Tensor | None:
        """What training adds to the given fields, in normalised units; `share` is what they are of a whole batch."""
        return None

    def predict_for_training(self, given: Tensor, n_steps: int) -> Tensor:
        """Prediction of a whole batch in normalised units, with whatever training adds."""
        return self._predict(given, self.noise(given), n_steps)

    def batch_loss(self, given: Tensor, truth: Tensor, noise: Tensor | None) -> Tensor:
        """Loss of a batch, mean over samples and steps: a function of its arguments and the weights, to be compiled."""
        return self._mean_loss(self._predict(given, noise, truth.shape[1]), truth)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Loss of a batch: summed over the steps of a rollout. Logged as `train_loss_step`: its mean over the steps.

        Of several processes each has its part of the batch, and a weight that makes the mean of their gradients that of
        the whole batch.
        """
        given, truth = batch
        share = None if self.shares is None else self.shares.share(batch_idx)
        loss = (self.compiled or self.batch_loss)(given, truth, self.noise(given, share))
        expect_finite(
            loss, self.current_epoch, batch_idx, lr=self.optimizer_settings.lr, clip=self.optimizer_settings.clip
        )
        self.log("train_loss_step", loss.detach())
        self._training.add(loss, len(given) if share is None else share.samples)
        if share is not None and share.weight != 1:
            loss = loss * share.weight
        return loss if self.trained.rollout is None else loss * truth.shape[1]

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Gradient of the (scaled) result of `training_step`."""
        if self.compiled is None:
            super().backward(loss, *args, **kwargs)
        else:
            self.compiled.backward(loss)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Add a batch to the validation scores."""
        given, truth = batch
        prediction = self.trained.predict_normalized(given, truth.shape[1])
        self._validation.add(self._mean_loss(prediction, truth), len(given))
        self.scores.update(self.trained, prediction, truth)

    def validation_items(self, dataset: OperatorDataset | TrajectoryDataset) -> Items:
        """What a validation goes through: the pairs, or each trajectory once, from its first frames to its end."""
        return evaluation_items(dataset, self.trained.rollout)

    def on_train_epoch_start(self) -> None:
        """Forget the losses of the last epoch."""
        self._training = _Mean()

    def on_validation_epoch_start(self) -> None:
        """Forget the last validation; the running averages of all processes become those that are saved."""
        self._validation, self.scores = _Mean(), Scores(rollout=self.trained.rollout is not None)
        self.process.take_over(self.model.buffers())

    def on_validation_epoch_end(self) -> None:
        """Log the epoch's losses and, as `validation/<metric>`, the metrics over the whole validation set."""
        mine = self._training.plain(), self._validation.plain(), self.scores
        training, validation, scores = zip(*self.process.gather(mine), strict=True)
        for other in scores[1:]:
            scores[0].merge(other)
        found = {f"validation/{name}": value for name, value in scores[0].compute().items()}
        self.log_dict({"train_loss_epoch": _mean(training), "validation_loss": _mean(validation), **found})

    def configure_optimizers(self) -> Any:
        """Optimiser and schedule from the settings."""
        total = int(self.trainer.estimated_stepping_batches)
        per_epoch = max(1, total // (self.trainer.max_epochs or 1))
        plugin, clip = self.trainer.precision_plugin, self.optimizer_settings.clip
        optimizer, scheduler = build_optimizer(
            self.model,
            self.optimizer_settings,
            steps_per_epoch=per_epoch,
            total_steps=total,
            scaled=isinstance(plugin, MixedPrecision) and (clip > 0 or plugin.scaler is not None),
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _predict(self, given: Tensor, noise: Tensor | None, n_steps: int) -> Tensor:
        raise NotImplementedError

    def _mean_loss(self, prediction: Tensor, truth: Tensor) -> Tensor:
        """Mean over samples, and over the steps of a rollout, from normalised prediction and physical truth."""
        if self.loss_units == "physical":
            prediction = self.output_normalizer.decode(prediction)
        else:
            truth = self.output_normalizer.encode(truth)
        if self.trained.rollout is not None:  # every step of every rollout is a sample
            prediction, truth = prediction.flatten(0, 1), truth.flatten(0, 1)
        return self._loss(prediction, truth)


class _Mean:
    """A mean over samples, from means over batches."""

    def __init__(self) -> None:
        self._total: Tensor | float = 0.0
        self._samples = 0

    def add(self, mean: Tensor, samples: int) -> None:
        if samples:  # what does not count may be NaN
            self._total = self._total + mean.detach().float() * samples
            self._samples += samples

    def plain(self) -> tuple[float, int]:
        """Sum and number of samples."""
        return float(self._total), self._samples


def _mean(parts: Iterable[tuple[float, int]]) -> float:
    totals, samples = zip(*parts, strict=True)
    return sum(totals) / sum(samples)


class OperatorTask(_Task):
    """Learn an operator from pairs (input field, output field), in one shot.

    Args:
        model: `(B, C_in, *grid)` to `(B, C_out, *grid)`, in normalised units.
        input_normalizer: None trains on the inputs as they are.
        output_normalizer: likewise.
        loss: a name in `kinn.train.losses.LOSSES`.
        loss_units: whether the loss is taken in normalised or in physical units.
        optimizer: defaults to `OptimizerSettings()`.

    Raises:
        ValueError: if a name is unknown.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        input_normalizer: Normalizer | None = None,
        output_normalizer: Normalizer | None = None,
        loss: str = "relative_l1",
        loss_units: Units = "normalized",
        optimizer: OptimizerSettings | None = None,
    ) -> None:
        trained = TrainedModel(model, input_normalizer or Identity(), output_normalizer or Identity())
        super().__init__(trained, loss=loss, loss_units=loss_units, optimizer=optimizer)

    def training_items(self, dataset: OperatorDataset | TrajectoryDataset) -> Items:
        """What an epoch goes through: the pairs."""
        return expect_kind(dataset, OperatorDataset)

    def _predict(self, given: Tensor, noise: Tensor | None, n_steps: int) -> Tensor:
        return self.trained.predict_normalized(given)


class RolloutTask(_Task):
    """Learn to forecast: one frame from the `n_history` before it, unrolled over several steps while training.

    The gradient goes through the whole unroll; the loss is the sum over its steps. A validation rolls out from the
    first `n_history` frames of each trajectory to its end.

    Args:
        model: `(B, n_history * C, *grid)` to `(B, C, *grid)`, in normalised units.
        normalizer: of the frames; None trains on them as they are.
        rollout: number of frames that the model sees, and whether it predicts increments.
        unroll: steps predicted from each window of the training data, `S`.
        window_stride: frames from one training window of a trajectory to the next.
        input_noise: standard deviation of the Gaussian noise added to the given frames of training windows, in
            normalised units.
        loss: a name in `kinn.train.losses.LOSSES`.
        loss_units: whether the loss is taken in normalised or in physical units.
        optimizer: defaults to `OptimizerSettings()`.

    Raises:
        ValueError: if a name is unknown or a number out of its range.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        normalizer: Normalizer | None = None,
        rollout: Rollout | None = None,
        unroll: int = 1,
        window_stride: int = 1,
        input_noise: float = 0.0,
        loss: str = "relative_l2",
        loss_units: Units = "normalized",
        optimizer: OptimizerSettings | None = None,
    ) -> None:
        if unroll < 1 or window_stride < 1 or not input_noise >= 0:
            raise ValueError(
                "unroll and window_stride must be at least 1 and input_noise at least 0, "
                f"but they are {unroll}, {window_stride} and {input_noise}"
            )
        normalizer = normalizer or Identity()
        self.rollout = rollout or Rollout()
        trained = TrainedModel(model, normalizer, normalizer, self.rollout)
        super().__init__(trained, loss=loss, loss_units=loss_units, optimizer=optimizer)
        self.unroll, self.window_stride, self.input_noise = unroll, window_stride, input_noise

    def describe(self) -> dict[str, Any]:
        """See `_Task.describe`."""
        described = super().describe()
        for name in ("unroll", "window_stride", "input_noise"):
            described["task"][name] = getattr(self, name)
        return described

    def training_items(self, dataset: OperatorDataset | TrajectoryDataset) -> Items:
        """What an epoch goes through: all windows of `n_history + unroll` frames."""
        return TrajectoryWindows(
            expect_kind(dataset, TrajectoryDataset),
            n_history=self.rollout.n_history,
            n_future=self.unroll,
            stride=self.window_stride,
        )

    def noise(self, given: Tensor, share: Share | None = None) -> Tensor | None:
        """See `_Task.noise`."""
        if self.input_noise == 0:
            return None
        share = share or Share.whole(len(given))
        # a function of seed and step alone, and drawn for the whole batch on the CPU: a resumed run, another device and
        # several see the same
        generator = torch.Generator().manual_seed(epoch_seed(self.seed, self.global_step))
        noise = torch.randn(share.size, *given.shape[1:], generator=generator)[share.part]
        return self.input_noise * noise.to(given)

    def _predict(self, given: Tensor, noise: Tensor | None, n_steps: int) -> Tensor:
        history = self.output_normalizer.encode(given)
        return self.rollout.unroll(self.model, history if noise is None else history + noise, n_steps)
