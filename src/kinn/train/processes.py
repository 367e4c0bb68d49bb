"""One process per device: what each takes of the whole, what they tell one another, and how they are run.

The processes are started afresh (`spawn`) and given what they need as a file. To run the command again in each of them,
as launchers of scripts do, would bind every command: it must then print nothing, write nothing and generate no data a
second time. The caller waits and reads the results from files, so that nothing comes back but an error.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from kinn.notices import format_warning

_Value = TypeVar("_Value")

_START_METHOD = "spawn"  # a CUDA context and running threads do not survive a fork
_GRACE = 5.0  # seconds for a process to end by itself


@dataclass(frozen=True)
class Process:
    """One of the processes that train together; by default there is no other.

    Args:
        rank: its number, counted from 0.
        count: of all.

    Example:
        >>> [Process(rank, 3).part(8) for rank in range(3)]
        [range(0, 2), range(2, 5), range(5, 8)]
    """

    rank: int = 0
    count: int = 1

    def part(self, length: int) -> range:
        """What this process takes of so many things in a row: the parts are disjoint, complete and in order."""
        return range(length * self.rank // self.count, length * (self.rank + 1) // self.count)

    def gather(self, value: _Value) -> list[_Value]:
        """The values of all processes in order; every process must call this."""
        if self.count == 1:
            return [value]
        found: list[Any] = [None] * self.count
        torch.distributed.all_gather_object(found, value)
        return found

    @torch.no_grad()
    def take_over(self, tensors: Iterable[Tensor]) -> None:
        """Fill tensors with the values that they have in the first process; every process must call this."""
        if self.count == 1:
            return
        for tensor in tensors:
            given = (torch.view_as_real(tensor) if tensor.is_complex() else tensor).contiguous()
            torch.distributed.broadcast(given, 0)
            tensor.copy_(torch.view_as_complex(given) if tensor.is_complex() else given)


def run_processes(function: Callable[..., None], arguments: Sequence[Any], *, device: torch.device, count: int) -> None:
    """Call `function(process, *arguments)` in so many new processes, which can talk to one another.

    Args:
        function: of a module, so that the processes can import it.
        arguments: each process gets its own copy; unchanged tensors share the memory of one file.
        device: its kind: process `k` has the `k`-th of them.
        count: of processes.

    Raises:
        ChildProcessError: if a process ended without a word.
        KeyboardInterrupt: if the user stops it; no process is left.
        Exception: the first that a process raised; the others are stopped.
    """
    context = multiprocessing.get_context(_START_METHOD)
    with tempfile.TemporaryDirectory(prefix="kinn-") as folder:
        # a file, not shared memory: containers often have next to none of it
        torch.save((function, tuple(arguments)), Path(folder) / "call.pt")
        given = (folder, count, device.type, torch.get_num_threads(), multiprocessing.get_start_method())
        processes = [context.Process(target=_process, args=(rank, *given)) for rank in range(count)]
        try:
            with _interrupts_later():
                for process in processes:
                    process.start()
            running = list(processes)
            while running and all(process.exitcode in (None, 0) for process in processes):
                wait([process.sentinel for process in running])
                running = [process for process in running if process.exitcode is None]
            codes = [process.exitcode for process in processes]
        finally:
            _stop(processes)
        if any(codes):
            raise _first_error(Path(folder), codes)


def _stop(processes: Sequence[BaseProcess]) -> None:
    running = [process for process in processes if process.pid is not None and process.exitcode is None]
    for process in running:
        # as Ctrl-C, so that half-written files are removed; Lightning's own handler of SIGTERM waits for all processes
        if hasattr(signal, "pthread_sigmask"):
            os.kill(process.pid or 0, signal.SIGINT)
        else:
            process.terminate()
    deadline = time.monotonic() + _GRACE
    for process in running:
        process.join(max(0.0, deadline - time.monotonic()))
        if process.exitcode is None:  # waits for another one, on a GPU
            process.kill()
            process.join()


def _first_error(folder: Path, codes: Sequence[int | None]) -> BaseException:
    """The cause: where one process fails, others complain of the lost connection, later, or are stopped by us."""
    files = {rank: folder / f"error-{rank}" for rank, code in enumerate(codes) if code}
    for rank, file in files.items():
        if not file.exists():
            return ChildProcessError(f"training process {rank} of {len(codes)} {_ended(codes[rank] or 0)}")
    _, error, trace = min((pickle.loads(file.read_bytes()) for file in files.values()), key=lambda entry: entry[0])
    error.__cause__ = RuntimeError(f"in a training process:\n{trace}")
    return error


def _ended(code: int) -> str:
    if code < 0:
        return f"was ended by signal {-code}: memory may have run out"
    return (
        f"could not start (exit code {code}): a script that trains on several devices must be a file, and keep what it "
        "runs under `if __name__ == '__main__':`"
    )


def _process(rank: int, folder: str, count: int, device: str, threads: int, start_method: str) -> None:
    """What a process does; its error goes to a file."""
    try:
        _listen()
        multiprocessing.set_start_method(start_method, force=True)  # of processes that read data: as with one device
        warnings.formatwarning = format_warning
        if rank > 0:  # all would say the same
            warnings.simplefilter("ignore")
        if device == "cuda":
            torch.cuda.set_device(rank)
        else:
            torch.set_num_threads(max(1, threads // count))
        os.environ["LOCAL_RANK"] = str(rank)  # by which Lightning knows that all processes are there
        torch.distributed.init_process_group(
            "nccl" if device == "cuda" and torch.distributed.is_nccl_available() else "gloo",
            # a file: no port that may be taken; by no URL, from which PyTorch takes a space as "%20"
            store=torch.distributed.FileStore(str(Path(folder) / "meeting"), count),
            rank=rank,
            world_size=count,
        )
        # written by our parent in a folder that nobody else can write to
        function, arguments = torch.load(Path(folder) / "call.pt", map_location="cpu", mmap=True, weights_only=False)
        function(Process(rank, count), *arguments)
        torch.distributed.destroy_process_group()
    except BaseException as error:
        _write_error(Path(folder) / f"error-{rank}", error)
        for reader in multiprocessing.active_children():
            reader.terminate()
        sys.stderr.flush()
        os._exit(1)  # an orderly end would wait for the connections to the others


def _write_error(path: Path, error: BaseException) -> None:
    at, trace = time.time(), traceback.format_exc()
    try:
        content = pickle.dumps((at, error, trace))
        pickle.loads(content)  # some exceptions can only be written
    except Exception:
        content = pickle.dumps((at, RuntimeError(f"{type(error).__name__}: {error}"), trace))
    path.write_bytes(content)


def _listen() -> None:
    """Let Ctrl-C interrupt, once; and the end of the parent as well, whichever way it went."""

    def interrupt(*_: Any) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        raise KeyboardInterrupt

    def follow() -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(_GRACE)
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()  # which leaves SIGINT to this thread
    signal.signal(signal.SIGINT, interrupt)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


@contextmanager
def _interrupts_later() -> Iterator[None]:
    """Hold Ctrl-C back, here and in processes started within, which would print where it met their imports."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # starting it would let the signal through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
