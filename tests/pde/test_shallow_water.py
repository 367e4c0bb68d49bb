"""Shallow water: exact dam breaks, second order, positivity, conservation, symmetry; held against other codes."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from kinn.pde import dam_break, shallow_water_frames, solve_shallow_water

MIRROR = torch.tensor([1.0, -1.0, 1.0], dtype=torch.float64).view(1, 3, 1, 1)


def strip(depth: Tensor, u: Tensor | float = 0.0, v: Tensor | float = 0.0) -> Tensor:
    """A flow that does not change along y: `(1, 3, n, 4)`."""
    state = torch.stack((depth, depth * u, depth * v))
    return state[None, :, :, None].expand(-1, -1, -1, 4).contiguous()


def centres(n: int) -> Tensor:
    return (torch.arange(n, dtype=torch.float64) + 0.5) / n - 0.5


def two_depths(n: int, left: float, right: float) -> Tensor:
    return torch.where(centres(n) < 0, left, right).double()


def stoker_middle(left: float, right: float) -> tuple[float, float]:
    """Depth and velocity between the fan and the bore of a broken dam (Stoker 1957), g = 1, by bisection."""
    low, high = right, left
    for _ in range(80):
        h = (low + high) / 2
        behind_fan = 2 * (math.sqrt(left) - math.sqrt(h))
        behind_bore = (h - right) * math.sqrt((h + right) / (2 * h * right))
        low, high = (h, high) if behind_fan > behind_bore else (low, h)
    return low, 2 * (math.sqrt(left) - math.sqrt(low))


def stoker(n: int, t: float, left: float, right: float) -> tuple[Tensor, Tensor, Tensor]:
    """Depth, velocity and, carried along from the left, a tangential velocity of 1 after the dam at 0 broke."""
    s = centres(n) / t
    h, u = stoker_middle(left, right)
    c0, bore = math.sqrt(left), u * h / (h - right)
    fan = s.clamp(-c0, u - math.sqrt(h))
    depth = torch.where(s < bore, (2 * c0 - fan).square() / 9, right)
    velocity = torch.where(s < bore, 2 / 3 * (fan + c0), 0.0)
    return depth, velocity, (s < u).double()


def l1(found: Tensor, expected: Tensor) -> float:
    return (found - expected).abs().mean().item()


def order(errors: list[float]) -> float:
    """At which the errors fall when the number of cells doubles each time: the slope of a fit."""
    return -np.polyfit(np.arange(len(errors)), np.log2(errors), 1)[0]


def test_converges_to_stokers_dam_break_at_first_order() -> None:
    """A jump takes a fixed number of cells: no scheme does better than the first power of their width."""
    errors = []
    for n in (100, 200, 400):
        h = two_depths(n, 2.0, 1.0)
        later = solve_shallow_water(strip(h, v=(h - 1)), 2, spacing=1 / n, frame_interval=0.1)[0]
        for frame, t in enumerate((0.1, 0.2)):
            depth, normal, tangential = later[frame]
            exact = stoker(n, t, 2.0, 1.0)
            errors.append([l1(depth[:, 0], exact[0]), l1((normal / depth)[:, 0], exact[1])])
            carried = tangential / depth
            errors[-1].append(l1(carried[:, 0], exact[2]))
            assert (depth == depth[:, :1]).all()
            assert -1e-9 < carried.min() <= carried.max() < 1 + 1e-9
    for t, limits in ((0, (1.5e-3, 1.5e-3, 5e-3)), (1, (1.5e-3, 1.5e-3, 7e-3))):
        for quantity, limit in enumerate(limits):
            found = [error[quantity] for error in errors[t::2]]
            assert found[-1] < limit
            assert (0.85 < order(found) < 1.2) if quantity < 2 else (0.6 < order(found) < 1), (t, quantity, found)


def test_the_bore_has_the_exact_height_and_speed_and_nothing_overshoots() -> None:
    n, t = 400, 0.2
    later = solve_shallow_water(strip(two_depths(n, 2.0, 1.0)), 1, spacing=1 / n, frame_interval=t)[0, 0, 0, :, 0]
    h, u = stoker_middle(2.0, 1.0)
    bore, front = u * h / (h - 1) * t, centres(n)[later > (1 + h) / 2].max()
    assert abs(front - bore) < 1 / n
    plateau = later[(centres(n) > (u - math.sqrt(h)) * t + 0.03) & (centres(n) < bore - 0.03)]
    assert len(plateau) > 20
    assert (plateau - h).abs().max() < 1e-3
    assert 1 - 1e-9 < later.min() <= later.max() < 2 + 1e-9


def test_water_runs_onto_a_dry_bed_as_ritter_says() -> None:
    """h = (2 sqrt(h0) - x / t)^2 / 9 between -sqrt(h0) t and 2 sqrt(h0) t (Ritter 1892)."""
    errors, t = [], 0.15
    for n in (100, 200, 400):
        later = solve_shallow_water(strip(two_depths(n, 1.0, 0.0)), 1, spacing=1 / n, frame_interval=t)[0, 0]
        errors.append(l1(later[0, :, 0], (2 - (centres(n) / t).clamp(-1, 2)).square() / 9))
        assert later[0].min() >= 0
        assert (later[0, :, 0].diff() <= 0).all()  # the front is as thin as nothing, but it does not oscillate
    assert order(errors) > 0.9
    assert errors[-1] < 1e-3


def test_water_torn_apart_leaves_a_dry_bed() -> None:
    """Two streams part at 4 sqrt(h): each ends in a front, and the bed between the fronts is dry."""
    n, t = 200, 0.05
    x = centres(n)
    later = solve_shallow_water(strip(torch.ones(n).double(), 4 * x.sign()), 1, spacing=1 / n, frame_interval=t)[0, 0]
    exact = ((x.abs() / t - 2).clamp(0, 3) / 3).square()
    assert later[0].min() >= 0
    assert later[0, n // 2].max() < 0.01
    assert l1(later[0, :, 0], exact) < 6e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_column_of_water_falls_on_dry_ground(dtype: torch.dtype) -> None:
    """In two dimensions, to the very corners and out: no negative depth, nothing infinite; dry ground stays dry."""
    state = dam_break(torch.tensor([1.0, 0.0], dtype=dtype), 32, inner=1.0, outer=0.0)
    later = solve_shallow_water(state, 6, spacing=5 / 32, frame_interval=1.0)
    assert later[:, :, 0].min() >= 0
    assert later[0, -1, 0].sum() < 0.5 * state[0, 0].sum()
    assert (later[1] == 0).all()


@pytest.mark.parametrize("courant", [0.45, 0.5])
def test_no_state_is_too_violent(courant: float) -> None:
    """Puddles of very unequal depths that run at each other at random, faster than their waves."""
    generator = torch.Generator().manual_seed(0)
    depth = torch.rand(4, 1, 16, 16, generator=generator) ** 4
    depth *= torch.rand(depth.shape, generator=generator) < 0.5
    state = torch.cat((depth, 3 * depth * torch.randn(4, 2, 16, 16, generator=generator)), dim=1)
    later = solve_shallow_water(state, 4, spacing=0.1, frame_interval=0.05, courant=courant)
    assert later[:, :, 0].min() >= 0
    assert later[:, :, 0].max() < 20


def test_thin_films_have_no_speed_of_their_own() -> None:
    """What rounding leaves of momentum on an almost dry bed must not set the step of the whole flow."""
    state = dam_break(torch.tensor([1.0]), 32, inner=1.0, outer=0.0)
    film = state.clone()
    film[0, :, 2, 2] = torch.tensor([1e-9, 1e-4, 0.0])
    options = {"n_frames": 1, "spacing": 5 / 32, "frame_interval": 0.2}
    torch.testing.assert_close(
        solve_shallow_water(film, **options)[..., 3:, 3:], solve_shallow_water(state, **options)[..., 3:, 3:]
    )


def simple_wave(n: int, t: float) -> tuple[Tensor, Tensor]:
    """A wave that runs to the right: u = 2 sqrt(h) - 2, and h constant along x = x0 + (3 sqrt(h) - 2) t; at centres."""

    def start(x0: Tensor) -> Tensor:
        return 1 + 0.1 * torch.exp(-(x0 / 0.08).square())

    x = x0 = centres(n)
    for _ in range(200):
        x0 = x - (3 * start(x0).sqrt() - 2) * t
    h = start(x0)
    return h, 2 * h.sqrt() - 2


def test_second_order_on_a_smooth_wave() -> None:
    """In the mean: at the crest the limiter takes slopes for jumps. Centres and means differ by the same order."""
    errors = []
    for n in (100, 200, 400):
        (h, u), (depth, velocity) = simple_wave(n, 0.0), simple_wave(n, 0.1)
        later = solve_shallow_water(strip(h, u), 1, spacing=1 / n, frame_interval=0.1)[0, 0]
        errors.append(l1(later[0, :, 0], depth) + l1((later[1] / later[0])[:, 0], velocity))
    assert order(errors) > 1.85
    assert errors[-1] < 3e-5


def test_second_order_in_two_dimensions() -> None:
    """A smooth hump in a cross-flow: solutions on grids that start from the same means, each against the next finer."""
    x = 2 * centres(128)
    h = 1 + 0.3 * torch.exp(-((x[:, None] - 0.1).square() + x.square()) / 0.08)
    start, solutions = torch.stack((h, 0.3 * h, -0.2 * h))[None], []
    for n in (32, 64, 128):
        state = torch.nn.functional.avg_pool2d(start, 128 // n)
        solutions.append(solve_shallow_water(state, 1, spacing=2 / n, frame_interval=0.15)[0, 0])
    errors = [l1(coarse, torch.nn.functional.avg_pool2d(fine, 2)) for coarse, fine in itertools.pairwise(solutions)]
    assert order(errors) > 1.8, errors


def radial_depth(radius: float, t: float, n: int = 2000) -> tuple[np.ndarray, np.ndarray]:
    """Distance and depth of the benchmark's flow as one of distance alone, by the plainest scheme there is (Rusanov).

    (r h)_t + (r h u)_r = 0,  (r h u)_t + (r h u^2 + r h^2 / 2)_r = h^2 / 2, on 2000 cells in 0 < r < 2.5.
    """
    faces = np.linspace(0, 2.5, n + 1)
    r, dr, now = (faces[1:] + faces[:-1]) / 2, 2.5 / n, 0.0
    h, m = np.where(r < radius, 2.0, 1.0), np.zeros(n)
    while now < t:
        dt = min(0.9 * dr / (abs(m / h) + np.sqrt(h)).max(), t - now)
        depth, momentum = np.concatenate((h[:1], h, h[-1:])), np.concatenate((-m[:1], m, m[-1:]))
        speed = abs(momentum / depth) + np.sqrt(depth)
        greatest = np.maximum(speed[1:], speed[:-1])
        mass = (momentum[1:] + momentum[:-1] - greatest * np.diff(depth)) / 2
        push = momentum**2 / depth + depth**2 / 2
        push = (push[1:] + push[:-1] - greatest * np.diff(momentum)) / 2
        m = m - dt / r * (np.diff(faces * push) / dr - h**2 / 2)
        h = h - dt / r * np.diff(faces * mass) / dr
        now += dt
    return r, h


def test_radial_dam_break_converges_to_the_radial_equations() -> None:
    r, h = radial_depth(0.5, 1.0)
    errors = []
    for n in (64, 128):
        state = dam_break(torch.tensor([0.5], dtype=torch.float64), n)
        later = solve_shallow_water(state, 1, spacing=5 / n, frame_interval=1.0)[0, 0, 0]
        x = 5 * centres(n)
        exact = torch.from_numpy(np.interp((x[:, None].square() + x.square()).sqrt().numpy(), r, h))
        errors.append(l1(later, exact) / l1(exact, torch.tensor(1.0)))
    assert errors[1] < 0.07
    assert errors[1] < 0.6 * errors[0]


def test_water_and_momentum_are_conserved_until_a_wave_leaves() -> None:
    state = dam_break(torch.tensor([0.3, 0.7], dtype=torch.float64), 64)
    state[:, 1:, 20:40, 24:30] = 0.3
    later = solve_shallow_water(state, 2, spacing=5 / 64, frame_interval=0.25)
    assert ((later[:, 1] - state).abs().mean((-2, -1)) > 0.01).all()
    for frame in range(2):
        assert (later[:, frame] - state).sum((-2, -1)).abs().max() < 1e-10


def test_waves_leave_through_the_boundary_without_coming_back() -> None:
    state = strip(*simple_wave(100, 0.0))
    for there in (state, MIRROR * state.flip(-2)):
        later = solve_shallow_water(there, 1, spacing=0.01, frame_interval=1.0)[0, 0, 0]
        assert (later - 1).abs().max() < 0.01 * (state[0, 0] - 1).max()
    stream = torch.tensor([1.3, 0.4, -0.9], dtype=torch.float64).view(1, 3, 1, 1).expand(1, 3, 8, 12)
    torch.testing.assert_close(solve_shallow_water(stream, 1, spacing=0.1, frame_interval=3.0)[:, 0], stream)


def test_still_water_stays_still() -> None:
    for depth in (1.7, 1e-8):
        state = torch.tensor([depth, 0.0, 0.0]).view(1, 3, 1, 1).expand(1, 3, 16, 20)
        assert torch.equal(solve_shallow_water(state, 2, spacing=0.1, frame_interval=1.0)[:, -1], state)


def test_water_that_slides_along_water_stays_sharp() -> None:
    """Behind two waves alone (HLL) a jump of the tangential velocity would spread; the middle wave keeps it."""
    state = strip(torch.ones(20).double(), v=centres(20).sign())
    assert torch.equal(solve_shallow_water(state, 1, spacing=0.05, frame_interval=1.0)[:, 0], state)


def test_directions_are_treated_alike() -> None:
    """Mirrored or transposed water flows mirrored or transposed, to the last bit."""
    state = dam_break(torch.tensor([0.6], dtype=torch.float64), 32)
    state[:, 0, 4:9, 6:20] += 0.5
    state[:, 1] += 0.3 * state[:, 0]
    options = {"n_frames": 1, "spacing": 5 / 32, "frame_interval": 0.6}
    flow = solve_shallow_water(state, **options)[:, 0]
    assert (flow - state).abs().max() > 0.3
    mirrored = solve_shallow_water(MIRROR * state.flip(-2), **options)[:, 0]
    assert torch.equal(MIRROR * mirrored.flip(-2), flow)
    transposed = solve_shallow_water(state[:, [0, 2, 1]].mT, **options)[:, 0]
    assert torch.equal(transposed[:, [0, 2, 1]].mT, flow)


def test_gravity_scales_time() -> None:
    """Four times the gravity: the same depths in half the time, at twice the speed."""
    state = dam_break(torch.tensor([0.5], dtype=torch.float64), 32)
    slow = solve_shallow_water(state, 1, spacing=5 / 32, frame_interval=0.8)
    fast = solve_shallow_water(state, 1, spacing=5 / 32, frame_interval=0.4, gravity=4.0)
    torch.testing.assert_close(fast, slow * torch.tensor([1.0, 2, 2], dtype=torch.float64).view(3, 1, 1))


def test_a_flow_does_not_depend_on_the_flows_beside_it() -> None:
    state = torch.cat([dam_break(torch.tensor([0.4]), 32), dam_break(torch.tensor([0.7]), 32, inner=30.0)])
    together = list(shallow_water_frames(state, 3, spacing=5 / 32, frame_interval=0.1))
    for row in range(2):
        alone = list(shallow_water_frames(state[row : row + 1], 3, spacing=5 / 32, frame_interval=0.1))
        for one, other in zip(together, alone, strict=True):
            assert torch.equal(one[row : row + 1], other)


def test_large_batches_are_taken_in_parts() -> None:
    state = dam_break(torch.linspace(0.3, 0.7, 9), 128)
    later = solve_shallow_water(state, 1, spacing=5 / 128, frame_interval=0.01)
    assert later.shape == (9, 1, 3, 128, 128)
    assert torch.equal(later[8:], solve_shallow_water(state[8:], 1, spacing=5 / 128, frame_interval=0.01))


def test_single_precision_and_other_steps_change_little() -> None:
    state = dam_break(torch.tensor([0.5], dtype=torch.float64), 64)
    options = {"spacing": 5 / 64, "frame_interval": 0.05}
    flow = solve_shallow_water(state, 20, **options)[:, -1]
    single = solve_shallow_water(state.float(), 20, **options)[:, -1]
    torch.testing.assert_close(single.double(), flow, rtol=0, atol=2e-5)
    careful = solve_shallow_water(state, 20, **options, courant=0.1)[:, -1]
    assert 1e-6 < l1(careful, flow) < 3e-3


def test_agrees_with_pyclaw() -> None:
    """Wave propagation instead of fluxes, one direction after the other: the same flow as the cells get finer."""
    pyclaw = pytest.importorskip("clawpack.pyclaw")
    riemann = pytest.importorskip("clawpack.riemann")
    differences = []
    for n in (64, 128):
        solver = pyclaw.ClawSolver2D(riemann.shallow_roe_with_efix_2D)
        solver.limiters = pyclaw.limiters.tvd.MC
        solver.all_bcs = pyclaw.BC.extrap
        domain = pyclaw.Domain([-2.5, -2.5], [2.5, 2.5], [n, n])
        theirs = pyclaw.State(domain, 3)
        theirs.problem_data["grav"] = 1.0
        start = dam_break(torch.tensor([0.5], dtype=torch.float64), n)
        theirs.q[...] = start[0].numpy()
        solution = pyclaw.Solution(theirs, domain)
        solver.setup(solution)
        solver.evolve_to_time(solution, 1.0)
        ours = solve_shallow_water(start, 1, spacing=5 / n, frame_interval=1.0)[0, 0, 0]
        differences.append(l1(ours, torch.from_numpy(solution.state.q[0])) / l1(ours, torch.tensor(1.0)))
    assert differences[1] < 0.05
    assert differences[1] < 0.7 * differences[0]


def test_a_flow_that_cannot_be_followed_is_reported() -> None:
    state = torch.ones(1, 3, 8, 8)
    state[0, 1, 4, 4] = 1e9
    with pytest.raises(ValueError, match=r"too fast before t = 0\.5: it asks for more than 1,000,000 steps"):
        solve_shallow_water(state, 1, spacing=0.1, frame_interval=0.5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"spacing": 0.0}, "spacing must be positive, but is 0"),
        ({"frame_interval": -1.0}, "frame_interval must be positive"),
        ({"gravity": math.nan}, "gravity must be positive, but is nan"),
        ({"courant": 0.6}, r"courant must lie in \(0, 0\.5\], but is 0\.6"),
        ({"n_frames": 0}, "n_frames must be positive"),
    ],
)
def test_wrong_numbers(change: dict[str, float], message: str) -> None:
    options = {"n_frames": 1, "spacing": 0.1, "frame_interval": 0.1, **change}
    with pytest.raises(ValueError, match=message):
        solve_shallow_water(torch.ones(1, 3, 4, 4), **options)


def test_wrong_states() -> None:
    options = {"n_frames": 1, "spacing": 0.1, "frame_interval": 0.1}
    with pytest.raises(TypeError, match=r"float32 or float64, but is torch\.int64"):
        solve_shallow_water(torch.ones(1, 3, 4, 4).long(), **options)
    with pytest.raises(ValueError, match=r"shape \(b, 3, nx, ny\), but has \(1, 2, 4, 4\)"):
        solve_shallow_water(torch.ones(1, 2, 4, 4), **options)
    for bad in (-1.0, math.nan):
        with pytest.raises(ValueError, match="finite with depths that are not negative"):
            solve_shallow_water(torch.full((1, 3, 4, 4), bad), **options)
    with pytest.raises(ValueError, match="depths and radii not negative"):
        dam_break(torch.tensor([-0.1]), 8)
