"""Threads for kernels that release the GIL.

Where PyTorch computes with GNU OpenMP, its own threads do it: they would otherwise wait for their next turn busily, on
the cores that the kernels are to have. Elsewhere, and in forked processes, whose OpenMP threads are gone, a small pool
does. Not numba's `prange`: its default layer is not safe to call from several threads, the OpenMP one dies after a
fork, and neither follows `torch.set_num_threads`.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

_pools: dict[int, ThreadPoolExecutor] = {}
_forked = False


def share(work: Callable[[int], object], parts: int) -> None:
    """Call `work(part)` for every `part` in `range(parts)`, on `torch.get_num_threads()` threads, this one among them.

    The parts are taken in order as threads become free, so `work` must not care which thread calls it, nor when. An
    exception of any part is raised here.
    """
    queue, errors = itertools.count(), []

    def drain(_: object = None) -> None:
        try:
            while (part := next(queue)) < parts:
                work(part)
        except BaseException as error:  # an interrupt too must not end inside a thread that is not Python's
            errors.append(error)

    threads = min(torch.get_num_threads(), parts)
    openmp = None if _forked else _openmp()
    if openmp is not None:
        openmp.GOMP_parallel(_ROUTINE(drain), None, threads, 0)
    else:
        futures = [_pool(threads - 1).submit(drain) for _ in range(threads - 1)]
        drain()
        # A helper that has not begun finds nothing left; one that has must end before the memory may be touched.
        for future in futures:
            if not future.cancel():
                future.exception()
    if errors:
        raise errors[0]


_ROUTINE = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


@functools.cache
def _openmp() -> Any:
    """The GNU OpenMP runtime that PyTorch has loaded, or None."""
    try:
        with open("/proc/self/maps") as maps:
            paths = {line.split(maxsplit=5)[-1].strip() for line in maps if "libgomp" in line}
        of_torch = [path for path in paths if path.startswith(os.path.dirname(torch.__file__))]
        library = ctypes.CDLL((of_torch or sorted(paths))[0])
        library.GOMP_parallel.argtypes = [_ROUTINE, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
        library.GOMP_parallel.restype = None
    except (OSError, IndexError, AttributeError):
        return None
    return library


def _pool(helpers: int) -> ThreadPoolExecutor:
    pool = _pools.get(helpers)
    if pool is None:
        pool = _pools.setdefault(helpers, ThreadPoolExecutor(helpers, thread_name_prefix="kinn"))
    return pool


def _after_fork() -> None:
    # Threads do not survive a fork: the child starts its own pool when it needs one.
    global _forked
    _forked = True
    _pools.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
