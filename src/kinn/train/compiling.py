"""The loss of a training step through `torch.compile`, and without it from the first failure on.

What is compiled is the whole loss of a batch, so that a rollout of many steps and its gradient are one graph each. The
model itself stays as it is: its file, its checkpoints, validation and evaluation know nothing of this.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from kinn.train.tasks import OperatorTask, RolloutTask

AUTO_STEPS = 5000
"""From so many optimiser steps on `auto` compiles: compiling takes tens of seconds, a step saves milliseconds."""


def chosen_mode(setting: str, *, device: str, steps: int, devices: int = 1) -> tuple[str, str | None]:
    """How the training step is compiled, and what to tell the user about it.

    Args:
        setting: `TrainSettings.compile`.
        device: the kind of device, such as `cuda`.
        steps: optimiser steps of the whole run.
        devices: how many train together.

    Returns:
        `none`, `kernels` or `cuda-graphs`; and why that is not what was asked for, or None.

    Example:
        >>> chosen_mode("auto", device="cuda", steps=20_000), chosen_mode("auto", device="cpu", steps=20_000)
        (('cuda-graphs', None), ('none', None))
    """
    if devices > 1:
        # a step that failed on its way back could not be done again: part of its gradients are averaged already
        asked = setting in ("kernels", "cuda-graphs")
        return "none", "steps on several devices are not compiled" if asked else None
    if setting == "auto":
        # on a CPU the compiled step is slower than kinn's own kernels
        return ("cuda-graphs" if device == "cuda" and steps >= AUTO_STEPS else "none"), None
    if setting == "cuda-graphs" and device != "cuda":
        return "none", f"CUDA graphs need a CUDA device, and this run is on '{device}'"
    return setting, None


@contextmanager
def compiled_loss(
    task: OperatorTask | RolloutTask,
    setting: str,
    *,
    device: torch.device,
    steps: int,
    devices: int,
    context: Callable[[], AbstractContextManager],
) -> Iterator[CompiledLoss | None]:
    """Within it, the steps of the task are compiled as `chosen_mode` says; gives what compiles them, if anything does.

    Args:
        task: to train.
        setting: `TrainSettings.compile`.
        device: that it is trained on.
        steps: optimiser steps of the whole run.
        devices: how many train together.
        context: that the trainer runs a step in (autocast).
    """
    mode, reason = chosen_mode(setting, device=device.type, steps=steps, devices=devices)
    if reason is not None:
        _tell(reason)
    if mode == "none":
        yield None
        return
    compiled = CompiledLoss(task.batch_loss, task.model, cuda_graphs=mode == "cuda-graphs", context=context)
    task.compiled = compiled
    try:
        yield compiled
    finally:
        compiled.close()
        task.compiled = None


class CompiledLoss:
    """A loss through `torch.compile`, and as it is from the first failure on.

    Whatever fails - compiling, capturing a CUDA graph, the first run or a later one, forward or backward - the step is
    done again without compiling, from the same buffers and random state, and one warning names the reason. Batches of
    another shape than the first (the last of an epoch) are not compiled.

    Args:
        loss: of a batch: a scalar, which depends on nothing but its arguments and the weights.
        model: whose parameters get the gradient.
        cuda_graphs: record the compiled kernels into CUDA graphs.
        context: that the loss is called in, for calling it again.
    """

    def __init__(
        self,
        loss: Callable[..., Tensor],
        model: nn.Module,
        *,
        cuda_graphs: bool,
        context: Callable[[], AbstractContextManager],
    ) -> None:
        self._loss, self._model, self._cuda_graphs, self._context = loss, model, cuda_graphs, context
        self._compiled: Callable[..., Tensor] | None = None
        self._start = _StepStart(model)
        self._shapes: list[torch.Size | None] | None = None
        self._pending: _Pending | None = None
        self._skips: int | None = None
        self.failed = False
        self.outcome = "cuda-graphs" if cuda_graphs else "kernels"
        """What the steps became: `kernels`, `cuda-graphs`, `cuda-graphs in part`, or `failed`."""

    def __call__(self, *batch: Tensor | None) -> Tensor:
        """The loss of a batch; only `backward` leads from it to the gradient."""
        self._pending = None
        shapes = [None if tensor is None else tensor.shape for tensor in batch]
        self._shapes = self._shapes or shapes
        if self.failed or shapes != self._shapes:
            return self._loss(*batch)
        self._start.note()
        try:
            if self._compiled is None:
                # the number of unrolled steps, and so all shapes, are fixed
                mode = "reduce-overhead" if self._cuda_graphs else None
                if self._cuda_graphs:  # else what operators keep lies in the graphs' own memory, which they refuse
                    with torch.no_grad():
                        self._loss(*batch)
                    self._start.restore()
                self._compiled, self._skips = torch.compile(self._loss, mode=mode, dynamic=False), _graph_skips()
            if self._cuda_graphs:
                torch.compiler.cudagraph_mark_step_begin()  # the last step's results may be written over
            loss = self._compiled(*batch)
        except Exception as error:
            failure = error
        else:
            # a copy, because the next replay of a CUDA graph writes over its results; cut off, so that `backward`
            # can take another way to the same gradient
            cut = loss.detach().clone().requires_grad_()
            self._pending = _Pending(batch, loss, cut)
            return cut
        return self._without(failure, batch)

    def backward(self, loss: Tensor) -> None:
        """Add the gradient to the parameters, which must have none yet.

        Args:
            loss: what was made of the result of the last call (scaled, summed over steps).
        """
        pending, self._pending = self._pending, None
        if pending is None:
            loss.backward()
            return
        (seed,) = torch.autograd.grad(loss, pending.cut)
        try:
            pending.loss.backward(seed)
        except Exception as error:
            failure = error
        else:
            self._check_graphs()
            return
        self._model.zero_grad(set_to_none=True)  # some may have arrived
        batch = pending.batch
        del pending
        with self._context():
            again = self._without(failure, batch)
        again.backward(seed)

    def close(self) -> None:
        """Forget what was compiled, and free the memory of CUDA graphs."""
        self._pending = None
        if self._compiled is not None:
            self._compiled = None
            # else the next run of this process meets the limit on variants of one function
            torch.compiler.reset()

    def _without(self, failure: Exception, batch: tuple[Tensor | None, ...]) -> Tensor:
        self.failed, self.outcome = True, "failed"
        self.close()
        self._start.restore()
        loss = self._loss(*batch)  # an error of the model itself comes up here, as it is
        _tell(_reason(failure))
        return loss

    def _check_graphs(self) -> None:
        """The compiler leaves CUDA graphs out without a word where it cannot use them."""
        before, self._skips = self._skips, None
        if self._cuda_graphs and before is not None and _graph_skips() > before:
            self.outcome = "cuda-graphs in part"
            warnings.warn(
                "kinn: the training step is compiled, but not all of it into CUDA graphs "
                "(TORCH_LOGS=perf_hints names the reason)",
                stacklevel=3,
            )


class _Pending(NamedTuple):
    """A step between forward and backward: its batch, the compiled loss, and the copy that the trainer has."""

    batch: tuple[Tensor | None, ...]
    loss: Tensor
    cut: Tensor


class _StepStart:
    """Buffers (statistics of batch norms) and random state (dropout) as a step found them."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._buffers: list[Tensor] | None = None
        self._copies: list[Tensor] = []
        self._random: tuple[Tensor, Tensor | None] | None = None

    @torch.no_grad()
    def note(self) -> None:
        if self._buffers is None:
            self._buffers = list(self._model.buffers())
            self._copies = [torch.empty_like(buffer) for buffer in self._buffers]
        if self._buffers:  # all in a few launches
            torch._foreach_copy_(self._copies, self._buffers)
        on_gpu = torch.cuda.is_available() and torch.cuda.is_initialized()
        self._random = torch.get_rng_state(), torch.cuda.get_rng_state() if on_gpu else None

    @torch.no_grad()
    def restore(self) -> None:
        assert self._buffers is not None
        assert self._random is not None
        if self._buffers:
            torch._foreach_copy_(self._buffers, self._copies)
        cpu, gpu = self._random
        torch.set_rng_state(cpu)
        if gpu is not None:
            torch.cuda.set_rng_state(gpu)


def _graph_skips() -> int:
    from torch._dynamo.utils import counters

    return counters["inductor"]["cudagraph_skips"]


def _tell(reason: str) -> None:
    warnings.warn(f"kinn: the training goes on without compiling its steps, because {reason}", stacklevel=2)


def _reason(failure: Exception) -> str:
    """The first line that says something; the compiler wraps the error of its backend."""
    inner = getattr(failure, "inner_exception", None) or failure
    lines = [line.strip() for line in str(inner).splitlines() if line.strip()]
    return f"{type(inner).__name__}: {lines[0][:300]}" if lines else type(inner).__name__
