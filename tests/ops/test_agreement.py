"""The compiled scan and its gradients against the definition in float64."""

from __future__ import annotations

import itertools

import pytest
import torch

from kinn.ops import grid_scan, selective_scan

pytestmark = pytest.mark.usefixtures("poisoned_memory")
TOLERANCE = {torch.float32: 2e-6, torch.float64: 1e-12}


@pytest.fixture
def check(differentiate, assert_close):
    def run(function, arguments, dtypes=(torch.float32, torch.float64), **options):
        for dtype in dtypes:
            rounded = {k: v.to(dtype) for k, v in arguments.items()}
            exact = differentiate(function, {k: v.double() for k, v in rounded.items()}, backend="reference", **options)
            got = differentiate(function, rounded, backend="cpu", **options)
            assert got["y"].dtype == dtype
            assert_close(got, exact, TOLERANCE[dtype])

    return run


@pytest.mark.parametrize("length", [1, 2, 15, 16, 17, 63, 64, 65, 500])
@pytest.mark.parametrize("injection", ["zoh", "euler"])
def test_lengths(make, check, length, injection):
    arguments = make(2, (length,), 5, 3)
    arguments["initial_state"] = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    check(selective_scan, arguments, injection=injection)


def test_long(make, check):
    check(selective_scan, make(2, (4096,), 33, 4))


@pytest.mark.parametrize(
    ("d", "n"),
    [
        (1, 1),
        (1, 16),
        (8, 5),
        (9, 2),
        (16, 3),
        (17, 3),
        (25, 4),
        (31, 1),
        (32, 2),
        (33, 5),
        (40, 16),
        (57, 3),
        (200, 64),
    ],
)
def test_sizes(make, check, d, n):
    """Every kind of tile that ends a row, full and in part."""
    check(selective_scan, make(3, (21,), d, n))


@pytest.mark.parametrize(("d", "n"), [(57, 1), (89, 1), (200, 1), (64, 2), (280, 2), (150, 5), (530, 1)])
@pytest.mark.parametrize("axis", [0, 1])
def test_bands(make, check, d, n, axis):
    """Tiles side by side, all of a row or some, up and down through memory, and along columns; more than one chunk."""
    grid = (70, 3) if axis == 0 else (3, 70)
    for lines, reverse, injection in itertools.product(["joined", "separate"], [False, True], ["zoh", "euler"]):
        arguments = make(2, grid, d, n)
        if reverse:
            del arguments["D"]
        check(grid_scan, arguments, axis=axis, lines=lines, reverse=reverse, injection=injection)


@pytest.mark.parametrize("batch", [1, 2, 3, 65, 130])
def test_batches(make, check, batch):
    """More sequences than blocks of work, fewer sequences than threads."""
    check(selective_scan, make(batch, (20,), 40, 2))


@pytest.mark.parametrize("grid", [(7,), (5, 4), (3, 4, 5)])
@pytest.mark.parametrize("lines", ["joined", "separate"])
@pytest.mark.parametrize("reverse", [False, True])
def test_grids(make, check, grid, lines, reverse):
    arguments = make(2, grid, 6, 3)
    for axis, injection in itertools.product(range(-len(grid), len(grid)), ["zoh", "euler"]):
        others = [size for i, size in enumerate(grid) if i != axis % len(grid)] if lines == "separate" else []
        arguments["initial_state"] = torch.rand(2, *others, 6, 3, dtype=torch.float64)
        check(grid_scan, arguments, axis=axis, lines=lines, reverse=reverse, injection=injection)


@pytest.mark.parametrize("lines", ["joined", "separate"])
@pytest.mark.parametrize("axis", [0, 1])
def test_periodic(make, check, lines, axis):
    for reverse, injection in itertools.product([False, True], ["zoh", "euler"]):
        options = {"lines": lines, "axis": axis, "boundary": "periodic", "reverse": reverse, "injection": injection}
        check(grid_scan, make(2, (9, 8), 6, 3), **options)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_a_loop_that_loses_nothing_poisons_no_gradient(make, backend):
    """Steps of zero, and so small that the inverse of their loss overflows, beside others."""
    arguments = {k: v.float() for k, v in make(1, (6, 2), 4, 3).items()}
    arguments["dt"][..., 0], arguments["dt"][..., 1] = 0, 1e-40
    arguments["x"] *= 1e9
    for leaf in arguments.values():
        leaf.requires_grad_()
    y = grid_scan(**arguments, axis=0, lines="separate", boundary="periodic", backend=backend)
    for gradient in torch.autograd.grad(y.sum(), list(arguments.values())):
        assert gradient.isfinite().all()


def test_without_skip(make, check):
    arguments = make(2, (20,), 5, 3)
    del arguments["D"]
    check(selective_scan, arguments)


@pytest.mark.parametrize("state_weight", [0.0, 1.0])
def test_gradient_from_output_or_state_alone(make, state_weight):
    arguments = make(2, (40,), 5, 3)

    def gradients(backend):
        leaves = {k: v.clone().requires_grad_() for k, v in arguments.items()}
        y, state = selective_scan(**leaves, return_state=True, backend=backend)
        (state if state_weight else y).sum().backward()
        return [leaf.grad for leaf in leaves.values()]

    for got, expected in zip(gradients("cpu"), gradients("reference")):
        torch.testing.assert_close(got, torch.zeros_like(got) if expected is None else expected, rtol=1e-12, atol=1e-14)


