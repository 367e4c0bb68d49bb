"""Which implementation computes: chosen here and nowhere else."""

from __future__ import annotations

import functools
import warnings
from typing import TYPE_CHECKING

from kinn.ops.cpu import unavailable

if TYPE_CHECKING:
    import torch

BACKENDS = ("auto", "cpu", "reference")


def slow_because(where: str, backend: str, device: torch.device) -> str | None:
    """Why the reference is to compute, because it was asked for or as a last resort; None for the compiled kernels.

    The last resort is announced by a warning, once.

    Raises:
        ValueError: a device that the backend does not run on.
        RuntimeError: the backend asked for cannot run.
    """
    if backend == "reference":
        return "it was asked for"
    if backend == "cpu" and device.type != "cpu":
        raise ValueError(f"{where}: backend 'cpu' takes CPU tensors, got {device}")
    reason = unavailable() if device.type == "cpu" else f"there are no compiled kernels for device {device.type!r}"
    if reason is not None:
        if backend != "auto":
            raise RuntimeError(f"{where}: backend {backend!r} cannot run: {reason}")
        _warn_slow(reason)
    return reason


@functools.cache
def _warn_slow(reason: str) -> None:
    warnings.warn(f"kinn: scans run in the slow reference loop, because {reason}", stacklevel=5)


def check_option(where: str, name: str, value: str, known: tuple[str, ...]) -> None:
    """Refuse a value that is not among those known."""
    if value not in known:
        raise ValueError(f"{where}: {name} must be one of {', '.join(map(repr, known))}, got {value!r}")
