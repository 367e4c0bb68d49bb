"""Which implementation computes: chosen here and nowhere else."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kinn.notices import warn_once
from kinn.ops import cpu, triton
from kinn.ops.autograd import transformed
from kinn.ops.expect import expect_one_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

BACKENDS = ("auto", "cpu", "triton", "reference")
_FASTEST = {"cpu": "cpu", "cuda": "triton", "meta": "cpu"}  # by the kind of device; operators know their shapes
_preferred = "auto"


@contextlib.contextmanager
def use_backend(backend: str) -> Iterator[None]:
    """Let this backend stand for "auto", for layers and models too, which take no `backend` of their own.

    For second derivatives, the compiled scans being differentiable once; or to compare. It applies to the whole
    process, while the context lasts; backward passes follow the forward that they belong to, but
    for activation checkpointing, which runs the forward again and must lie inside with its backward.

    Args:
        backend: "auto", "cpu", "triton" or "reference", see :func:`selective_scan`.

    Raises:
        ValueError: an unknown backend.

    >>> from kinn.nn import KirchhoffBlock
    >>> block, x = KirchhoffBlock(4, n_axes=1), torch.rand(1, 5, 4, requires_grad=True)
    >>> with use_backend("reference"):
    ...     (slope,) = torch.autograd.grad(block(x).sum(), x, create_graph=True)
    >>> torch.autograd.grad(slope.square().sum(), x)[0].shape
    torch.Size([1, 5, 4])
    """
    global _preferred
    expect_one_of("use_backend", BACKENDS, backend=backend)
    before, _preferred = _preferred, backend
    try:
        yield
    finally:
        _preferred = before


def kernels_fit(x: Tensor, parameters: Sequence[Tensor | None], most_weights: int) -> bool:
    """Whether fused kernels compute a block's other parts: see `kinn.ops.cpu.kernels_fit`; the reference has none."""
    if _preferred == "reference" or not cpu.kernels_fit(x, parameters, most_weights):
        return False
    reason = cpu.unavailable()
    if reason is not None:
        warn_once(f"fused layers run as plain PyTorch, because {reason}")
    return reason is None


def backend_for(where: str, backend: str, device: torch.device) -> str:
    """The backend that is to compute: "cpu", "triton" or "reference".

    Where nothing compiled can run, "auto" is the reference, announced by a warning, once, that names the reason.

    Raises:
        ValueError: a device that the backend does not run on.
        RuntimeError: the backend asked for cannot run.
    """
    backend = _preferred if backend == "auto" else backend
    if backend == "reference":
        return backend
    if backend == "cpu" and device.type != "cpu":
        raise ValueError(f"{where}: backend 'cpu' takes CPU tensors, got {device}")
    if backend == "triton" and device.type != "cuda" and not (device.type == "cpu" and triton.interpreted()):
        raise ValueError(f"{where}: backend 'triton' takes CUDA tensors, got {device}")
    chosen = _FASTEST.get(device.type) if backend == "auto" else backend
    if transformed():
        reason = "forward-mode derivatives and transforms of torch.func have no compiled kernels"
    elif chosen == "cpu":
        reason = cpu.unavailable()
    elif chosen == "triton":
        reason = triton.unavailable()
    else:
        reason = f"there are no compiled kernels for device {device.type!r}"
    if reason is None:
        assert chosen is not None
        return chosen
    if backend != "auto":
        raise RuntimeError(f"{where}: backend {backend!r} cannot run: {reason}")
    _warn_slow(reason)
    return "reference"


def _warn_slow(reason: str) -> None:
    warn_once(f"scans run in the slow reference loop, because {reason}")


# Called while tracing, not in the graph, as by `torch.compiler.assume_constant_result`, which would load the compiler.
_warn_slow._dynamo_marked_constant = True  # pyright: ignore[reportFunctionMemberAccess]
