"""What is counted, what is measured of the machine, and that every contender computes the same."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from kinn.bench import (
    CONTENDERS,
    CascadeShape,
    Machine,
    NoMemoryError,
    Shape,
    bench_scans,
    cascade_cost,
    measure_machine,
    peak_memory_apart,
    scan_cost,
    take_turns,
)
from kinn.bench.scans import prepared_step

CPU = torch.device("cpu")
MACHINE = Machine(bandwidth=1e10, peak=1e11)
SMALL = {"one": Shape(2, 13, 5, 1), "many": Shape(2, 13, 5, 3), "cascade": CascadeShape(2, 6, 5, 3, 2, 2)}
PEERS = {"mambapy": "mambapy.pscan", "transformers, without kernels": "transformers.models.mamba"}


def small_results(contenders, **options):
    return {r["name"]: r for r in bench_scans(SMALL, CPU, MACHINE, repeats=1, contenders=contenders, **options)}


def test_scans_by_hand():
    """One sequence of one step, one channel, one potential: E is an exponential's count."""
    E = 14
    forward_zoh = 1 + E + 7  # dt a, exp, B x, two for v, two for h, two for y
    forward_euler = 1 + E + 5
    assert scan_cost(1, 1, 1, 1, backward=False, size=1) == (5, forward_zoh)
    assert scan_cost(1, 1, 1, 1, backward=False, injection="euler", size=1) == (5, forward_euler)
    assert scan_cost(1, 1, 1, 1, backward=True, injection="euler", size=1) == (14, 2 * forward_euler - 2 + 15)


def test_cascades_by_hand():
    positions, channels, rank, n, cells, routes = 2 * 9, 4, 2, 3, 2, 4
    products = 3 * 2 * positions * channels * (2 * rank + 2 * n)
    softplus = 3 * 14 * positions * channels
    scan = scan_cost(2, 9, channels, n, backward=True)[1]
    moved, done = cascade_cost(2, 9, channels, n, cells, routes, rank)
    assert moved == 4 * 5 * positions * channels
    assert done == routes * cells * (products + softplus + scan)


@pytest.mark.parametrize("name", [n for n, c in CONTENDERS.items() if "cpu" in c.devices and "compiled" not in n])
def test_every_contender_computes_the_same(name):
    pytest.importorskip(PEERS.get(name, "torch"))
    work = CONTENDERS[name].work
    rows = [r["contenders"][name] for r in small_results([name]).values() if r["work"] == work]
    assert rows
    for row in rows:
        assert row["error"] < 2e-6, row
        assert "reason" not in row


def test_work_is_kept_apart_and_the_lead_is_over_the_fastest_alternative():
    found = small_results(["kinn", "kinn, plain loop", "kinn, one operation", "kinn, cell by cell"])
    assert list(found["many"]["contenders"]) == ["kinn", "kinn, plain loop"]
    assert list(found["cascade"]["contenders"]) == ["kinn, one operation", "kinn, cell by cell"]
    medians = {name: row["median_s"] for name, row in found["many"]["contenders"].items()}
    times = medians["kinn, plain loop"] / medians["kinn"]
    assert found["many"]["lead"] == {"of": "kinn", "over": "kinn, plain loop", "times": times}
    assert small_results(["kinn"])["many"]["lead"] is None


def test_the_wrong_injection_is_refused(monkeypatch):
    other = CONTENDERS["kinn, exact hold"]._replace(injection="euler")
    monkeypatch.setitem(CONTENDERS, "other", other)
    assert small_results(["other"])["many"]["contenders"]["other"]["reason"].startswith("wrong: it differs")


def _allocate(mib: int):
    return lambda: torch.zeros(mib * 2**18).add_(1)


def _allocate_too_much():
    return lambda: torch.zeros(2**50)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the system does not tell")
def test_peak_memory_is_what_a_run_adds_and_too_much_is_an_error():
    peak = peak_memory_apart(_allocate, 96)
    assert peak is not None
    assert 94 < peak / 2**20 < 110
    with pytest.raises(NoMemoryError, match="out of memory"):
        peak_memory_apart(_allocate_too_much)


def test_a_contender_out_of_memory_is_listed(monkeypatch):
    def fail(*_, **__):
        raise NoMemoryError("out of memory")

    monkeypatch.setattr("kinn.bench.scans.peak_memory_apart", fail)
    row = small_results(["kinn"], memory=True)["many"]["contenders"]["kinn"]
    assert row["reason"] == "NoMemoryError: out of memory"
    assert "median_s" not in row


def test_a_step_by_name():
    gradients = prepared_step("kinn", SMALL["many"], "cpu")()
    assert [tuple(g.shape) for g in gradients] == [(2, 13, 5), (2, 13, 5), (5, 3), (2, 13, 3), (2, 13, 3), (5,)]
    with pytest.raises(RuntimeError, match="does not run on cpu"):
        prepared_step("mamba-ssm", SMALL["many"], "cpu")


def test_machine():
    machine = measure_machine(CPU, size=1 << 16, repeats=2)
    assert machine.bandwidth == max(machine.measured["copy"], machine.measured["triad"])
    assert machine.peak == max(machine.measured["product"], machine.measured["multiply_add"])
    assert all(math.isfinite(rate) and rate > 0 for rate in machine.cached.values())


def test_slow_steps_take_fewer_turns(monkeypatch):
    clock = iter(range(1000))
    monkeypatch.setattr("kinn.bench.timing.time.perf_counter", lambda: float(next(clock)))
    found = take_turns({"a": lambda: None, "b": lambda: None}, 9, budget=2.5)
    assert [len(seconds) for seconds in found.values()] == [3, 3]


@pytest.mark.parametrize("name", ["mamba-ssm", "HGRN of flash-linear-attention", "kinn on the GPU"])
def test_contenders_of_a_gpu_name_their_reason(name):
    assert small_results([name])["one"]["contenders"][name] == {"reason": "does not run on cpu"}
