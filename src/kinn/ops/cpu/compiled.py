"""Whether the compiled kernels can run, and how tensors are handed to them."""

from __future__ import annotations

import functools
import importlib
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from kinn.ops.cpu.records import Rows
from kinn.ops.cpu.threads import share

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

_PART_WORK = 1 << 19  # potentials and steps: less than this is not worth a handover between threads
# The smallest decay rate that is told from none. Squares of its inverse must stay finite.
FLOOR = {torch.float32: 1e-15, torch.float64: 1e-100}


def unavailable() -> str | None:
    """Why the compiled kernels cannot run here, or None if they can."""
    return _unavailable()


# What torch.compiler.assume_constant_result sets; calling that would import torch._dynamo, a second at every start.
unavailable._dynamo_marked_constant = True  # pyright: ignore[reportFunctionMemberAccess]


@functools.cache
def _unavailable() -> str | None:
    try:
        import numba
        from numba.core import event

        if getattr(numba.config, "DISABLE_JIT", False):
            return "numba's compiler is switched off by NUMBA_DISABLE_JIT"
        numba.njit(lambda: None)()  # what this prepares no kernel has to: it takes hardly any time of its own
        from kinn.ops.cpu import _scan_kernels, cache
    except Exception as error:  # whatever keeps numba from working, the reference still does
        return f"numba cannot be used ({type(error).__name__}: {error})"

    how_often = "once; they are cached on disk"
    if not cache.kept(_scan_kernels.forward):
        how_often = "in every process; there is no folder to cache them in"

    class Announce(event.Listener):
        said = False

        def on_start(self, event):
            if not self.said and event.data["dispatcher"].py_func.__module__.startswith(f"{__package__}._"):
                type(self).said = True
                print(f"kinn: compiling the CPU kernels, about a minute ({how_often})", file=sys.stderr, flush=True)

        def on_end(self, event):
            pass

    event.register("numba:compile", Announce())
    return None


def load_kernels(name: str) -> Any:
    """The module of the kernels of an operator or a layer: "scan", "cascade", "filter", "gate" and so on."""
    reason = unavailable()
    if reason is not None:
        raise RuntimeError(f"kinn: the operator has no kernel: {reason}")
    return importlib.import_module(f"{__package__}._{name}_kernels")


def like(dtype: torch.dtype, shape: int | tuple[int, ...] = 0) -> np.ndarray:
    """Zeros, none by default, that tell kernels what kind of numbers they are given."""
    return np.zeros(shape, np.float32 if dtype == torch.float32 else np.float64)


def rows_of(tensor: Tensor) -> tuple[Rows, Tensor]:
    """The kernels' view of a `(b, m, c)` tensor, and the tensor that keeps it alive."""
    if tensor.stride(-1) != 1 and tensor.shape[-1] != 1:
        tensor = tensor.contiguous()
    return Rows(tensor.data_ptr(), tensor.stride(0), tensor.stride(1)), tensor


def address(tensor: Tensor | None) -> int:
    """Where a contiguous tensor begins, or 0 where there is none."""
    return 0 if tensor is None or tensor.numel() == 0 else tensor.data_ptr()


def groups_for(blocks: int, most: int, threads: int) -> int:
    """Groups to cut each of `blocks` pieces of `most` units into: the fewest that keep the threads four fifths busy."""
    busy = {}
    for groups in range(1, min(most, threads) + 1):
        rounds = -(-blocks * groups // threads) * -(-most // groups)
        busy[groups] = blocks * most / (threads * rounds) if rounds else 1.0
        if busy[groups] >= 0.8:
            return groups
    return max(busy, key=busy.__getitem__, default=1)


def work_of(channels: int, n: int) -> int:
    """The work of scanning so many channels, over all positions; what is done once for a channel counts three."""
    return channels * (n + 3)


def run_items(kernel: Callable[..., None], items: int, work: int, *arguments: Any, like: Any) -> None:
    """Call `kernel(*arguments, begin, end, like)` over all items, on as many of torch's threads as `work` is worth."""
    threads = torch.get_num_threads()
    # More parts than threads even out what else the machine does; whole rounds of them leave no thread idle.
    parts = min(items, work // _PART_WORK, 16 * threads)
    parts -= parts % threads if parts > threads else 0
    if threads == 1 or parts <= 1:
        kernel(*arguments, 0, items, like)
    else:
        share(lambda i: kernel(*arguments, items * i // parts, items * (i + 1) // parts, like), parts)
