"""A small pool of threads for kernels that release the GIL.

Not numba's `prange`: its default layer is not safe to call from several threads, the OpenMP one dies after a fork, and
neither follows `torch.set_num_threads`.
"""

from __future__ import annotations

import itertools
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

_pools: dict[int, ThreadPoolExecutor] = {}


def share(work: Callable[[int], object], parts: int) -> None:
    """Call `work(part)` for every `part` in `range(parts)`, on `torch.get_num_threads()` threads, this one among them.

    The parts are taken in order as threads become free, so `work` must not care which thread calls it, nor when. An
    exception of any part is raised here.
    """
    queue = itertools.count()

    def drain() -> None:
        while (part := next(queue)) < parts:
            work(part)

    helpers = min(torch.get_num_threads(), parts) - 1
    futures = [_pool(helpers).submit(drain) for _ in range(helpers)]
    try:
        drain()
    finally:
        # A helper that has not begun finds nothing left; one that has must end before the memory may be touched.
        running = [future for future in futures if not future.cancel()]
        errors = [future.exception() for future in running]
    for error in errors:
        if error is not None:
            raise error


def _pool(helpers: int) -> ThreadPoolExecutor:
    pool = _pools.get(helpers)
    if pool is None:
        pool = _pools.setdefault(helpers, ThreadPoolExecutor(helpers, thread_name_prefix="kinn"))
    return pool


if hasattr(os, "register_at_fork"):
    # Threads do not survive a fork: the child starts its own pool when it needs one.
    os.register_at_fork(after_in_child=_pools.clear)