def test_slices_and_strides(make, differentiate, assert_close):
    """B and C cut out of one projection, a transposed drive, an expanded gradient."""
    packed = make(3, (6, 7), 11, 4)
    projection = torch.cat([packed["dt"], packed["B"], packed["C"]], -1)
    dt, B, C = projection.split([11, 4, 4], -1)
    views = {
        **packed,
        "dt": dt,
        "B": B,
        "C": C,
        "x": packed["x"].permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1),
        "a": packed["a"].t().contiguous().t(),
        "D": packed["D"].repeat_interleave(2)[::2],
    }
    assert not views["B"].is_contiguous()
    for dtype in TOLERANCE:
        tensors = {k: v.to(dtype) for k, v in packed.items()}
        strided = {k: v.to(dtype) for k, v in views.items()}
        y, dx = {}, {}
        for name, arguments in (("packed", tensors), ("strided", strided)):
            leaf = arguments["x"].detach().requires_grad_()
            out = grid_scan(**{**arguments, "x": leaf}, axis=0, backend="cpu")
            out.sum().backward()  # the gradient that arrives is one number, expanded
            y[name], dx[name] = out.detach(), leaf.grad
        torch.testing.assert_close(y["packed"], y["strided"], rtol=0, atol=0)
        torch.testing.assert_close(dx["packed"], dx["strided"], rtol=0, atol=0)
    exact = differentiate(grid_scan, packed, backend="reference", axis=0)
    assert_close(differentiate(grid_scan, packed, backend="cpu", axis=0), exact, 1e-12)


@pytest.mark.parametrize(
    ("batch", "length", "d", "n"), [(0, 5, 3, 2), (2, 0, 3, 2), (2, 5, 0, 2), (2, 5, 3, 0), (0, 0, 0, 0)]
)
def test_empty(make, check, batch, length, d, n):
    """Nothing to scan gives nothing, and leaves the state as it was."""
    arguments = make(batch, (length,), d, n)
    arguments["initial_state"] = torch.rand(batch, d, n, dtype=torch.float64)
    check(selective_scan, arguments)
    _, state = selective_scan(**arguments, return_state=True, backend="cpu")
    if length == 0:
        torch.testing.assert_close(state, arguments["initial_state"], rtol=0, atol=0)


@pytest.mark.parametrize("options", [{}, {"boundary": "periodic"}, {"injection": "euler", "lines": "separate"}])
def test_gradcheck(make, options):
    arguments = make(2, (3, 4), 3, 2)
    leaves = [v.requires_grad_() for v in arguments.values()]
    torch.autograd.gradcheck(lambda *t: grid_scan(*t, axis=0, return_state=True, backend="cpu", **options), leaves)


def test_reference_is_twice_differentiable(make):
    leaves = [v.requires_grad_() for v in make(1, (4,), 2, 2).values()]
    torch.autograd.gradgradcheck(lambda *t: selective_scan(*t, backend="reference"), leaves)


def test_step_by_step_equals_at_once(make):
    """The state handed from call to call carries everything that later positions need."""
    arguments = make(2, (50,), 7, 3)
    whole, last = selective_scan(**arguments, return_state=True, backend="cpu")
    state, pieces = None, []
    for start, stop in itertools.pairwise([0, 1, 17, 50]):
        cut = {k: v[:, start:stop] if k in ("x", "dt", "B", "C") else v for k, v in arguments.items()}
        y, state = selective_scan(**cut, initial_state=state, return_state=True, backend="cpu")
        pieces.append(y)
    torch.testing.assert_close(torch.cat(pieces, 1), whole, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(state, last, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("n", [1, 4])
def test_slow_decay_keeps_its_gradient(make, assert_close, differentiate, n):
    """Decay so slow that the terms of the injection's derivative with respect to it all but cancel."""
    arguments = make(2, (300,), 5, n)
    for rate in (0.0, 1e-9, 1e-6, 1e-3):
        arguments["a"] = torch.full_like(arguments["a"], rate)
        exact = differentiate(selective_scan, arguments, backend="reference")
        single = {k: v.float() for k, v in arguments.items()}
        rounded = differentiate(selective_scan, {k: v.double() for k, v in single.items()}, backend="reference")
        assert_close(differentiate(selective_scan, arguments, backend="cpu"), exact, 1e-10)
        assert_close(differentiate(selective_scan, single, backend="cpu"), rounded, 3e-6)


@pytest.mark.parametrize("step", [1e20, 1e37])
def test_steps_without_end(make, check, step):
    """The node settles at `B x / a`; values and gradients stay finite, though `dt^2 a^2` overflows float32."""
    arguments = make(1, (9,), 3, 2)
    arguments["dt"][:, 4] = step
    check(selective_scan, arguments)
    single = {k: v.float() for k, v in arguments.items()}
    for leaf in single.values():
        leaf.requires_grad_()
    y = selective_scan(**single, backend="reference")
    assert all(g.isfinite().all() for g in torch.autograd.grad(y.sum(), list(single.values())))
