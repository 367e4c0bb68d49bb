"""What a user should know once: a slow path, weights that cannot train, an untold grid; whether memory ran out."""

from __future__ import annotations

import functools
import sys
import warnings
from typing import Any

_NOT_USERS = ("kinn", "torch", "lightning", "pytorch_lightning", "multiprocessing")
_format = warnings.formatwarning


@functools.cache
def warn_once(message: str) -> None:
    """Warn, in the name of the first caller who is neither kinn nor what it calls through."""
    frame, level = sys._getframe(), 1
    while frame.f_back and frame.f_globals.get("__name__", "").split(".")[0] in _NOT_USERS:
        frame, level = frame.f_back, level + 1
    warnings.warn(f"kinn: {message}", stacklevel=level)


def format_warning(message: Warning | str, *where: Any, **line: Any) -> str:
    """For `warnings.formatwarning`: our own notices without the place in some library that they came through."""
    return f"{message}\n" if str(message).startswith("kinn: ") else _format(message, *where, **line)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out: torch raises a plain RuntimeError for it on a CPU."""
    import torch

    words = str(error).lower()
    return isinstance(error, MemoryError | torch.cuda.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and ("can't allocate memory" in words or "not enough memory" in words)
    )
