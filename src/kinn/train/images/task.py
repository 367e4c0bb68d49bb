"""What an optimiser step of an image classifier does; what a validation measures, of the weights and their average."""

from __future__ import annotations

from typing import Any, NamedTuple

import lightning
import torch
from timm.data import Mixup
from timm.optim import create_optimizer_v2
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR

from kinn.train.images.data import SeededStream, seed_augmentation
from kinn.train.images.settings import ImageSettings
from kinn.train.losses import expect_finite
from kinn.train.processes import Process


class Counts:
    """Sums over images: loss, hits among the first and the first five.

    >>> counts = Counts()
    >>> counts.add(torch.eye(6)[:2], torch.tensor([0, 5]))
    >>> counts.result()["top1"]
    50.0
    """

    def __init__(self) -> None:
        self.sums = torch.zeros(4, dtype=torch.float64)

    def add(self, logits: Tensor, classes: Tensor) -> None:
        """Count a batch: logits `(b, classes)`, classes `(b,)`."""
        logits = logits.float()
        first = logits.topk(min(5, logits.shape[1])).indices == classes[:, None]
        loss = F.cross_entropy(logits, classes, reduction="sum")
        batch = torch.stack([loss, first[:, 0].sum(), first.sum(), torch.tensor(len(classes), device=loss.device)])
        self.sums += batch.double().cpu()

    def result(self, process: Process = Process()) -> dict[str, float]:  # noqa: B008  immutable
        """Loss and percent of hits (`top1`, `top5`), and the number of `images`, over all processes."""
        loss, first, five, images = torch.stack(process.gather(self.sums)).sum(0).tolist()
        count = max(images, 1)
        return {"loss": loss / count, "top1": 100 * first / count, "top5": 100 * five / count, "images": images}


class Reported(NamedTuple):
    """Which of the two sets of weights is reported."""

    name: str
    model: nn.Module


class ImageTask(lightning.LightningModule):
    """A classifier under training.

    Args:
        model: images to logits.
        settings: how.
        classes: number of them.
        steps_per_epoch: optimiser steps.
        process: which part of every batch this process has.
    """

    def __init__(
        self, model: nn.Module, settings: ImageSettings, *, classes: int, steps_per_epoch: int, process: Process
    ) -> None:
        super().__init__()
        self.model, self.settings = model, settings
        self.seed, self.steps_per_epoch, self.process = settings.seed, steps_per_epoch, process
        # towards its decay by way of smaller ones: else short runs would report little more than the first weights
        self.ema = ModelEmaV3(model, decay=settings.ema, use_warmup=True) if settings.ema else None
        self.weights: dict[str, nn.Module] = {"raw": model}  # the last ones are reported
        if self.ema is not None:
            self.ema.requires_grad_(False)
            self.weights["ema"] = self.ema.module
        self._mix = (
            Mixup(settings.mixup, settings.cutmix, label_smoothing=settings.smoothing, num_classes=classes)
            if settings.mixup or settings.cutmix
            else None
        )
        self.classes = classes
        self._counts = {name: Counts() for name in self.weights}
        self._updated = 0

    def reported(self) -> Reported:
        """The averaged weights, if there are any."""
        return Reported(*list(self.weights.items())[-1])

    def on_train_epoch_start(self) -> None:
        """Count from the steps that were taken before a resume; tell a stream the epoch."""
        self._updated = self.global_step
        images = getattr(self.trainer.train_dataloader, "dataset", None)
        if isinstance(images, SeededStream):
            images.set_epoch(self.current_epoch)

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Refuse a class that the model has no logit for."""
        if (found := int(batch[1].max())) >= self.classes:
            raise ValueError(f"the model has {self.classes} classes, but the images hold class {found}, counted from 0")
        return batch

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Cross entropy against mixed and smoothed labels, mean over the batch."""
        images, classes = batch
        # of mixing and dropped paths: by the batch alone, so that a resumed run goes on alike
        seed_augmentation(self.seed, self.current_epoch, batch_idx, self.process.rank)
        if self._mix is not None and len(images) > 1:
            even = len(images) // 2 * 2
            images, targets = self._mix(images[:even], classes[:even])
            loss = F.cross_entropy(self.model(images).float(), targets)
        else:
            loss = F.cross_entropy(self.model(images).float(), classes, label_smoothing=self.settings.smoothing)
        expect_finite(loss, self.current_epoch, batch_idx, lr=self.settings.lr, clip=self.settings.clip)
        self.log("train_loss", loss.detach(), on_step=True, on_epoch=True, batch_size=len(images))
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Average the weights after every optimiser step."""
        if self.ema is not None and self.global_step > self._updated:
            self.ema.update(self.model, self.global_step)
            self._updated = self.global_step

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Count hits of the weights and of their average."""
        images, classes = batch
        for name, model in self.weights.items():
            self._counts[name].add(model(images), classes)

    def on_validation_epoch_end(self) -> None:
        """Log both; `validation_loss` is that of the averaged weights, if there are any."""
        found = {name: counts.result(self.process) for name, counts in self._counts.items()}
        self._counts = {name: Counts() for name in self.weights}
        self.log("validation_loss", found[self.reported().name]["loss"])
        for name, measured in found.items():
            for metric in ("loss", "top1", "top5"):
                self.log(f"validation/{name}_{metric}", measured[metric])

    def configure_optimizers(self) -> Any:
        """AdamW without decay on what `no_weight_decay` names and on vectors; the schedule goes by optimiser step."""
        s = self.settings
        optimizer = create_optimizer_v2(
            self.model, "adamw", lr=s.lr, weight_decay=s.weight_decay, betas=s.betas, layer_decay=s.layer_decay
        )
        for group in optimizer.param_groups:
            group["lr"] = s.lr * group.get("lr_scale", 1.0)
        schedule = LambdaLR(optimizer, lambda step: s.learning_rate(step, self.steps_per_epoch) / s.lr)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
