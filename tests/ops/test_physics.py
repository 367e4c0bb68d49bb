"""What the theory promises of a scan, in float64: charging, splitting, stability, periodic states."""

from __future__ import annotations

import math

import pytest
import torch

from kinn.ops import euler, grid_scan, selective_scan, zoh

pytestmark = pytest.mark.usefixtures("poisoned_memory")
BACKENDS = ["cpu", "triton", "reference"]


@pytest.fixture(autouse=True)
def quick_interpreter(request):
    if "triton" in request.node.name:
        request.getfixturevalue("patched_once")


def steps(backend, length):
    """As many, or fewer for Triton's interpreter, which takes milliseconds for each."""
    return min(length, 8) if backend == "triton" else length


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("a", [1e-6, 0.3, 2.0, 700.0])
def test_charging_curve(backend, a):
    """A constant drive charges the node as (1 - exp(-a t)) / a at any step lengths."""
    length = steps(backend, 200)
    dt = torch.rand(1, length, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    ones = torch.ones(1, length, 1, dtype=torch.float64)
    rates = torch.full((3, 1), a, dtype=torch.float64)
    y = selective_scan(torch.ones_like(dt), dt, rates, ones, ones, backend=backend)
    torch.testing.assert_close(y, -torch.expm1(-a * dt.cumsum(1)) / a, rtol=2e-13, atol=0)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("m", [2, 7])
def test_one_step_equals_m_shorter_ones(make, backend, m):
    arguments = make(2, (steps(backend, 20),), 5, 3)
    whole = selective_scan(**arguments, return_state=True, backend=backend)[1]
    split = {k: v.repeat_interleave(m, 1) if k in ("x", "dt", "B", "C") else v for k, v in arguments.items()}
    split["dt"] = split["dt"] / m
    torch.testing.assert_close(
        selective_scan(**split, return_state=True, backend=backend)[1], whole, rtol=1e-12, atol=1e-13
    )
    off = selective_scan(**split, return_state=True, backend=backend, injection="euler")[1]
    assert (off - whole).abs().max() > 1e-3, "the first-order injection must not pass for the exact one"


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_steps_and_rates_stay_bounded(backend, dtype):
    """|h| <= max |u / a| from rest, whatever the step; outputs and gradients finite."""
    generator = torch.Generator().manual_seed(0)
    length = steps(backend, 150)
    dt = 10 ** (18 * torch.rand(2, length, 12, generator=generator, dtype=torch.float64) - 12)
    a = 10 ** (12 * torch.rand(12, 4, generator=generator, dtype=torch.float64) - 6)
    x = torch.randn(2, length, 12, generator=generator, dtype=torch.float64)
    ones = torch.ones(2, length, 4, dtype=torch.float64)
    leaves = [t.to(dtype).requires_grad_() for t in (x, dt, a, ones, ones.clone())]
    for step in (None, 1e-12, 1e6):
        if step is not None:
            leaves[1] = torch.full_like(leaves[1], step).requires_grad_()
        y, state = selective_scan(*leaves, return_state=True, backend=backend)
        bound = leaves[0].abs().amax(1)[..., None] / leaves[2]
        assert (state.abs() <= bound * (1 + 1e-4)).all()
        for gradient in torch.autograd.grad(y.sum() + state.sum(), leaves):
            assert gradient.isfinite().all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_decay_integrates_and_no_step_retains(backend, dtype):
    """a -> 0: the node is a pure capacitor; dt = 0: it keeps its potential to the last bit."""
    length = steps(backend, 100)
    x = torch.randn(1, length, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)
    ones = torch.ones(1, length, 2, dtype=dtype)
    dt = torch.full_like(x, 0.5)
    y = selective_scan(x, dt, torch.zeros(5, 2, dtype=dtype), ones, ones / 2, backend=backend)
    torch.testing.assert_close(y, 0.5 * x.cumsum(1), rtol=1e-5 if dtype == torch.float32 else 1e-13, atol=1e-6)
    start = torch.randn(1, 5, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)
    _, end = selective_scan(
        x, 0 * dt, torch.rand(5, 2, dtype=dtype), ones, ones, initial_state=start, return_state=True, backend=backend
    )
    assert torch.equal(start, end)


@pytest.mark.parametrize("backend", BACKENDS)
def test_nan_propagates_forward_only(make, backend):
    arguments = make(1, (30,), 3, 2)
    for name in ("x", "dt", "B"):
        broken = {k: v.clone() for k, v in arguments.items()}
        broken[name][0, 17, 0] = math.nan
        y = selective_scan(**broken, backend=backend)
        assert y[:, :17].isfinite().all()
        assert y[:, 17:, 0].isnan().all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("reverse", [False, True])
def test_periodic_lines_follow_a_shift(make, backend, axis, reverse):
    arguments = make(1, (5, 4), 3, 2) if backend == "triton" else make(2, (9, 8), 5, 3)
    options = {"axis": axis, "lines": "separate", "reverse": reverse, "backend": backend}
    y = grid_scan(**arguments, boundary="periodic", **options)
    turned = {k: v.roll(3, 1 + axis) if k in ("x", "dt", "B", "C") else v for k, v in arguments.items()}
    torch.testing.assert_close(grid_scan(**turned, boundary="periodic", **options), y.roll(3, 1 + axis))
    assert not torch.allclose(grid_scan(**turned, **options), grid_scan(**arguments, **options).roll(3, 1 + axis))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("lines", ["joined", "separate"])
def test_periodic_sequences_end_where_they_began(make, backend, lines):
    arguments = make(2, (6, 5), 4, 3)
    options = {"lines": lines, "return_state": True, "backend": backend}
    y, end = grid_scan(**arguments, boundary="periodic", **options)
    y_from_end, again = grid_scan(**arguments, initial_state=end, **options)
    torch.testing.assert_close(end, again, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(y, y_from_end, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("backend", BACKENDS)
def test_separate_lines_do_not_touch_each_other(make, backend):
    arguments = make(1, (4, 6), 3, 2)
    y = grid_scan(**arguments, lines="separate", backend=backend)
    arguments["x"] = arguments["x"].clone()
    arguments["x"][:, 1] += 1
    changed = (grid_scan(**arguments, lines="separate", backend=backend) - y).abs().amax((0, 2, 3)) > 0
    assert changed.tolist() == [False, True, False, False]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_injection_is_accurate_at_every_scale(dtype):
    """(1 - exp(-z)) / a against the same in float64 or its series, over 24 decades of z."""
    a = torch.tensor(1.7, dtype=dtype)
    dt = torch.logspace(-20, 4, 400, dtype=torch.float64).to(dtype)
    retain, inject = zoh(dt, a)
    z = dt.double() * a.double()
    torch.testing.assert_close(inject.double(), -torch.expm1(-z) / a.double(), rtol=4 * torch.finfo(dtype).eps, atol=0)
    torch.testing.assert_close(retain.double(), torch.exp(-z), rtol=1e2 * torch.finfo(dtype).eps, atol=1e-30)
    assert torch.equal(euler(dt, a)[1], dt)
