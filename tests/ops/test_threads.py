"""Determinism, and calls from several threads and processes."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from kinn.ops import grid_scan
from kinn.ops.cpu.threads import share


def results(arguments, differentiate):
    return differentiate(grid_scan, arguments, axis=0, lines="separate", backend="cpu")


def same(left, right):
    return all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize("batch", [1, 5])
def test_same_bits_every_time(make, differentiate, threads, batch):
    """Enough work for several threads; whichever finishes first, the sums are taken in the same order."""
    arguments = {k: v.float() for k, v in make(batch, (60, 60), 40, 4).items()}
    threads(4)
    first = results(arguments, differentiate)
    for _ in range(5):
        assert same(results(arguments, differentiate), first)


def test_same_bits_with_any_number_of_threads(make, differentiate, threads):
    """With sequences enough to go round, the number of threads leaves no trace."""
    arguments = {k: v.float() for k, v in make(5, (60, 30), 40, 4).items()}
    outcome = []
    for count in (1, 2, 3):
        threads(count)
        outcome.append(results(arguments, differentiate))
    assert same(outcome[0], outcome[1])
    assert same(outcome[0], outcome[2])


@pytest.mark.parametrize("threads_per_call", [1, 3])
def test_calls_from_several_threads(make, differentiate, threads, threads_per_call):
    threads(threads_per_call)
    cases = [{k: v.float() for k, v in make(3, (60, 40), 40, 4, seed=i).items()} for i in range(4)]
    expected = [results(case, differentiate) for case in cases]
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(lambda i: results(cases[i % 4], differentiate), range(16)))
    assert all(same(got[i], expected[i % 4]) for i in range(16))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_scans(make, threads):
    """The parent's pool does not survive the fork; the child makes its own."""
    threads(2)
    arguments = {k: v.float() for k, v in make(4, (60, 30), 40, 4).items()}
    expected = grid_scan(**arguments, backend="cpu")
    child = os.fork()
    if child == 0:
        status = 1
        try:
            signal.alarm(30)
            # NumPy compares: torch's own parallel loops are what does not survive a fork.
            status = 0 if (grid_scan(**arguments, backend="cpu").numpy() == expected.numpy()).all() else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="counts threads as Linux shows them")
def test_no_threads_beside_torchs_own(make, threads):
    threads(4)
    torch.ones(1 << 22).exp_()  # starts torch's
    before = len(os.listdir("/proc/self/task"))
    arguments = {k: v.float().requires_grad_() for k, v in make(5, (60, 60), 40, 4).items()}
    grid_scan(**arguments, backend="cpu").sum().backward()
    started = len(os.listdir("/proc/self/task")) - before
    assert started <= 1 or "libgomp" not in Path("/proc/self/maps").read_text()  # autograd may start one of its own


def test_share_calls_every_part_once_and_raises(threads):
    threads(3)
    seen = []
    share(seen.append, 50)
    assert sorted(seen) == list(range(50))

    def fail(part):
        if part == 7:
            raise KeyError(part)

    with pytest.raises(KeyError):
        share(fail, 50)
