"""Whether Triton's kernels can run here, and on what; and what a user is told while they are compiled."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import sys
import threading
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

_OLDEST = (3, 5)  # before: no tuples in kernels (3.2), or no products of fewer than 16 rows (3.4)
_PATIENCE = 2.0  # seconds: longer than kernels take to come from Triton's cache on disk
_launched: set[str] = set()


def unavailable() -> str | None:
    """Why Triton cannot be used here, or None if it can."""
    return _unavailable()


def interpreted() -> bool:
    """Whether Triton's interpreter runs the kernels, which is where they take CPU tensors."""
    return _interpreted()


# What torch.compiler.assume_constant_result sets; calling that would import torch._dynamo, a second at every start.
for _function in (unavailable, interpreted):
    _function._dynamo_marked_constant = True  # pyright: ignore[reportFunctionMemberAccess]


@contextlib.contextmanager
def launching(kernels: str, x: torch.Tensor) -> Iterator[None]:
    """On the device of a tensor; says so, once, where the first launch of these kernels waits for their compiler."""
    timer = None
    if kernels not in _launched and not interpreted():
        _launched.add(kernels)
        timer = threading.Timer(_PATIENCE, _announce)
        timer.daemon = True
        timer.start()
    try:
        with torch.cuda.device_of(x):
            yield
    finally:
        if timer is not None:
            timer.cancel()


@functools.cache
def _announce() -> None:
    how_often = "once; they are cached on disk"
    print(f"kinn: compiling the GPU kernels, a minute or two ({how_often})", file=sys.stderr, flush=True)


@functools.cache
def _unavailable() -> str | None:
    try:
        import triton

        found = re.findall(r"\d+", triton.__version__)[:2]
        if tuple(map(int, found)) < _OLDEST:
            return f"Triton {triton.__version__} is older than {'.'.join(map(str, _OLDEST))}"
        from kinn.ops.triton import _cascade_kernels, _kernels  # noqa: F401

        if not _emulated(_kernels.forward) and torch.cuda.is_available():
            if torch.version.hip:
                return "the kernels are for NVIDIA's GPUs, and this PyTorch is for AMD's"
            # built here and now, which takes a C compiler
            _ = triton.runtime.driver.active.utils  # pyright: ignore[reportAttributeAccessIssue]
    except Exception as error:  # whatever keeps Triton from working, the reference still does
        return f"Triton cannot be used ({type(error).__name__}: {error})"
    return None


@functools.cache
def _interpreted() -> bool:
    # Asked first, so that Triton is not imported for a CPU tensor in vain. Kernels decide when they are defined.
    if os.environ.get("TRITON_INTERPRET", "0").lower() not in ("1", "true", "on", "yes", "y") or _unavailable():
        return False
    from kinn.ops.triton import _kernels

    return _emulated(_kernels.forward)


def _emulated(kernel: object) -> bool:
    return type(kernel).__name__ == "InterpretedFunction"
