"""How to train an image classifier: the defaults are VMamba's recipe, which the paper follows."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any, Literal

from kinn.train.settings import expect_one_of

#: Stochastic depth by model: deeper ones drop more.
_DROP_PATH = {"kinn_tiny": 0.2, "kinn_small": 0.3, "kinn_base": 0.6}


@dataclass(frozen=True)
class ImageSettings:
    """One training on images.

    Args:
        model: a name in timm's registry, `kinn_tiny` or any other.
        model_arguments: of it, beside the number of classes and `drop_path_rate`.
        image_size: of square crops, in pixels.
        epochs: passes over the training images.
        batch_size: images per optimiser step, over all processes and accumulated parts together.
        accumulate: parts in which a process takes its share of a batch, one after the other, where memory is short.
        lr: peak learning rate of AdamW, for this batch size.
        final_lr: at the end of the cosine.
        warmup_lr: at the beginning of the warm-up.
        warmup_epochs: of linear growth.
        weight_decay: decoupled; spares rates, skips, norms and biases.
        betas: of AdamW.
        clip: largest norm of the gradient; 0 does not clip.
        layer_decay: factor on the learning rate from each layer to the one before; None for none.
        drop_path: stochastic depth; None for the recipe's (0.2, 0.3 and 0.6 for T, S and B, 0.1 for others).
        ema: decay of the running average of the weights, reached by way of smaller ones; 0 keeps none.
        smoothing: of labels.
        mixup: its alpha; 0 for none.
        cutmix: its alpha; 0 for none.
        auto_augment: timm's name of a policy; "" for none.
        color_jitter: strength, where there is no policy.
        hflip: probability of mirroring.
        scale: least and greatest part of an image in a random crop, such as `[0.08,1]`; None only resizes.
        erasing: probability of erasing a rectangle.
        crop: part of an image that evaluation looks at.
        interpolation: of evaluation; training draws one.
        seed: of weights, order and augmentation, below 2^32.
        precision: `32`, or mixed `bf16` or `16`.
        device: `auto`, `cpu`, `cuda` or `mps`.
        workers: processes that read images, for each process that trains.
        grad_checkpointing: form activations again in the backward: less memory, a third more work.
        log_every: optimiser steps between two points of the log.

    Raises:
        ValueError: a number out of its range.
    """

    model: str = "kinn_tiny"
    model_arguments: dict[str, Any] = field(default_factory=dict)
    image_size: int = 224
    epochs: int = 300
    batch_size: int = 1024
    accumulate: int = 1
    lr: float = 1e-3
    final_lr: float = 1e-5
    warmup_lr: float = 1e-6
    warmup_epochs: int = 20
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.999)
    clip: float = 5.0
    layer_decay: float | None = None
    drop_path: float | None = None
    ema: float = 0.9999
    smoothing: float = 0.1
    mixup: float = 0.8
    cutmix: float = 1.0
    auto_augment: str = "rand-m9-mstd0.5-inc1"
    color_jitter: float = 0.4
    hflip: float = 0.5
    scale: tuple[float, float] | None = (0.08, 1.0)
    erasing: float = 0.25
    crop: float = 0.875
    interpolation: str = "bicubic"
    seed: int = 0
    precision: Literal["32", "bf16", "16"] = "32"
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    workers: int = 4
    grad_checkpointing: bool = False
    log_every: int = 50

    def __post_init__(self) -> None:
        for name in ("image_size", "epochs", "batch_size", "accumulate", "log_every", "workers", "seed"):
            number = getattr(self, name)
            self._expect(name, isinstance(number, Integral) and not isinstance(number, bool), "a whole number")
        for name in ("image_size", "epochs", "batch_size", "accumulate", "log_every"):
            self._expect(name, getattr(self, name) >= 1, "at least 1")
        for name in ("final_lr", "warmup_lr", "warmup_epochs", "weight_decay", "clip", "mixup", "cutmix", "workers"):
            self._expect(name, getattr(self, name) >= 0, "at least 0")
        for name in ("ema", "smoothing"):
            self._expect(name, 0 <= getattr(self, name) < 1, "at least 0 and below 1")
        for name in ("hflip", "erasing"):
            self._expect(name, 0 <= getattr(self, name) <= 1, "between 0 and 1")
        self._expect("lr", self.lr > 0, "positive")
        self._expect("crop", 0 < self.crop <= 1, "above 0 and at most 1")
        self._expect("seed", 0 <= self.seed < 2**32, "at least 0 and below 2^32")
        self._expect("drop_path", self.drop_path is None or 0 <= self.drop_path < 1, "at least 0 and below 1")
        self._expect("betas", all(0 <= beta < 1 for beta in self.betas), "two numbers, at least 0 and below 1")
        low, high = self.scale or (1, 1)
        self._expect("scale", 0 < low <= high <= 1, "None or two numbers, above 0, at most 1, the lower first")
        expect_one_of("precision", self.precision, ("32", "bf16", "16"))
        expect_one_of("device", self.device, ("auto", "cpu", "cuda", "mps"))
        self._expect("layer_decay", self.layer_decay is None or 0 < self.layer_decay <= 1, "above 0 and at most 1")

    def _expect(self, name: str, holds: bool, what: str) -> None:
        if not holds:
            raise ValueError(f"{name} must be {what}, but is {getattr(self, name)}")

    @property
    def drop_path_rate(self) -> float:
        """Stochastic depth of this model."""
        return _DROP_PATH.get(self.model, 0.1) if self.drop_path is None else self.drop_path

    def learning_rate(self, step: int, steps_per_epoch: int) -> float:
        """The learning rate at an optimiser step: a linear warm-up, then a cosine.

        >>> settings = ImageSettings(epochs=300, warmup_epochs=20)
        >>> [round(settings.learning_rate(epoch * 10, 10), 7) for epoch in (0, 10, 20, 160, 300)]
        [1e-06, 0.0005005, 0.001, 0.000505, 1e-05]
        """
        warmup = min(self.warmup_epochs, self.epochs // 2) * steps_per_epoch
        if step < warmup:
            return self.warmup_lr + (self.lr - self.warmup_lr) * step / warmup
        progress = min(1.0, (step - warmup) / (self.epochs * steps_per_epoch - warmup))
        return self.final_lr + (self.lr - self.final_lr) * (1 + math.cos(math.pi * progress)) / 2
