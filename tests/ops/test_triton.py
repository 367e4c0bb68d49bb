"""The GPU's kernels in Triton's interpreter against the definition in float64, and compiled for GPUs without one."""

from __future__ import annotations

import io
import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from kinn.ops import grid_scan, selective_scan, triton
from kinn.ops.path import Path as Grid

pytestmark = [
    pytest.mark.usefixtures("poisoned_memory", "patched_once"),
    pytest.mark.skipif(not triton.interpreted(), reason="needs Triton and TRITON_INTERPRET=1 in the environment"),
]
TOLERANCE = {torch.float32: 2e-6, torch.float64: 1e-12}


@pytest.fixture
def check(differentiate, assert_close):
    def run(function, arguments, dtypes=(torch.float32, torch.float64), **options):
        for dtype in dtypes:
            rounded = {k: v.to(dtype) for k, v in arguments.items()}
            exact = differentiate(function, {k: v.double() for k, v in rounded.items()}, backend="reference", **options)
            got = differentiate(function, rounded, backend="triton", **options)
            assert got["y"].dtype == dtype
            assert_close(got, exact, TOLERANCE[dtype])

    return run


@pytest.mark.parametrize("length", [1, 2, 15, 16, 17, 37])
@pytest.mark.parametrize("injection", ["zoh", "euler"])
def test_lengths(make, check, length, injection):
    arguments = make(1, (length,), 5, 3)
    arguments["initial_state"] = torch.randn(1, 5, 3, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    check(selective_scan, arguments, injection=injection)


@pytest.mark.parametrize("processors", [0, 1, 40])
def test_segments(make, check, monkeypatch, processors):
    """One segment for each sequence, some, and as many as there are chunks."""
    monkeypatch.setattr("kinn.ops.triton.scan._INTERPRETER_PROCESSORS", processors)
    monkeypatch.setattr("kinn.ops.triton.scan._LONG", 1)
    monkeypatch.setattr("kinn.ops.triton.scan._AHEAD", 2)
    check(selective_scan, make(2, (70,), 3, 2), dtypes=[torch.float64])


def test_short_sequences_are_not_cut(make, monkeypatch):
    monkeypatch.setattr("kinn.ops.triton.scan._INTERPRETER_PROCESSORS", 40)
    for length, cut in ((255, False), (256, True)):
        arguments = make(1, (length,), 3, 2)
        plan = triton.scan._plan(arguments["x"], arguments["a"], Grid.along((length,), 0, joined=True, reverse=False))
        assert (plan.segments > 1) == cut


@pytest.mark.parametrize(("d", "n"), [(1, 1), (1, 16), (17, 1), (33, 2), (40, 16), (3, 33), (9, 5)])
def test_sizes(make, check, d, n):
    """Tiles full and in part, one and several to a row."""
    check(selective_scan, make(1, (9,), d, n))


@pytest.mark.parametrize("grid", [(5,), (3, 4), (2, 3, 2)])
@pytest.mark.parametrize("lines", ["joined", "separate"])
@pytest.mark.parametrize("reverse", [False, True])
def test_grids(make, check, grid, lines, reverse):
    arguments = make(1, grid, 3, 2)
    for axis in range(len(grid)):
        others = [size for i, size in enumerate(grid) if i != axis] if lines == "separate" else []
        arguments["initial_state"] = torch.rand(1, *others, 3, 2, dtype=torch.float64)
        check(grid_scan, arguments, dtypes=[torch.float64], axis=axis, lines=lines, reverse=reverse)


@pytest.mark.parametrize("lines", ["joined", "separate"])
def test_periodic(make, check, lines):
    check(grid_scan, make(2, (4, 3), 3, 2), lines=lines, boundary="periodic", reverse=True, axis=0)


def test_without_skip(make, check):
    arguments = make(2, (10,), 5, 3)
    del arguments["D"]
    check(selective_scan, arguments)


@pytest.mark.parametrize("state_weight", [0.0, 1.0])
def test_gradient_from_output_or_state_alone(make, state_weight):
    arguments = make(1, (20,), 3, 2)

    def gradients(backend):
        leaves = {k: v.clone().requires_grad_() for k, v in arguments.items()}
        y, state = selective_scan(**leaves, return_state=True, backend=backend)
        (state if state_weight else y).sum().backward()
        return [leaf.grad for leaf in leaves.values()]

    for got, expected in zip(gradients("triton"), gradients("reference")):
        torch.testing.assert_close(got, torch.zeros_like(got) if expected is None else expected, rtol=1e-12, atol=1e-14)


def test_slices_and_strides(make):
    """B and C cut out of one projection, a transposed drive, an expanded gradient."""
    packed = make(2, (3, 4), 5, 2)
    dt, B, C = torch.cat([packed["dt"], packed["B"], packed["C"]], -1).split([5, 2, 2], -1)
    views = {
        **packed, "dt": dt, "B": B, "C": C,
        "x": packed["x"].permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1),
        "a": packed["a"].t().contiguous().t(), "D": packed["D"].repeat_interleave(2)[::2],
    }  # fmt: skip
    assert not views["B"].is_contiguous()
    results = []
    for arguments in (packed, views):
        leaves = {k: v.detach().requires_grad_() for k, v in arguments.items()}
        y = grid_scan(**leaves, axis=0, backend="triton")
        results.append([y.detach(), *torch.autograd.grad(y.sum(), list(leaves.values()))])
    for one, other in zip(*results):
        assert torch.equal(one, other)


@pytest.mark.parametrize(("batch", "length", "d", "n"), [(0, 5, 3, 2), (2, 0, 3, 2), (2, 5, 0, 2), (2, 5, 3, 0)])
def test_empty(make, check, batch, length, d, n):
    arguments = make(batch, (length,), d, n)
    arguments["initial_state"] = torch.rand(batch, d, n, dtype=torch.float64)
    check(selective_scan, arguments)


