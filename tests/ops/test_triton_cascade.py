"""The GPU's fused cascade in Triton's interpreter against the definition in float64."""

from __future__ import annotations

import pytest
import torch

from kinn.ops import cascade_scan, triton
from kinn.ops.triton import cascade_fits_triton

pytestmark = [
    pytest.mark.usefixtures("poisoned_memory", "patched_once"),
    pytest.mark.skipif(not triton.interpreted(), reason="needs Triton and TRITON_INTERPRET=1 in the environment"),
]
TOLERANCE = {torch.float32: 2e-6, torch.float64: 1e-12}
ROUTES = [(1, False), (0, False), (1, True), (0, True)]


@pytest.fixture
def fused(monkeypatch):
    """Whether the fused cascade ran is asked by the name of its operator."""
    calls = []
    operator = torch.ops.kinn.cascade_scan_triton
    monkeypatch.setattr(torch.ops.kinn, "cascade_scan_triton", lambda *a: calls.append(1) or operator(*a))
    return calls


@pytest.fixture
def check(assert_close, fused, scans_by_doubling, differentiate_cascade):
    def run(arguments, dtypes=(torch.float32, torch.float64), tolerance=TOLERANCE, **options):
        for dtype in dtypes:
            rounded = {k: v.to(dtype) for k, v in arguments.items()}
            exact = differentiate_cascade({k: v.double() for k, v in rounded.items()}, backend="reference", **options)
            assert not fused
            got = differentiate_cascade(rounded, backend="triton", **options)
            assert fused.pop()
            assert got["y"].dtype == dtype
            assert_close(got, exact, tolerance[dtype])

    return run


def test_what_drives_the_next_cell_is_bounded(check, make_cascade):
    arguments = make_cascade(1, (3, 5), 5, 3, cells=3, routes=1)
    arguments["x"] *= 30
    arguments["projection"] *= 4
    assert cascade_scan(**arguments, routes=ROUTES[:1]).abs().max() > 1e25
    check(arguments, dtypes=(torch.float64,), tolerance={torch.float64: 1e-9}, routes=ROUTES[:1])


@pytest.mark.parametrize("length", [1, 2, 15, 16, 17, 70])
@pytest.mark.parametrize("injection", ["zoh", "euler"])
def test_lengths(check, length, injection, make_cascade):
    """Tiles and chunks full and in part."""
    check(make_cascade(1, (length,), 5, 3, routes=1), routes=[(0, length % 2 == 0)], injection=injection)


@pytest.mark.parametrize(
    ("d", "n", "rank"), [(1, 1, 1), (5, 16, 3), (16, 3, 1), (17, 1, 9), (40, 16, 2), (70, 5, 4), (200, 2, 3)]
)
def test_sizes(check, d, n, rank, make_cascade):
    """Lanes beside the channels, the potentials and the rank; one and several blocks of potentials."""
    check(make_cascade(1, (3, 7), d, n, rank=rank), routes=ROUTES[:2])


@pytest.mark.parametrize("grid", [(7,), (2, 3, 2)])
@pytest.mark.parametrize("lines", ["joined", "separate"])
@pytest.mark.parametrize("wiring", ["series", "parallel"])
def test_grids(check, grid, lines, wiring, make_cascade):
    routes = [(axis, reverse) for reverse in (False, True) for axis in range(len(grid))]
    arguments = make_cascade(1, grid, 3, 2, routes=len(routes), cells=2)
    check(arguments, [torch.float64], routes=routes, lines=lines, wiring=wiring, dt_scale=0.6)


@pytest.mark.parametrize("lines", ["joined", "separate"])
def test_states_kept_lie_apart(check, monkeypatch, lines, make_cascade):
    """Several chunks to a sequence, several sequences and routes, as many chunks to each or not."""
    monkeypatch.setattr("kinn.ops.triton.cascade._CHUNK", 16)
    arguments = make_cascade(2 if lines == "joined" else 1, (20, 2), 3, 1, cells=2, rank=1)
    check(arguments, [torch.float64], routes=[(0, False), (1, True)], lines=lines)


@pytest.mark.parametrize("cells", [1, 4])
def test_cells(check, cells, make_cascade):
    check(make_cascade(1, (9,), 4, 2, routes=1, cells=cells), routes=[(0, False)])


def test_several_sequences_to_a_program(check, monkeypatch, make_cascade):
    monkeypatch.setattr("kinn.ops.triton.cascade._PROGRAMS", 2)
    for lines in ("separate", "joined"):
        check(make_cascade(3, (2, 3), 3, 2, cells=1), [torch.float64], routes=ROUTES[:2], lines=lines)


