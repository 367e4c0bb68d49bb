"""What the theory promises of the layers themselves, in float64: scans against circuits, not against other scans."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kinn.circuit import Cascade, RCNode
from kinn.nn import KirchhoffCell
from kinn.ops import selective_scan

BACKENDS = ("reference", "cpu")


def scan_node(node: RCNode, x: np.ndarray, dt, **options) -> np.ndarray:
    """Response `(l,)` of one layer with the node's fixed coefficients to the drive `x` `(l,)`."""
    drive = torch.from_numpy(x).view(1, -1, 1)
    fixed = torch.ones_like(drive)
    dt = torch.as_tensor(dt, dtype=torch.float64).expand(len(x)).reshape(1, -1, 1)
    a, D = torch.tensor([[node.a]], dtype=torch.float64), torch.tensor([node.d], dtype=torch.float64)
    y = selective_scan(drive, dt, a, node.b * fixed, node.c * fixed, D, **options)
    assert isinstance(y, torch.Tensor)
    return y.flatten().numpy()


def scan_cascade(cascade: Cascade, x: np.ndarray, dt, **options) -> np.ndarray:
    for node in cascade.nodes:
        x = scan_node(node, x, dt, **options)
    return x


def some_cascade(size: int) -> Cascade:
    return Cascade([RCNode.from_rates(3.0**i, 0.8 * 3.0**i, 1.0, 0.5 * (-1) ** i) for i in range(size)])


def impulse(length: int) -> np.ndarray:
    return np.eye(1, length)[0]


def fitted_recurrence(y: np.ndarray, order: int) -> tuple[np.ndarray, float]:
    """Best `r` in `y[t] = sum_k r[k] y[t-k]`, k = 1..order, and the relative residual it leaves."""
    past = np.stack([y[order - k : len(y) - k] for k in range(1, order + 1)], axis=-1)
    coefficients = np.linalg.lstsq(past, y[order:], rcond=None)[0]
    return coefficients, float(np.abs(y[order:] - past @ coefficients).max() / np.abs(y).max())


# ---- a cell charges, and zero-order hold is exact ----


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dt", [1e-12, 1e-6, 7e-5, 1e-3, 0.1, 1.0, 30.0, 1e6])
def test_charging_curve_at_machine_precision_whatever_the_step(dt, backend):
    node, x = RCNode(capacitance=2e-3, leak=1e-3, coupling=3e-3), 1.7
    v = scan_node(node, np.full(64, x), dt, backend=backend)
    t = dt * np.arange(1, 65)
    np.testing.assert_allclose(v, -node.dc_gain * x * np.expm1(-node.a * t), rtol=3e-14)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("pieces", [2, 7, 100])
def test_one_step_equals_many_short_ones(pieces, backend):
    draw = np.random.default_rng(0)
    node, x, dt = RCNode.from_rates(2.3, -1.1, 0.7, 0.2), draw.normal(size=30), draw.uniform(1e-3, 2.0, 30)
    whole = scan_node(node, x, dt, backend=backend)
    split = scan_node(node, np.repeat(x, pieces), np.repeat(dt / pieces, pieces), backend=backend)
    np.testing.assert_allclose(split[pieces - 1 :: pieces], whole, rtol=0, atol=1e-13)


def test_first_order_injection_is_not_exact():
    # The contrast that the two tests above need: "euler" fails them by a term of order dt.
    x = np.ones(30)
    exact, euler = (scan_node(RCNode.from_rates(2.0, 1.0), x, 0.1, injection=name) for name in ("zoh", "euler"))
    assert 0.05 < np.abs(euler / exact - 1).max() < 0.2


@pytest.mark.parametrize("injection", ["zoh", "euler"])
def test_frozen_cell_charges_all_its_potentials(injection):
    torch.manual_seed(0)
    cell = KirchhoffCell(3, d_state=4, dt_rank=2, injection=injection).double()
    x = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
    with torch.no_grad():
        y = cell(x.expand(1, 200, 3))
        low, B, C = cell.x_proj(x).split((2, 4, 4))
        dt = torch.nn.functional.softplus(cell.dt_proj(low))[:, None]
        a = cell.A_log.exp()
        t = dt * torch.arange(1, 201)[:, None, None]
        # What "euler" charges to is off by dt a / (1 - exp(-dt a)); the curve is the same.
        gain = 1 / a if injection == "zoh" else dt / -torch.expm1(-dt * a)
        v = -torch.expm1(-a * t) * gain * B * x[:, None]
        expected = (v * C).sum(-1) + cell.D * x
    torch.testing.assert_close(y[0], expected, rtol=1e-12, atol=1e-12)