def test_slow_decay_keeps_its_gradient(make, assert_close, differentiate):
    """Decay so slow that the terms of the injection's derivative with respect to it all but cancel."""
    arguments = make(1, (40,), 3, 2)
    for rate in (0.0, 1e-6, 1e-3):
        arguments["a"] = torch.full_like(arguments["a"], rate)
        single = {k: v.float() for k, v in arguments.items()}
        rounded = differentiate(selective_scan, {k: v.double() for k, v in single.items()}, backend="reference")
        assert_close(differentiate(selective_scan, single, backend="triton"), rounded, 3e-6)


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_half_precision_gradients(make, assert_close, differentiate, half):
    """Every input in half precision: as if widened before, and each gradient rounded once."""
    arguments = {
        k: v.to(half if k in ("x", "dt", "B", "C") else torch.float32) for k, v in make(1, (20,), 5, 3).items()
    }
    exact = differentiate(selective_scan, {k: v.double() for k, v in arguments.items()}, backend="reference")
    got = differentiate(selective_scan, arguments, backend="triton")
    assert (got["dx"].dtype, got["ddt"].dtype, got["dB"].dtype, got["da"].dtype) == (half, half, half, torch.float32)
    assert (got["y"].dtype, got["state"].dtype) == (half, torch.float32)
    assert_close(got, exact, 2 * torch.finfo(half).eps)


def test_same_bits_every_time(make, differentiate):
    arguments = {k: v.float() for k, v in make(2, (40,), 5, 3).items()}
    first, again = (differentiate(selective_scan, arguments, backend="triton") for _ in range(2))
    assert all(torch.equal(again[name], value) for name, value in first.items())


@pytest.mark.parametrize("skip", [True, False])
def test_opcheck(make, skip):
    arguments = {k: v.requires_grad_() for k, v in make(1, (6,), 2, 2).items()}
    x, dt, a, B, C = (arguments[k] for k in ("x", "dt", "a", "B", "C"))
    start = torch.rand(3, 2, 2, dtype=torch.float64, requires_grad=True) if skip else None
    inputs = (x, dt, a, B, C, arguments["D"] if skip else None, start, 3, 2, 1, not skip, True, skip, True)
    torch.library.opcheck(torch.ops.kinn.selective_scan_triton, inputs)


@pytest.mark.parametrize("skip", [True, False])
def test_opcheck_backward(make, skip):
    x, dt, a, B, C, D = make(1, (6,), 2, 2).values()
    path = 3, 2, 1, not skip, True
    y, state, kept = torch.ops.kinn.selective_scan_triton(x, dt, a, B, C, D if skip else None, None, *path, True, True)
    torch.library.opcheck(
        torch.ops.kinn.selective_scan_triton_backward,
        (y, state if skip else None, x, dt, a, B, C, D if skip else None, kept, *path, True),
        test_utils=("test_schema", "test_faketensor"),
    )


class Scan(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.a = torch.nn.Parameter(torch.rand(3, 2) + 0.5)

    def forward(self, x, B):
        return grid_scan(x, torch.nn.functional.softplus(x), self.a, B, B, boundary="periodic", backend="triton")


def test_compile_and_export():
    model, generator = Scan(), torch.Generator().manual_seed(0)
    x, B = (torch.randn(2, 3, 2, c, generator=generator) for c in (3, 2))
    expected = model(x, B)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, B), expected)
    got, want = (torch.autograd.grad(f(x, B).sum(), [model.a]) for f in (compiled, model))
    torch.testing.assert_close(got, want)
    program = torch.export.export(model, (x, B))
    operators = [str(node.target) for node in program.graph.nodes if "kinn" in str(node.target)]
    assert operators == ["kinn.selective_scan_triton.default"] * 2
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    torch.testing.assert_close(torch.export.load(file).module()(x, B), expected)


def test_autocast_leaves_the_scan_in_float32(make):
    arguments = {k: v.float() for k, v in make(1, (10,), 3, 2).items()}
    expected = selective_scan(**arguments, backend="triton")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(selective_scan(**arguments, backend="triton"), expected)


def test_second_derivative_names_the_way_out(make):
    arguments = {k: v.requires_grad_() for k, v in make(1, (4,), 2, 2).items()}
    y = selective_scan(**arguments, backend="triton")
    (gradient,) = torch.autograd.grad(y.square().sum(), arguments["x"], create_graph=True)
    with pytest.raises(RuntimeError, match="for second derivatives, run the forward in"):
        torch.autograd.grad(gradient.sum(), arguments["x"])


def test_step_by_step_equals_at_once(make):
    arguments = make(1, (30,), 3, 2)
    whole, last = selective_scan(**arguments, return_state=True, backend="triton")
    state, pieces = None, []
    for start, stop in itertools.pairwise([0, 1, 17, 30]):
        cut = {k: v[:, start:stop] if k in ("x", "dt", "B", "C") else v for k, v in arguments.items()}
        y, state = selective_scan(**cut, initial_state=state, return_state=True, backend="triton")
        pieces.append(y)
    torch.testing.assert_close(torch.cat(pieces, 1), whole, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(state, last, rtol=1e-13, atol=1e-13)


def test_kernels_compile_for_gpus(tmp_path):
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    script = Path(__file__).with_name("compile_kernels.py")
    done = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 26
    for line in lines:
        size, shared, spilled = (int(part.split()[0]) for part in line.split(": ")[1].split(", "))
        assert size > 1000, line
        assert shared <= 163 * 1024, line  # what a program may have at compute capability 8.0
        assert spilled <= 1536, line  # bytes of addresses and weights, read once a tile
