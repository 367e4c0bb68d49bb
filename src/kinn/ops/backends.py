"""Which implementation computes: chosen here and nowhere else."""

from __future__ import annotations

import functools
import warnings
from typing import TYPE_CHECKING

from kinn.ops import cpu, triton

if TYPE_CHECKING:
    import torch

BACKENDS = ("auto", "cpu", "triton", "reference")
_FASTEST = {"cpu": "cpu", "cuda": "triton", "meta": "cpu"}  # by the kind of device; operators know their shapes


def backend_for(where: str, backend: str, device: torch.device) -> str:
    """The backend that is to compute: "cpu", "triton" or "reference".

    Where nothing compiled can run, "auto" is the reference, announced by a warning, once, that names the reason.

    Raises:
        ValueError: a device that the backend does not run on.
        RuntimeError: the backend asked for cannot run.
    """
    if backend == "reference":
        return backend
    if backend == "cpu" and device.type != "cpu":
        raise ValueError(f"{where}: backend 'cpu' takes CPU tensors, got {device}")
    if backend == "triton" and device.type != "cuda" and not (device.type == "cpu" and triton.interpreted()):
        raise ValueError(f"{where}: backend 'triton' takes CUDA tensors, got {device}")
    chosen = _FASTEST.get(device.type) if backend == "auto" else backend
    if chosen == "cpu":
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


@functools.cache
def _warn_slow(reason: str) -> None:
    warnings.warn(f"kinn: scans run in the slow reference loop, because {reason}", stacklevel=5)


def check_option(where: str, name: str, value: str, known: tuple[str, ...]) -> None:
    """Refuse a value that is not among those known."""
    if value not in known:
        raise ValueError(f"{where}: {name} must be one of {', '.join(map(repr, known))}, got {value!r}")
