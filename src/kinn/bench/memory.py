"""Peak memory: what one run adds to a process of its own, or to what is allocated on a GPU."""

from __future__ import annotations

import ctypes
import multiprocessing
import signal
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from kinn.notices import is_out_of_memory

_STATUS, _REFERENCES = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class NoMemoryError(Exception):
    """The work needs more memory than there is."""


def peak_memory_apart(
    prepare: Callable[..., Callable[[], Any]], *arguments: Any, device: str | torch.device = "cpu"
) -> int | None:
    """Bytes that a second run adds to what is there before it: inputs, parameters, state and code do not count.

    On a CPU it is done in a process of its own, with as many threads as this one, whose high-water mark is read.

    Args:
        prepare: gives the run; a function of a module, as another process must find it.
        *arguments: of `prepare`.
        device: where the work is done.

    Returns:
        Bytes; None where the system does not tell (not Linux).

    Raises:
        NoMemoryError: the run needs more than there is.
        RuntimeError: the run failed.
    """
    if torch.device(device).type == "cuda":
        return _on_gpu(prepare, *arguments)
    if not _REFERENCES.exists():
        return None
    context = multiprocessing.get_context("spawn")  # a forked process would share this one's pages
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_in_child, args=(sender, torch.get_num_threads(), prepare, arguments))
    child.start()
    sender.close()
    try:
        kind, value = receiver.recv()
    except EOFError:
        child.join()
        if child.exitcode == -signal.SIGKILL:  # as the system ends what takes too much
            raise NoMemoryError("out of memory: its process was killed") from None
        raise RuntimeError(f"its process ended with exit code {child.exitcode}, before it had a result") from None
    child.join()
    if kind == "memory":
        raise NoMemoryError(value)
    if kind == "error":
        raise RuntimeError(value)
    return value


def _in_child(
    sender: Connection, threads: int, prepare: Callable[..., Callable[[], Any]], arguments: tuple[Any, ...]
) -> None:
    torch.set_num_threads(threads)
    try:
        _limit_to_what_is_free()
        run = prepare(*arguments)
        run()
        _give_back()
        before = _kib("VmRSS")
        _REFERENCES.write_text("5")  # the high-water mark starts again here
        run()
        sender.send(("peak", 1024 * max(_kib("VmHWM") - before, 0)))
    except Exception as error:
        if is_out_of_memory(error):
            sender.send(("memory", "out of memory"))
        else:
            sender.send(("error", f"{type(error).__name__}: {error}"))


def _limit_to_what_is_free() -> None:
    """Turn what would have the system end some process into an error of this one."""
    import resource

    free = _kib("MemAvailable", Path("/proc/meminfo"))
    most = 1024 * (_kib("VmData") + free)
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def _give_back() -> None:
    """Hand memory that is free, but kept by the allocator, back to the system: the next run would use it unseen."""
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)


def _kib(key: str, source: Path = _STATUS) -> int:
    return next(int(line.split()[1]) for line in source.read_text().splitlines() if line.startswith(f"{key}:"))


def _on_gpu(prepare: Callable[..., Callable[[], Any]], *arguments: Any) -> int:
    try:
        run = prepare(*arguments)
        run()
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
    except torch.cuda.OutOfMemoryError as error:
        raise NoMemoryError("out of GPU memory") from error
    return torch.cuda.max_memory_allocated() - before