def test_dt_scale_keeps_the_continuous_cell_on_a_finer_grid():
    torch.manual_seed(1)
    cell = KirchhoffCell(3, d_state=4, dt_rank=2).double()
    x = torch.randn(2, 15, 3, dtype=torch.float64)
    fine = cell(x.repeat_interleave(3, dim=1), dt_scale=1 / 3)
    torch.testing.assert_close(fine[:, 2::3], cell(x), rtol=0, atol=1e-13)


# ---- K cells in series are a system of order K ----


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_layers_in_series_are_the_circuits_cells(size, backend):
    draw = np.random.default_rng(size)
    cascade, x, dt = some_cascade(size), draw.normal(size=80), draw.uniform(0.0, 0.5, 80)
    expected, _ = cascade.simulate_cells(x, dt)
    np.testing.assert_allclose(scan_cascade(cascade, x, dt, backend=backend), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_layers_in_series_approach_the_circuit(size):
    # Exact for one cell; beyond, a driver moves within the step and the layers hold it: first order in dt.
    cascade, errors = some_cascade(size), []
    for steps in (200, 400, 800):
        y = scan_cascade(cascade, np.ones(steps), 2.0 / steps)
        errors.append(abs(y[-1] - cascade.step_response(2.0)))
    if size == 1:
        assert max(errors) < 1e-13
    else:
        np.testing.assert_allclose(np.log2(np.array(errors[:-1]) / errors[1:]), 1.0, atol=0.05)


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_impulse_response_of_the_circuit_solves_its_ode_and_none_of_lower_order(size):
    cascade, t = some_cascade(size), np.linspace(0.0, 3.0, 200)
    assert cascade.degree() == size
    derivatives = np.stack([cascade.impulse_response(t, derivative=k) for k in range(size + 1)], axis=-1)
    terms = derivatives * cascade.denominator[::-1]  # after the impulse the right side of Eq. (16) is zero
    assert np.abs(terms.sum(-1)).max() < 1e-13 * np.abs(terms).max()
    lower, highest = derivatives[:, : size - 1], derivatives[:, size - 1]
    residual = highest - lower @ np.linalg.lstsq(lower, highest, rcond=None)[0]
    assert np.abs(residual).max() > 1e-4 * np.abs(highest).max()


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_impulse_response_of_the_layers_has_order_k_and_tells_the_decay_rates(size):
    cascade, dt = some_cascade(size), 0.1
    tail = scan_cascade(cascade, impulse(121), dt)[1:]  # without the sample in which the impulse acts
    coefficients, residual = fitted_recurrence(tail, size)
    assert residual < 1e-13
    roots = np.roots([1.0, *-coefficients])  # exp(pole dt): the poles of Eq. (16), to the digits the fit has
    np.testing.assert_allclose(np.sort(np.log(roots) / dt), np.sort(cascade.poles), rtol=1e-7)
    if size > 1:
        assert fitted_recurrence(tail, size - 1)[1] > 1e-3


def test_degenerate_circuit_loses_an_order():
    first, second = RCNode.from_rates(2.0, 1.0, 1.0, 0.3), RCNode.from_rates(5.0, 1.5, -2.0, 1.0)  # zero at -2
    cascade, t = Cascade([first, second]), np.linspace(0.01, 2.0, 100)
    assert (len(cascade), cascade.degree()) == (2, 1)
    response = cascade.impulse_response(t)
    np.testing.assert_allclose(cascade.impulse_response(t, derivative=1), -5.0 * response, rtol=1e-12)
    single = Cascade([RCNode.from_rates(5.0, 1.0, first.d * -3.0 + 1.0, first.d)])  # d + (1 - 3 d) / (s + 5)
    np.testing.assert_allclose(response, single.impulse_response(t), rtol=0, atol=1e-15)


def test_degenerate_layers_lose_an_order():
    # A layer holds its driver's sample over the step, so its zero sits at z = r / (1 + c b (1 - r) / (d a)), with
    # r = exp(-a dt): where that meets the first layer's pole, an order is lost to rounding.
    dt, first = 0.2, RCNode.from_rates(2.0, 1.0, 1.0, 0.3)
    retain = np.exp(-5.0 * dt)
    c = (retain / np.exp(-first.a * dt) - 1) / ((1 - retain) * 1.5 / 5.0)
    tail = scan_cascade(Cascade([first, RCNode.from_rates(5.0, 1.5, c, 1.0)]), impulse(60), dt)[1:]
    coefficients, residual = fitted_recurrence(tail, 1)
    assert residual < 1e-14
    assert coefficients[0] == pytest.approx(retain, rel=1e-13)
    # The circuit's own degenerate values leave a rest there, which falls with the step.
    degenerate, rests = Cascade([first, RCNode.from_rates(5.0, 1.5, -2.0, 1.0)]), []
    for step in (0.0025, 0.00125):
        tail = scan_cascade(degenerate, impulse(int(2 / step)), step)[1:]
        rests.append(np.abs(tail[1:] / tail[0] - np.exp(-5.0 * step * np.arange(1, len(tail)))).max())
    assert rests[0] > 1e-3
    assert rests[0] / rests[1] == pytest.approx(2.0, abs=0.1)


@pytest.mark.parametrize("plain", [RCNode(1.0, 1.0, 0.0, d=3.0), RCNode(1.0, 1.0, 1.0, c=0.0, d=3.0)])
def test_cell_without_b_c_is_a_plain_gain(plain):
    cascade = some_cascade(2)
    alone = scan_cascade(cascade, impulse(60), 0.2)
    np.testing.assert_allclose(scan_node(plain, alone, 0.2), 3.0 * alone, rtol=1e-15)
    assert Cascade([*cascade.nodes, plain]).degree() == cascade.degree() == 2


# ---- stable and bounded, whatever comes ----


def extreme_scan(seed: int, dt_range, a_range, *, dtype, backend, injection="zoh"):
    """State after every step under random drives, injections and steps; the bound max|B/a| max|x|; the gradients."""
    draw = np.random.default_rng(seed)
    d, n, length = 3, 2, 33

    def log_uniform(low, high, shape):
        return torch.from_numpy(10 ** draw.uniform(np.log10(low), np.log10(high), shape)).to(dtype)

    x, B = (
        torch.from_numpy(draw.choice([-1.0, 1.0, 0.3], size)).to(dtype) for size in ((n, length, d), (n, length, n))
    )
    x = x * 10 ** draw.uniform(-6, 6)
    dt, a = log_uniform(*dt_range, (n, length, d)), log_uniform(*a_range, (d, n))
    arguments = [tensor.requires_grad_() for tensor in (x, dt, a, B)]
    states, state = [], torch.zeros(n, d, n, dtype=dtype)
    for t in range(length):
        now = slice(t, t + 1)
        _, state = selective_scan(
            x[:, now],
            dt[:, now],
            a,
            B[:, now],
            torch.ones_like(B[:, now]),
            initial_state=state,
            injection=injection,
            return_state=True,
            backend=backend,
        )
        states.append(state)
    gradients = torch.autograd.grad(torch.stack(states).sum(), arguments)
    bound = B.abs().amax((0, 1)) / a * x.abs().amax((0, 1))[:, None]
    return torch.stack(states).detach(), bound.detach(), gradients


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("dt_range", [(1e-12, 1e6), (1e-12, 1e-9), (1e5, 1e6)])
def test_potentials_stay_within_the_bound_under_extreme_steps(dt_range, dtype, backend):
    for seed in range(3):
        states, bound, gradients = extreme_scan(seed, dt_range, (1e-3, 1e3), dtype=dtype, backend=backend)
        assert (states.abs() <= bound * (1 + 64 * torch.finfo(dtype).eps)).all()
        assert all(gradient.isfinite().all() for gradient in gradients)


def test_first_order_injection_breaks_the_bound():
    states, bound, _ = extreme_scan(0, (1e5, 1e6), (1e-3, 1e3), dtype=torch.float64, backend="auto", injection="euler")
    assert (states.abs() > 100 * bound).any()


rate = st.floats(-6, 6).map(lambda exponent: 10.0**exponent)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    nodes=st.lists(st.tuples(rate, rate, rate, st.floats(-2, 2), st.floats(-2, 2)), min_size=1, max_size=4),
    steps=st.lists(st.tuples(st.floats(-12, 6), st.floats(-1e3, 1e3)), min_size=1, max_size=12),
)
def test_any_circuit_is_stable_and_bounded(nodes, steps):
    cascade = Cascade([RCNode(*values) for values in nodes])
    dt, x = 10.0 ** np.array([step[0] for step in steps]), np.array([step[1] for step in steps])
    assert (cascade.poles < 0).all()
    y, bound = x, np.abs(x).max()
    for node in cascade.nodes:
        _, v = node.simulate(y, dt)
        y = scan_node(node, y, dt)
        assert node.dc_gain <= 1
        assert (np.abs(v) <= node.dc_gain * bound * (1 + 1e-12)).all()
        bound = (abs(node.c) * node.dc_gain + abs(node.d)) * bound
        assert (np.abs(y) <= bound * (1 + 1e-12)).all()
        assert np.isfinite(y).all()
    exact, _ = cascade.simulate(x, dt)
    assert (np.abs(exact) <= bound * (1 + 1e-9)).all()
    np.testing.assert_allclose(y, cascade.simulate_cells(x, dt)[0], rtol=0, atol=1e-12 * (1 + bound))
