"""The GPU's fused cascade in Triton's interpreter against the definition in float64."""

from __future__ import annotations

import io

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
NAMES = ("x", "projection", "dt_weight", "dt_bias", "a", "D")


def draw(batch, grid, d, n, *, routes=2, cells=2, rank=2, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    return {
        "x": normal(batch, *grid, d),
        "projection": normal(routes, cells, rank + 2 * n, d) * 0.4 * (n * d) ** -0.5,
        "dt_weight": normal(routes, cells, d, rank) * rank**-0.5,
        "dt_bias": normal(routes, cells, d) - 2,
        "a": torch.exp(0.5 * normal(routes, cells, d, n)) * torch.arange(1, n + 1),
        "D": normal(routes, cells, d),
    }


def differentiate(arguments, **options):
    leaves = {k: v.detach().clone().requires_grad_() for k, v in arguments.items()}
    y = cascade_scan(**leaves, **options)
    generator = torch.Generator().manual_seed(1)
    given = torch.randn(y.shape, generator=generator, dtype=torch.float64).to(y.dtype)
    gradients = torch.autograd.grad(y, list(leaves.values()), given, allow_unused=True, materialize_grads=True)
    return {"y": y.detach(), **{f"d{name}": g for name, g in zip(leaves, gradients)}}


@pytest.fixture
def fused(monkeypatch):
    """Whether the fused cascade ran is asked by the name of its operator."""
    calls = []
    operator = torch.ops.kinn.cascade_scan_triton
    monkeypatch.setattr(torch.ops.kinn, "cascade_scan_triton", lambda *a: calls.append(1) or operator(*a))
    return calls


@pytest.fixture
def check(assert_close, fused, scans_by_doubling):
    def run(arguments, dtypes=(torch.float32, torch.float64), tolerance=TOLERANCE, **options):
        for dtype in dtypes:
            rounded = {k: v.to(dtype) for k, v in arguments.items()}
            exact = differentiate({k: v.double() for k, v in rounded.items()}, backend="reference", **options)
            assert not fused
            got = differentiate(rounded, backend="triton", **options)
            assert fused.pop()
            assert got["y"].dtype == dtype
            assert_close(got, exact, tolerance[dtype])

    return run


def test_what_drives_the_next_cell_is_bounded(check):
    arguments = draw(1, (3, 5), 5, 3, cells=3, routes=1)
    arguments["x"] *= 30
    arguments["projection"] *= 4
    assert cascade_scan(**arguments, routes=ROUTES[:1]).abs().max() > 1e25
    check(arguments, dtypes=(torch.float64,), tolerance={torch.float64: 1e-9}, routes=ROUTES[:1])


@pytest.mark.parametrize("length", [1, 2, 15, 16, 17, 70])
@pytest.mark.parametrize("injection", ["zoh", "euler"])
def test_lengths(check, length, injection):
    """Tiles and chunks full and in part."""
    check(draw(1, (length,), 5, 3, routes=1), routes=[(0, length % 2 == 0)], injection=injection)


@pytest.mark.parametrize(
    ("d", "n", "rank"), [(1, 1, 1), (5, 16, 3), (16, 3, 1), (17, 1, 9), (40, 16, 2), (70, 5, 4), (200, 2, 3)]
)
def test_sizes(check, d, n, rank):
    """Lanes beside the channels, the potentials and the rank; one and several blocks of potentials."""
    check(draw(1, (3, 7), d, n, rank=rank), routes=ROUTES[:2])


@pytest.mark.parametrize("grid", [(7,), (2, 3, 2)])
@pytest.mark.parametrize("lines", ["joined", "separate"])
@pytest.mark.parametrize("wiring", ["series", "parallel"])
def test_grids(check, grid, lines, wiring):
    routes = [(axis, reverse) for reverse in (False, True) for axis in range(len(grid))]
    arguments = draw(1, grid, 3, 2, routes=len(routes), cells=2)
    check(arguments, [torch.float64], routes=routes, lines=lines, wiring=wiring, dt_scale=0.6)


@pytest.mark.parametrize("lines", ["joined", "separate"])
def test_states_kept_lie_apart(check, monkeypatch, lines):
    """Several chunks to a sequence, several sequences and routes, as many chunks to each or not."""
    monkeypatch.setattr("kinn.ops.triton.cascade._CHUNK", 16)
    arguments = draw(2 if lines == "joined" else 1, (20, 2), 3, 1, cells=2, rank=1)
    check(arguments, [torch.float64], routes=[(0, False), (1, True)], lines=lines)


@pytest.mark.parametrize("cells", [1, 4])
def test_cells(check, cells):
    check(draw(1, (9,), 4, 2, routes=1, cells=cells), routes=[(0, False)])


def test_several_sequences_to_a_program(check, monkeypatch):
    monkeypatch.setattr("kinn.ops.triton.cascade._PROGRAMS", 2)
    for lines in ("separate", "joined"):
        check(draw(3, (2, 3), 3, 2, cells=1), [torch.float64], routes=ROUTES[:2], lines=lines)


@pytest.mark.parametrize("rate", [0.0, 1e-6, 1e-3])
def test_slow_decay_keeps_its_gradient(check, rate):
    """Decay so slow that the terms of the injection's derivative with respect to it all but cancel."""
    arguments = draw(1, (40,), 3, 2, routes=1)
    arguments["a"] = torch.full_like(arguments["a"], rate)
    check(arguments, [torch.float32], {torch.float32: 3e-6}, routes=[(0, False)])


def test_extreme_steps(check):
    """Steps from 1e-6 to 200, by way of a bias far from zero."""
    arguments = draw(1, (5, 4), 7, 3)
    arguments["dt_bias"] = torch.linspace(-14, 200, arguments["dt_bias"].numel()).double().view(2, 2, 7)
    check(arguments, tolerance={**TOLERANCE, torch.float32: 4e-6}, routes=ROUTES[:2])


def test_scans_one_element_after_the_other(assert_close):
    """In the interpreter's own order, which is a thread's."""
    arguments = draw(1, (10,), 3, 1, routes=1)
    exact, got = (differentiate(arguments, routes=[(0, True)], backend=name) for name in ("reference", "triton"))
    assert_close(got, exact, 1e-12)


def test_nan_stays_downstream(scans_by_doubling):
    arguments = draw(2, (40,), 5, 3, routes=1)
    clean = cascade_scan(**arguments, routes=[(0, False)], backend="triton")
    arguments["x"][0, 20, 2] = torch.nan
    y = cascade_scan(**arguments, routes=[(0, False)], backend="triton")
    assert torch.equal(y[0, :20], clean[0, :20])
    assert y[0, 20:].isnan().all()
    assert torch.equal(y[1], clean[1])


def test_strides_do_not_matter(scans_by_doubling):
    arguments = draw(2, (3, 4), 11, 4)
    views = {k: v.transpose(-1, -2).contiguous().transpose(-1, -2) for k, v in arguments.items()}
    views["x"] = torch.cat((arguments["x"], arguments["x"]), -1)[..., :11]
    assert not any(views[name].is_contiguous() for name in ("x", "projection", "a"))
    options = {"routes": ROUTES[:2], "backend": "triton"}
    packed, strided = (differentiate(tensors, **options) for tensors in (arguments, views))
    for name, expected in packed.items():
        assert torch.equal(strided[name], expected), name
    expanded, ones = (
        torch.autograd.grad(cascade_scan(**arguments, **options), leaf, given)
        for leaf in [arguments["x"].requires_grad_()]
        for given in (torch.ones(1, dtype=torch.float64).expand(2, 3, 4, 11), torch.ones(2, 3, 4, 11).double())
    )
    assert torch.equal(*expanded, *ones)


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_single(half, scans_by_doubling, assert_close):
    arguments = {k: v.float() for k, v in draw(2, (4, 5), 5, 3).items()}
    arguments["x"] = arguments["x"].to(half)
    got = differentiate(arguments, routes=ROUTES[:2], backend="triton")
    assert (got["y"].dtype, got["dx"].dtype, got["da"].dtype) == (half, half, torch.float32)
    wide = cascade_scan(**{**arguments, "x": arguments["x"].float()}, routes=ROUTES[:2], backend="triton")
    assert torch.equal(got["y"], wide.to(half))
    exact = differentiate({k: v.double() for k, v in arguments.items()}, routes=ROUTES[:2], backend="reference")
    assert_close(got, exact, 2 * torch.finfo(half).eps)


def test_autocast_changes_nothing(scans_by_doubling):
    arguments = {k: v.float() for k, v in draw(1, (10,), 3, 2).items()}
    options = {"routes": [(0, False), (0, True)], "backend": "triton"}
    expected = cascade_scan(**arguments, **options)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(cascade_scan(**arguments, **options), expected)


def test_same_bits_every_time(scans_by_doubling):
    arguments = {k: v.float() for k, v in draw(2, (2, 3), 5, 3, routes=4).items()}
    first, again = (differentiate(arguments, routes=ROUTES, backend="triton") for _ in range(2))
    assert all(torch.equal(again[name], value) for name, value in first.items())


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
def test_what_does_not_fit_goes_cell_by_cell(change, fused, monkeypatch, assert_close):
    monkeypatch.setattr("kinn.ops.triton.cascade._SHORT", 8)
    monkeypatch.setattr("kinn.ops.triton.scan._INTERPRETER_PROCESSORS", 20)
    sizes = {"batch": 1, "grid": (2,), "d": 2, "n": 1, "rank": 1, "cells": 2, "routes": 2, **change}
    options = {k: sizes.pop(k) for k in ("boundary", "couplings", "lines") if k in sizes}
    batch, grid, d, n = (sizes.pop(k) for k in ("batch", "grid", "d", "n"))
    if n == 0 or sizes["rank"] == 0:
        arguments = draw(batch, grid, d, 1, **{**sizes, "rank": 1})
        arguments["projection"] = arguments["projection"][:, :, : sizes["rank"] + 2 * n]
        arguments["a"], arguments["dt_weight"] = arguments["a"][..., :n], arguments["dt_weight"][..., : sizes["rank"]]
    else:
        arguments = draw(batch, grid, d, n, **sizes)
    options["routes"] = [(0, False), (0, True)][: sizes["routes"]]
    exact, got = (differentiate(arguments, backend=name, **options) for name in ("reference", "triton"))
    assert not fused
    assert_close(got, exact, 1e-12)


def test_long_sequences_go_fused_where_they_fill_the_machine(monkeypatch):
    monkeypatch.setattr("kinn.ops.triton.scan._INTERPRETER_PROCESSORS", 20)
    for batch, grid, joined, fits in [
        (1, (16, 16), True, True),
        (1, (17, 16), True, False),
        (5, (17, 16), True, True),
        (4, (300, 1), False, False),
        (4, (300, 2), False, True),
    ]:
        arguments = draw(batch, grid, 2, 1)
        sizes = arguments["x"], arguments["dt_weight"], arguments["a"]
        assert cascade_fits_triton(*sizes, [0, 0], joined, False) == fits


@pytest.mark.parametrize(("series", "zoh"), [(True, True), (False, False)])
def test_opcheck(series, zoh, scans_by_doubling):
    tensors = [v.flatten(1, 2).requires_grad_() if k == "x" else v.requires_grad_()
               for k, v in draw(2, (2, 3), 2, 1).items()]  # fmt: skip
    inputs = (*tensors, [2, 3], [2, 1], series, series, zoh, 0.5, True)
    torch.library.opcheck(torch.ops.kinn.cascade_scan_triton, inputs)


def test_opcheck_backward(scans_by_doubling):
    x, *parameters = draw(2, (3, 4), 3, 2).values()
    x, options = x.flatten(1, 2), ([3, 4], [2, 1], True, True, True, 0.5)
    _, kept = torch.ops.kinn.cascade_scan_triton(x, *parameters, *options, True)
    torch.library.opcheck(
        torch.ops.kinn.cascade_scan_triton_backward,
        (x, x, *parameters, kept, *options),
        test_utils=("test_schema", "test_faketensor"),
    )


class Cascade(torch.nn.Module):
    def __init__(self):
        super().__init__()
        tensors = {k: v.float() for k, v in draw(1, (1, 1), 3, 2).items() if k != "x"}
        self.tensors = torch.nn.ParameterDict({k: torch.nn.Parameter(v) for k, v in tensors.items()})

    def forward(self, x):
        return cascade_scan(x, *(self.tensors[name] for name in NAMES[1:]), routes=ROUTES[:2], backend="triton")


def test_compile(scans_by_doubling):
    model, x = Cascade(), torch.randn(2, 3, 4, 3)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), model(x), rtol=0, atol=0)
    parameters = list(model.parameters())
    expected = torch.autograd.grad(model(x).sum(), parameters)
    torch.testing.assert_close(torch.autograd.grad(compiled(x).sum(), parameters), expected, rtol=0, atol=0)


