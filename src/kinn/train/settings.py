"""How to train: frozen settings for the optimiser and for the run, and the optimiser built from them."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Literal

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from kinn.notices import warn_once


@dataclass(frozen=True)
class OptimizerSettings:
    """Optimiser, learning-rate schedule and gradient clipping.

    Args:
        name: `adam` (weight decay added to the gradient) or `adamw` (decoupled weight decay).
        lr: the peak learning rate.
        weight_decay: strength of the weight decay.
        decay_all: apply it to every parameter, as Li's and CNO's recipes do; else decay rates, skips, norms and
            biases are spared (`kinn.nn.no_weight_decay`).
        schedule: `constant`; `step` (times `step_factor` every `step_epochs` epochs); `cosine` (down to
            `final_fraction` of `lr`); `one-cycle` (linear warm-up over `warmup_fraction` of the training, then cosine).
        step_epochs: period of `step`, in epochs.
        step_factor: factor of `step`.
        warmup_fraction: of the training, for `one-cycle`.
        final_fraction: of `lr`, where `cosine` and `one-cycle` end.
        clip: largest norm of the gradient over all parameters; 0 does not clip.

    Raises:
        ValueError: if a name is unknown or a number out of its range.
    """

    name: Literal["adam", "adamw"] = "adamw"
    lr: float = 1e-3
    weight_decay: float = 1e-4
    decay_all: bool = False
    schedule: Literal["constant", "step", "cosine", "one-cycle"] = "cosine"
    step_epochs: int = 100
    step_factor: float = 0.5
    warmup_fraction: float = 0.1
    final_fraction: float = 0.01
    clip: float = 0.0

    def __post_init__(self) -> None:
        expect_one_of("optimiser", self.name, ("adam", "adamw"))
        expect_one_of("schedule", self.schedule, ("constant", "step", "cosine", "one-cycle"))
        _within("lr", self.lr, low=0, open_low=True)
        _within("weight_decay", self.weight_decay, low=0)
        _whole("step_epochs", self.step_epochs, low=1)
        _within("step_factor", self.step_factor, low=0, high=1, open_low=True)
        _within("warmup_fraction", self.warmup_fraction, low=0, high=1)
        _within("final_fraction", self.final_fraction, low=0, high=1)
        _within("clip", self.clip, low=0)


@dataclass(frozen=True)
class TrainSettings:
    """One training run.

    Args:
        epochs: passes over the training data.
        batch_size: samples per optimiser step, over all devices together: each takes an equal part.
        seed: of the order of the data, input noise and dropout; of initial weights, where they are drawn for a run.
            Below 2^32.
        patience: stop after so many epochs without a better validation loss; None never stops early.
        precision: `32`, or mixed `bf16` or `16`.
        device: `auto` (a CUDA GPU that PyTorch can use, else the CPU), `cpu`, `cuda` or `mps`.
        devices: how many of them train together, each in a process of its own. The numbers are those of one device,
            but for rounding, dropout and batch norms in training (see `docs/training.md`).
        workers: processes that read data, for each device; 0 reads in the process that trains.
        compile: the training step by `torch.compile`, in fused `kernels` or in `cuda-graphs` of them; `none`; `auto`
            (`cuda-graphs` for long runs on a GPU, else `none`). Where it fails the run goes on without.
        deterministic: only deterministic kernels (matters on GPUs; slower). Sets `CUBLAS_WORKSPACE_CONFIG` in the
            environment, unless it is set.
        batch_norm_batches: training batches, at most, over which batch norms measure their statistics before a
            validation; 0 keeps the running averages of training.
        log_every: optimiser steps between two points of the TensorBoard log.
        checkpoint_every: epochs between two checkpoints to resume from.

    Raises:
        ValueError: if a name is unknown or a number out of its range.
    """

    epochs: int = 100
    batch_size: int = 16
    seed: int = 0
    patience: int | None = None
    precision: Literal["32", "bf16", "16"] = "32"
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    devices: int = 1
    workers: int = 0
    compile: Literal["auto", "none", "kernels", "cuda-graphs"] = "auto"
    deterministic: bool = False
    batch_norm_batches: int = 64
    log_every: int = 10
    checkpoint_every: int = 1

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "devices", "log_every", "checkpoint_every"):
            _whole(name, getattr(self, name), low=1)
        _whole("seed", self.seed, low=0, high=2**32 - 1)
        _whole("workers", self.workers, low=0)
        _whole("batch_norm_batches", self.batch_norm_batches, low=0)
        if self.patience is not None:
            _whole("patience", self.patience, low=1)
        if self.batch_size % self.devices:
            raise ValueError(
                f"batch_size counts the samples of all devices together: it must be a multiple of devices "
                f"({self.devices}), but is {self.batch_size}"
            )
        expect_one_of("precision", self.precision, ("32", "bf16", "16"))
        expect_one_of("device", self.device, ("auto", "cpu", "cuda", "mps"))
        expect_one_of("compile", self.compile, ("auto", "none", "kernels", "cuda-graphs"))
        if self.deterministic:  # PyTorch reads it once, at the first product on a GPU: before any trainer is made
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def chosen_device(name: str | torch.device) -> torch.device:
    """The device of this name; `auto` is a CUDA GPU that PyTorch can use, else the CPU, with a warning if there is one.

    Raises:
        ValueError: if there is no such device here, or PyTorch cannot use it.
    """
    if name == "auto":  # never mps, where scans are loops in Python
        try:
            return chosen_device("cuda" if torch.cuda.is_available() else "cpu")
        except ValueError as error:
            warn_once(f"computing on the CPU, because {error}")
            return torch.device("cpu")
    try:
        device = torch.device(name)
        torch.ones(1, device=device)  # runs a kernel: this PyTorch may have none for the GPU
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"the device '{name}' cannot be used here: {str(error).splitlines()[0]}") from error
    return device


def expect_devices(device: torch.device, count: int) -> None:
    """Check that there are so many devices of this kind; on a CPU, any number of processes share it.

    Raises:
        ValueError: if there are fewer.
    """
    here = {"cpu": count, "cuda": torch.cuda.device_count()}.get(device.type, 1)
    if count > here:
        raise ValueError(f"devices must be at most {here}, the number of '{device.type}' devices here, but is {count}")


def learning_rate_factor(settings: OptimizerSettings, *, step: int, steps_per_epoch: int, total_steps: int) -> float:
    """The learning rate at an optimiser step, as a fraction of `settings.lr`.

    Args:
        settings: schedule and its numbers.
        step: 0, 1, ... `total_steps - 1`.
        steps_per_epoch: of this training.
        total_steps: of this training.

    Example:
        >>> settings = OptimizerSettings(schedule="step", step_epochs=10, step_factor=0.5)
        >>> learning_rate_factor(settings, step=250, steps_per_epoch=10, total_steps=1000)
        0.25
    """
    if settings.schedule == "constant":
        return 1.0
    if settings.schedule == "step":
        return settings.step_factor ** (step // steps_per_epoch // settings.step_epochs)
    warmup = int(settings.warmup_fraction * total_steps) if settings.schedule == "one-cycle" else 0
    if step < warmup:
        return (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, total_steps - warmup))
    return settings.final_fraction + (1 - settings.final_fraction) * (1 + math.cos(math.pi * progress)) / 2


def fused_fits(parameters: Iterable[tuple[str, torch.dtype]], *, scaled: bool) -> bool:
    """Whether one kernel can update all parameters: else PyTorch chooses, on a GPU one kernel per operation.

    Args:
        parameters: their kinds of device and their dtypes. Complex ones have no such kernel.
        scaled: gradients are scaled, or clipped in mixed precision: the fused kernel would undo scaling after
            clipping, so that Lightning refuses it there, scaled or not.

    Example:
        >>> fused_fits([("cuda", torch.float32), ("cuda", torch.complex64)], scaled=False)
        False
    """
    return not scaled and all(device in ("cpu", "cuda") and dtype.is_floating_point for device, dtype in parameters)


def build_optimizer(
    model: nn.Module, settings: OptimizerSettings, *, steps_per_epoch: int, total_steps: int, scaled: bool = False
) -> tuple[torch.optim.Optimizer, LambdaLR]:
    """Optimiser and schedule (stepped once per optimiser step) for the trainable parameters of a model.

    Args:
        model: on the device that it is trained on.
        settings: of both.
        steps_per_epoch: of this training.
        total_steps: of this training.
        scaled: see `fused_fits`.

    Raises:
        ValueError: if no parameter is trainable.
    """
    from kinn.nn import no_weight_decay

    spared = set() if settings.decay_all else set(no_weight_decay(model))
    groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups[name not in spared].append(parameter)
    if not any(groups.values()):
        raise ValueError(f"the model {type(model).__name__} has no trainable parameters")
    optimizer = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[settings.name](
        [
            {"params": parameters, "weight_decay": settings.weight_decay if decays else 0.0}
            for decays, parameters in groups.items()
            if parameters
        ],
        lr=settings.lr,
        # after the groups, which must not depend on the device: a run may go on on another one
        fused=fused_fits(((p.device.type, p.dtype) for g in groups.values() for p in g), scaled=scaled) or None,
    )
    optimizer.register_load_state_dict_pre_hook(_keep_implementation)

    def factor(step: int) -> float:
        return learning_rate_factor(settings, step=step, steps_per_epoch=steps_per_epoch, total_steps=total_steps)

    return optimizer, LambdaLR(optimizer, factor)


def _keep_implementation(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint from another device holds the choice that was made there."""
    here = {"fused": optimizer.defaults["fused"]}
    return {**state, "param_groups": [{**group, **here} for group in state["param_groups"]]}


def epoch_seed(seed: int, epoch: int) -> int:
    """What the generators of one epoch (or step) start from; no two epochs of neighbouring seeds share it."""
    return seed * 1_000_003 + epoch


def expect_one_of(what: str, value: str, known: tuple[str, ...]) -> None:
    """Refuse any value but these, with a ValueError that names them."""
    if value not in known:
        options = known if isinstance(value, str) else map(repr, known)  # the number 32 is not '32'
        raise ValueError(f"{what} must be one of {', '.join(options)}, but is {value!r}")


def _whole(what: str, value: int, *, low: int, high: float = math.inf) -> None:
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise ValueError(f"{what} must be a whole number, but is {value!r}")
    _within(what, value, low=low, high=high)


def _within(what: str, value: float, *, low: float, high: float = math.inf, open_low: bool = False) -> None:
    if not math.isfinite(value) or value > high or value < low or (open_low and value == low):
        bounds = f"{'above' if open_low else 'at least'} {low:g}" + (
            f" and at most {high:.10g}" if high < math.inf else ""
        )
        raise ValueError(f"{what} must be {bounds}, but is {value!r}")
