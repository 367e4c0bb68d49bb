"""Memory that is freed and asked for again in every step."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # of glibc's mallopt


def keep_freed_memory() -> bool:
    """Let the process keep the memory that it frees, instead of giving it back and asking for it again.

    Every step of a training frees and asks for the same tensors. By default glibc returns large ones to the system at
    once, and the next step pays for every page of them again: up to half of a step's time. What is kept stays below the
    largest amount in use at any time. Tensors above 32 MiB are not touched by this.

    Returns:
        whether it could be arranged: on Linux with glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    settings = ((_MMAP_THRESHOLD, 32 << 20), (_TRIM_THRESHOLD, (1 << 31) - 1), (_TOP_PAD, 64 << 20))
    return all(mallopt(name, value) == 1 for name, value in settings)
