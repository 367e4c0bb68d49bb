"""RC nodes and cascades against Kirchhoff's law, closed forms and one another."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from kinn.circuit import Bank, Cascade, RCNode
from kinn.circuit.linear import propagator

TIMES = np.array([0.0, 1e-3, 0.1, 0.7, 2.0, 9.0])


def random_cascade(size: int, seed: int, *, decades: float = 0.5) -> Cascade:
    draw = np.random.default_rng(seed)
    rates = 10 ** draw.uniform(-decades, decades, (size, 2))
    return Cascade([RCNode.from_rates(a, b, draw.normal(), draw.normal()) for a, b in rates])


def test_node_obeys_kirchhoffs_current_law():
    node = RCNode(capacitance=3e-6, leak=2e-3, coupling=5e-3)
    x, v = 1.7, -0.4
    current = node.leak * v + node.coupling * (v - x)  # what leaves through leak and coupling
    assert node.capacitance * (-node.a * v + node.b * x) == pytest.approx(-current, rel=1e-15)
    assert node.time_constant == pytest.approx(3e-6 / 7e-3, rel=1e-15)
    assert node.dc_gain == pytest.approx(5 / 7, rel=1e-15)


@pytest.mark.parametrize(("a", "b"), [(3.0, 1.0), (3.0, 0.0), (3.0, 3.0), (3.0, 40.0), (0.02, -1.0)])
def test_from_rates_keeps_what_goes_in_and_out(a, b):
    node = RCNode.from_rates(a, b, 0.7, -0.2, capacitance=1e-9)
    assert node.capacitance == 1e-9
    assert node.leak > 0 <= node.coupling
    s = np.array([0.0, 0.3 + 2j, 50j])
    np.testing.assert_allclose(Cascade([node]).transfer_function(s), -0.2 + 0.7 * b / (s + a), rtol=1e-14)
    if b < a and b >= 0:  # a pair of conductances: the potential keeps its scale too
        assert (node.b, node.c) == (pytest.approx(b, rel=1e-15), 0.7)


def test_capacitance_scales_conductances_alone():
    small, large = (RCNode.from_rates(2.0, 0.5, capacitance=C) for C in (1e-12, 1.0))
    assert small.leak == pytest.approx(1e-12 * large.leak, rel=1e-15)
    assert Cascade([small]).step_response(0.3) == pytest.approx(Cascade([large]).step_response(0.3), rel=1e-14)


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_impossible_parts_are_refused(value):
    with pytest.raises(ValueError, match=r"capacitance"):
        RCNode(value, 1.0, 1.0)
    with pytest.raises(ValueError, match=r"leak"):
        RCNode(1.0, value, 1.0)
    with pytest.raises(ValueError, match=r"decay rate a > 0"):
        RCNode.from_rates(value, 1.0)


def test_more_impossible_parts():
    with pytest.raises(ValueError, match=r"coupling conductance g_c >= 0, got -1"):
        RCNode(1.0, 1.0, -1.0)
    for name in ("coupling", "c", "d"):
        with pytest.raises(ValueError, match=f"finite {name}, got nan"):
            RCNode(**{"capacitance": 1.0, "leak": 1.0, "coupling": 1.0, name: math.nan})
    with pytest.raises(ValueError, match="injection rate b"):
        RCNode.from_rates(1.0, math.inf)
    with pytest.raises(ValueError, match="floating point's range, got inf"):
        RCNode(1e-300, 1e300, 0.0)
    with pytest.raises(ValueError, match="at least one node"):
        Cascade([])
    with pytest.raises(TypeError):
        RCNode("1", 1.0, 1.0)  # type: ignore[arg-type]


def test_wrong_times_and_shapes_are_refused():
    cascade = random_cascade(2, 0)
    with pytest.raises(ValueError, match=r"not negative, got -1\.0"):
        cascade.step_response([0.0, -1.0])
    with pytest.raises(ValueError, match="not negative, got nan"):
        cascade.simulate(np.ones(3), math.nan)
    with pytest.raises(ValueError, match=r"got shapes \(3,\) and \(2,\)"):
        cascade.simulate(np.ones(3), [0.1, 0.2])
    with pytest.raises(ValueError, match=r"got shapes \(\) and \(\)"):
        cascade.nodes[0].simulate(1.0, 0.1)
    with pytest.raises(ValueError, match=r"initial potentials of shape \(5, 2\), got \(5, 3\)"):
        cascade.simulate_cells(np.ones((5, 4)), 0.1, initial_potentials=np.ones((5, 3)))
    node = cascade.nodes[0]
    with pytest.raises(ValueError, match=r"initial potentials of shape \(5,\), got \(3,\)"):
        node.simulate(np.ones((5, 4)), 0.1, initial_potential=np.ones(3))
    with pytest.raises(ValueError, match=r"initial potentials of shape \(\), got \(4,\)"):
        node.step(0.0, np.arange(4.0), 0.1)
    for circuit in (node, Bank([node]), cascade):
        with pytest.raises(TypeError, match="the drive to be real, got complex128 numbers"):
            circuit.simulate(np.ones(3) * 1j, 0.1)
    with pytest.raises(TypeError, match="the drive to be real, got complex128 numbers"):
        cascade.step_cells(1j, 0.0, 0.1)
    with pytest.raises(TypeError, match="initial potentials to be real, got complex128 numbers"):
        node.step(0.0, 1j, 0.1)
    with pytest.raises(ValueError, match="exceed floating point's range"):
        Cascade([RCNode(1e-300, 1.0, 1.0)]).impulse_response(1e300)


def random_bank(size: int, seed: int, **options) -> Bank:
    return Bank(random_cascade(size, seed).nodes, **options)


CASCADES = {
    **{str(size): random_cascade(size, size) for size in (1, 2, 3, 5)},
    "bank": Cascade([random_bank(4, 20, d=0.3)]),
    "series": Cascade([random_bank(2, 21, d=1.0), random_cascade(1, 22).nodes[0], random_bank(3, 23)]),
    "dense": Cascade([random_bank(2, 24, d=1.0), random_bank(3, 25), random_bank(2, 26, d=-0.5)], dense=True),
}


@pytest.mark.parametrize("name", CASCADES)
def test_polynomials_roots_and_state_space_are_one_transfer_function(name):
    cascade = CASCADES[name]
    size = len(cascade.nodes)
    s = np.array([0.0, 0.4, 1.0 + 2.0j, -0.1j, 300j])
    H = cascade.transfer_function(s)
    np.testing.assert_allclose(np.polyval(cascade.numerator, s) / np.polyval(cascade.denominator, s), H, rtol=1e-11)
    A, B, C, D = cascade.state_space()
    resolvent = [C @ np.linalg.solve(value * np.eye(size) - A, B) + D for value in s]
    np.testing.assert_allclose(resolvent, H, rtol=1e-11)
    gain = cascade.feedthrough * np.prod(s[:, None] - cascade.zeros, -1) / np.prod(s[:, None] - cascade.poles, -1)
    np.testing.assert_allclose(gain, H, rtol=1e-11)
    assert cascade.dc_gain == pytest.approx(H[0].real, rel=1e-12)
    np.testing.assert_allclose(cascade.frequency_response(300.0), H[-1], rtol=1e-15)
    np.testing.assert_allclose(np.sort(np.linalg.eigvals(A)), np.sort(cascade.poles), rtol=1e-14)
    assert (cascade.poles < 0).all()
    assert cascade.degree() == size


def test_impulse_response_by_partial_fractions():
    # H = 2*3 / ((s+1)(s+4)) = 2/(s+1) - 2/(s+4)
    cascade = Cascade([RCNode.from_rates(1.0, 2.0), RCNode.from_rates(4.0, 3.0)])
    np.testing.assert_allclose(cascade.impulse_response(TIMES), 2 * (np.exp(-TIMES) - np.exp(-4 * TIMES)), atol=1e-15)
    assert cascade.feedthrough == 0.0
    step = 2 * (1 - np.exp(-TIMES)) - (1 - np.exp(-4 * TIMES)) / 2
    np.testing.assert_allclose(cascade.step_response(TIMES), step, atol=1e-15)


def test_equal_stages_have_no_partial_fractions_and_still_a_response():
    # (1/(s+2))^3 <-> t^2/2 exp(-2t): where a formula over distinct poles divides by zero
    cascade = Cascade([RCNode.from_rates(2.0, 1.0)] * 3)
    np.testing.assert_allclose(cascade.impulse_response(TIMES), TIMES**2 / 2 * np.exp(-2 * TIMES), atol=1e-16)
    assert cascade.degree() == 3


@pytest.mark.parametrize("name", CASCADES)
def test_responses_belong_together(name):
    cascade = CASCADES[name]
    delta, total = cascade.feedthrough, cascade.dc_gain
    assert cascade.step_response(0.0) == pytest.approx(delta, rel=1e-15)
    assert cascade.step_response(1e4) == pytest.approx(total, rel=1e-13)
    h, t = 1e-5, TIMES + 0.01
    slope = (cascade.step_response(t + h) - cascade.step_response(t - h)) / (2 * h)
    np.testing.assert_allclose(slope, cascade.impulse_response(t), rtol=1e-6, atol=1e-8)
    slope = (cascade.impulse_response(t + h) - cascade.impulse_response(t - h)) / (2 * h)
    np.testing.assert_allclose(slope, cascade.impulse_response(t, derivative=1), rtol=1e-6, atol=1e-8)
    # The smooth part and the delta add up to H(0): integral by Gauss-Laguerre on t/tau.
    nodes, weights = np.polynomial.laguerre.laggauss(60)
    rate = -cascade.poles.max()
    area = (weights * np.exp(nodes) * cascade.impulse_response(nodes / rate) / rate).sum()
    assert area + delta == pytest.approx(total, abs=1e-6)


def test_simulation_is_exact_for_a_held_drive():
    cascade = random_cascade(3, 5)
    y, v = cascade.simulate(np.ones(40), 0.13)
    np.testing.assert_allclose(y, cascade.step_response(0.13 * np.arange(1, 41)), rtol=1e-12)
    assert v.shape == (40, 3)


def test_uneven_steps_batches_and_initial_potentials():
    cascade, draw = random_cascade(3, 6), np.random.default_rng(0)
    x, dt = draw.normal(size=(2, 4, 12)), draw.uniform(0.0, 1.0, 12)
    start = draw.normal(size=(2, 4, 3))
    for simulate, step in ((cascade.simulate, cascade.step), (cascade.simulate_cells, cascade.step_cells)):
        y, v = simulate(x, dt, initial_potentials=start)
        state = start
        for t in range(12):
            out, state = step(x[..., t], state, dt[t])
            np.testing.assert_allclose(out, y[..., t], atol=1e-14)
            np.testing.assert_allclose(state, v[..., t, :], atol=1e-14)
        first, middle = simulate(x[..., :5], dt[:5], initial_potentials=start)
        second, _ = simulate(x[..., 5:], dt[5:], initial_potentials=middle[..., -1, :])
        np.testing.assert_allclose(np.concatenate([first, second], -1), y, atol=1e-14)


def test_node_step_is_a_cascade_of_one():
    node = random_cascade(1, 3).nodes[0]
    x = np.random.default_rng(1).normal(size=20)
    exact, cells, alone = (
        Cascade([node]).simulate(x, 0.3),
        Cascade([node]).simulate_cells(x, 0.3),
        node.simulate(x, 0.3),
    )
    np.testing.assert_allclose(exact[0], alone[0], atol=1e-15)
    np.testing.assert_array_equal(cells[0], alone[0])
    np.testing.assert_allclose(exact[1][:, 0], alone[1], atol=1e-15)
    np.testing.assert_array_equal(node.step(x[0], 0.0, 0.3), (alone[0][0], alone[1][0]))


def test_cell_by_cell_steps_approach_the_circuit_at_first_order():
    cascade = random_cascade(3, 7)
    errors = []
    for steps in (100, 200, 400):
        y, _ = cascade.simulate_cells(np.ones(steps), 2.0 / steps)
        errors.append(abs(y[-1] - cascade.step_response(2.0)))
    orders = np.log2(np.array(errors[:-1]) / errors[1:])
    np.testing.assert_allclose(orders, 1.0, atol=0.1)


def test_banks_and_dense_cascades_are_sums():
    first, second, third = random_bank(2, 30, d=0.4), random_bank(3, 31), random_cascade(1, 32).nodes[0]
    x, s = np.random.default_rng(2).normal(size=(2, 25)), np.array([0.2, 1.0 + 3.0j])
    stages = [first, second, third]
    dense, heads = Cascade(stages, dense=True), [Cascade(stages[: k + 1]) for k in range(3)]
    alone = [Cascade([node]) for node in first.nodes]
    for method, arguments in (("transfer_function", (s,)), ("impulse_response", (TIMES,)), ("step_response", (TIMES,))):
        sums = sum(getattr(head, method)(*arguments) for head in heads)
        np.testing.assert_allclose(getattr(dense, method)(*arguments), sums, rtol=1e-12, atol=1e-14)
        direct = 0.0 if method == "impulse_response" else 0.4
        sums = direct + sum(getattr(node, method)(*arguments) for node in alone)
        np.testing.assert_allclose(getattr(Cascade([first]), method)(*arguments), sums, rtol=1e-12, atol=1e-14)
    for method in ("simulate", "simulate_cells"):
        y, v = getattr(dense, method)(x, 0.3)
        sums = sum(getattr(head, method)(x, 0.3)[0] for head in heads)
        np.testing.assert_allclose(y, sums, rtol=1e-12, atol=1e-13)
        assert v.shape == (2, 25, 6)
        y, _ = getattr(Cascade([first]), method)(x, 0.3)
        sums = 0.4 * x + sum(node.simulate(x, 0.3)[0] for node in first.nodes)
        np.testing.assert_allclose(y, sums, rtol=1e-12, atol=1e-13)


def test_zeros_of_a_bank_without_feedthrough():
    # 1/(s+1) - 2/(s+3) + 1/(s+5) = 8/((s+1)(s+3)(s+5)): neither the drive nor its rate passes
    parts = [(1.0, 1.0), (3.0, -2.0), (5.0, 1.0)]
    flat = Bank([RCNode.from_rates(a, 0.5, 2 * r) for a, r in parts])
    assert Cascade([flat]).reduced()[0].size == 0
    assert Cascade([flat]).degree() == 3
    # 1/(s+1) + 1/(s+3) = 2 (s+2)/((s+1)(s+3)), and what has its pole there
    pair = Bank([RCNode.from_rates(a, 0.5, 2.0) for a in (1.0, 3.0)])
    np.testing.assert_allclose(pair.zeros, [-2.0], rtol=1e-14)
    assert Cascade([pair, RCNode.from_rates(2.0, 1.0)]).degree() == 2


def test_complex_zeros_meet_no_pole():
    # 1 + 2/(s+1) - 5/(s+2) = (s^2 + 1)/((s+1)(s+2)): nothing of a drive at 1 rad/s comes out
    notch = Cascade([Bank([RCNode.from_rates(1.0, 0.5, 4.0), RCNode.from_rates(2.0, 1.0, -5.0)], d=1.0)])
    np.testing.assert_allclose(np.sort_complex(notch.zeros), [-1j, 1j], atol=1e-14)
    assert abs(notch.frequency_response(1.0)) < 1e-15
    assert notch.degree() == 2
    assert "poles -2, -1, zeros" in str(notch)


def test_bank_without_a_sum_is_silent_and_refuses_what_cannot_be():
    node = RCNode.from_rates(2.0, 1.0)
    assert Cascade([Bank([node, RCNode.from_rates(2.0, 1.0, -1.0)])]).degree() == 0
    with pytest.raises(ValueError, match="a bank of at least one node"):
        Bank([])
    with pytest.raises(ValueError, match="finite d, got inf"):
        Bank([node], math.inf)


def test_degree_counts_multiplicities():
    slow, cancels = RCNode.from_rates(2.0, 1.0), RCNode.from_rates(3.0, 1.0, c=-1.0, d=1.0)  # zero at -2
    assert Cascade([slow, slow, cancels]).degree() == 2  # poles -2 -2 -3, one zero -2
    assert Cascade([slow, slow, cancels, cancels]).degree() == 2  # -3 -3 remain
    assert Cascade([slow, cancels, cancels]).degree() == 2  # -3 -3 and one zero -2 remain
    zeros, poles = Cascade([slow, cancels, cancels]).reduced()
    np.testing.assert_allclose(zeros, [-2.0], rtol=1e-15)
    np.testing.assert_allclose(poles, [-3.0, -3.0], rtol=1e-15)
    assert Cascade([cancels, slow]).degree() == 1  # the order of the stages does not matter


def test_gains_and_dead_stages():
    node = RCNode.from_rates(2.0, 1.0)
    for plain in (RCNode(1.0, 1.0, 0.0, d=3.0), RCNode(1.0, 1.0, 1.0, c=0.0, d=3.0)):
        assert Cascade([node, plain]).degree() == 1
        np.testing.assert_allclose(Cascade([plain]).step_response(TIMES), 3.0, rtol=1e-15)
    dead = RCNode(1.0, 1.0, 1.0, c=0.0, d=0.0)
    assert Cascade([node, dead]).degree() == 0
    assert not Cascade([node, dead]).step_response(TIMES).any()


def test_tolerance_of_the_cancellation():
    close = [RCNode.from_rates(2.0, 1.0), RCNode.from_rates(3.0, 1.0, c=-1.0, d=1.0 + 1e-6)]
    assert Cascade(close).degree() == 2
    assert Cascade(close).degree(tolerance=1e-5) == 1


def test_propagator_agrees_with_torch():
    generator, _, _ = random_cascade(4, 8)._driven()
    expected = torch.linalg.matrix_exp(torch.from_numpy(generator * TIMES[:, None, None])).numpy()
    np.testing.assert_allclose(propagator(generator, TIMES), expected, rtol=1e-11, atol=1e-13)


def test_propagator_keeps_its_digits_in_stiff_cascades():
    # Stages nine decades apart over 1000 s; the gain settles slowly behind a fast stage: 1 - exp(-1e-3 t), to 1e-9.
    fast, slow = RCNode.from_rates(1e6, 0.5e6, c=2.0), RCNode.from_rates(1e-3, 0.5e-3, c=2.0)
    for cascade in (Cascade([fast, slow]), Cascade([slow, fast])):
        exact = 1 + (1e-3 * math.exp(-1e9) - 1e6 * math.exp(-1.0)) / (1e6 - 1e-3)
        assert cascade.step_response(1000.0) == pytest.approx(exact, rel=1e-14)


def test_table_shows_the_circuit():
    text = str(Cascade([RCNode(1e-6, 1e-3, 1e-3), RCNode(2e-6, 1e-3, 0.0, d=2.0)]))
    assert "tau [s]" in text
    assert "0.0005" in text
    assert "order 1 of 2, DC gain 1, poles -2000, zeros none" in text
    assert str(RCNode(1e-6, 1e-3, 1e-3)).count("\n") == 2


def test_values_are_plain_and_hashable():
    node = RCNode(np.float32(1.0), 1, torch.tensor(2.0))  # type: ignore[arg-type]
    assert node == RCNode(1.0, 1.0, 2.0)
    assert len({Cascade([node]), Cascade((node,))}) == 1