def test_export_with_dynamic_batch(scans_by_doubling):
    model = Cascade().eval()
    batch = torch.export.Dim("batch")
    program = torch.export.export(model, (torch.randn(2, 3, 4, 3),), dynamic_shapes={"x": {0: batch}})
    operators = [str(node.target) for node in program.graph.nodes if "kinn" in str(node.target)]
    assert operators == ["kinn.cascade_scan_triton.default"]
    file = io.BytesIO()
    torch.export.save(program, file)
    for size in (0, 1, 3):
        file.seek(0)
        x = torch.randn(size, 3, 4, 3)
        torch.testing.assert_close(torch.export.load(file).module()(x), model(x))


def test_second_derivative_names_the_way_out(scans_by_doubling):
    arguments = {k: v.requires_grad_() for k, v in draw(1, (4,), 2, 2, routes=1).items()}
    y = cascade_scan(**arguments, routes=[(0, False)], backend="triton")
    (gradient,) = torch.autograd.grad(y.square().sum(), arguments["x"], create_graph=True)
    with pytest.raises(RuntimeError, match="for second derivatives, run the forward in"):
        torch.autograd.grad(gradient.sum(), arguments["x"])


def test_states_kept_are_a_fraction(scans_by_doubling):
    tensors = [v.flatten(1, 2) if k == "x" else v for k, v in draw(2, (16, 8), 3, 2).items()]
    options = ([16, 8], [2, 0], True, True, True, 1.0)
    assert torch.ops.kinn.cascade_scan_triton(*tensors, *options, False)[1].numel() == 0
    kept = torch.ops.kinn.cascade_scan_triton(*tensors, *options, True)[1]
    assert kept.numel() == tensors[0].numel() * 2 * 2 * 2 // 64