@pytest.mark.parametrize("rate", [0.0, 1e-6, 1e-3])
def test_slow_decay_keeps_its_gradient(check, rate, make_cascade):
    """Decay so slow that the terms of the injection's derivative with respect to it all but cancel."""
    arguments = make_cascade(1, (40,), 3, 2, routes=1)
    arguments["a"] = torch.full_like(arguments["a"], rate)
    check(arguments, [torch.float32], {torch.float32: 3e-6}, routes=[(0, False)])


def test_extreme_steps(check, make_cascade):
    """Steps from 1e-6 to 200, by way of a bias far from zero."""
    arguments = make_cascade(1, (5, 4), 7, 3)
    arguments["dt_bias"] = torch.linspace(-14, 200, arguments["dt_bias"].numel()).double().view(2, 2, 7)
    check(arguments, tolerance={**TOLERANCE, torch.float32: 4e-6}, routes=ROUTES[:2])


def test_scans_one_element_after_the_other(assert_close, make_cascade, differentiate_cascade):
    """In the interpreter's own order, which is a thread's."""
    arguments = make_cascade(1, (10,), 3, 1, routes=1)
    exact, got = (
        differentiate_cascade(arguments, routes=[(0, True)], backend=name) for name in ("reference", "triton")
    )
    assert_close(got, exact, 1e-12)


@pytest.mark.parametrize(
    "change",
    [
        {"boundary": "periodic"},
        {"couplings": "bounded"},
        {"d": 257},
        {"n": 0},
        {"rank": 0},
        {"cells": 5},
        {"batch": 0, "lines": "separate", "grid": (0, 4)},
        {"grid": (9,), "routes": 1, "cells": 1},
    ],
)
def test_what_does_not_fit_goes_cell_by_cell(
    change, fused, monkeypatch, assert_close, make_cascade, differentiate_cascade
):
    monkeypatch.setattr("kinn.ops.triton.cascade._SHORT", 8)
    monkeypatch.setattr("kinn.ops.triton.scan._INTERPRETER_PROCESSORS", 20)
    sizes = {"batch": 1, "grid": (2,), "d": 2, "n": 1, "rank": 1, "cells": 2, "routes": 2, **change}
    options = {k: sizes.pop(k) for k in ("boundary", "couplings", "lines") if k in sizes}
    batch, grid, d, n = (sizes.pop(k) for k in ("batch", "grid", "d", "n"))
    if n == 0 or sizes["rank"] == 0:
        arguments = make_cascade(batch, grid, d, 1, **{**sizes, "rank": 1})
        arguments["projection"] = arguments["projection"][:, :, : sizes["rank"] + 2 * n]
        arguments["a"], arguments["dt_weight"] = arguments["a"][..., :n], arguments["dt_weight"][..., : sizes["rank"]]
    else:
        arguments = make_cascade(batch, grid, d, n, **sizes)
    options["routes"] = [(0, False), (0, True)][: sizes["routes"]]
    exact, got = (differentiate_cascade(arguments, backend=name, **options) for name in ("reference", "triton"))
    assert not fused
    assert_close(got, exact, 1e-12)


def test_long_sequences_go_fused_where_they_fill_the_machine(monkeypatch, make_cascade):
    monkeypatch.setattr("kinn.ops.triton.scan._INTERPRETER_PROCESSORS", 20)
    for batch, grid, joined, fits in [
        (1, (16, 16), True, True),
        (1, (17, 16), True, False),
        (5, (17, 16), True, True),
        (4, (300, 1), False, False),
        (4, (300, 2), False, True),
    ]:
        arguments = make_cascade(batch, grid, 2, 1)
        sizes = arguments["x"], arguments["dt_weight"], arguments["a"]
        assert cascade_fits_triton(*sizes, [0, 0], joined, False) == fits


def test_states_kept_are_a_fraction(scans_by_doubling, make_cascade):
    tensors = [v.flatten(1, 2) if k == "x" else v for k, v in make_cascade(2, (16, 8), 3, 2).items()]
    options = ([16, 8], [2, 0], True, True, True, 1.0)
    assert torch.ops.kinn.cascade_scan_triton(*tensors, *options, False)[1].numel() == 0
    kept = torch.ops.kinn.cascade_scan_triton(*tensors, *options, True)[1]
    assert kept.numel() == tensors[0].numel() * 2 * 2 * 2 // 64
