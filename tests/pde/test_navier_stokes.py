from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from kinn.pde import default_forcing, gaussian_random_field, navier_stokes_frames, solve_navier_stokes
from kinn.pde.navier_stokes import _phi

N = 32


def grid(n: int = N) -> tuple[torch.Tensor, torch.Tensor]:
    x = 2 * math.pi * torch.arange(n, dtype=torch.float64) / n
    return x[:, None], x[None]


def initial(samples: int = 2, n: int = N, *, max_mode: int | None = None, scale: float = 4.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return scale * gaussian_random_field(samples, n, generator=generator, max_mode=max_mode)


def unforced(n: int = N) -> torch.Tensor:
    return torch.zeros(n, n, dtype=torch.float64)


def error(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a - b).norm() / b.norm()).item()


def spectral(w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    n = w.shape[-1]
    k = 2 * math.pi * torch.fft.fftfreq(n, 1 / n, dtype=torch.float64)
    return torch.fft.fft2(w), k[:, None], k[None]


def energy_and_enstrophy(w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    s, k, m = spectral(w)
    square = k**2 + m**2
    square[0, 0] = 1
    power = s.abs().square() / w.shape[-1] ** 4
    return (power / square).sum((-2, -1)) / 2, power.sum((-2, -1)) / 2


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_taylor_green_decays_exactly(dtype: torch.dtype) -> None:
    x, y = grid()
    w0 = (3 * torch.cos(2 * x) * torch.cos(2 * y))[None]
    nu = 2e-3
    w = solve_navier_stokes(w0.to(dtype), 3, viscosity=nu, frame_interval=0.5, forcing=unforced())
    for frame in range(3):
        exact = w0 * math.exp(-nu * 8 * (2 * math.pi) ** 2 * 0.5 * (frame + 1))
        assert error(w[:, frame].double(), exact) < (1e-12 if dtype == torch.float64 else 1e-6)


def test_forced_flow_from_rest_has_its_closed_form() -> None:
    """The default forcing has one |k|: it does not advect itself, and w = f (1 - exp(-lambda t)) / lambda."""
    nu = 1e-2
    decay = nu * 8 * math.pi**2
    w = solve_navier_stokes(torch.zeros(1, N, N, dtype=torch.float64), 2, viscosity=nu)
    exact = default_forcing(N) * (1 - math.exp(-2 * decay)) / decay
    assert error(w[0, 1], exact) < 1e-12


def heun_crank_nicolson(w0: torch.Tensor, nu: float, steps: int) -> torch.Tensor:
    """The flow at t = 1 by the older way: convective form, Heun advection, Crank-Nicolson diffusion."""
    f = default_forcing(N)
    s, k, m = spectral(w0)
    square = k**2 + m**2
    keep = ((k.abs() * 3 < 2 * math.pi * N) & (m.abs() * 3 < 2 * math.pi * N)).double()
    inverse = torch.where(square > 0, 1 / square, 0)

    def tendency(s: torch.Tensor) -> torch.Tensor:
        u, v, wx, wy = (torch.fft.ifft2(1j * part * s).real for part in (m * inverse, -k * inverse, k, m))
        return keep * torch.fft.fft2(f - u * wx - v * wy)

    dt = 1 / steps
    explicit, implicit = 1 - dt / 2 * nu * square, 1 + dt / 2 * nu * square
    s = keep * s
    for _ in range(steps):
        now = tendency(s)
        guess = (explicit * s + dt * now) / implicit
        s = (explicit * s + dt / 2 * (now + tendency(guess))) / implicit
    return torch.fft.ifft2(s).real


def test_independent_solver_converges_to_ours_at_its_second_order() -> None:
    """Signs, forcing and dealiasing, in another form of the equation."""
    nu, w0 = 1e-3, initial(max_mode=10)
    ours = solve_navier_stokes(w0, 1, viscosity=nu, steps_per_frame=200)[:, 0]
    errors = [error(heun_crank_nicolson(w0, nu, steps), ours) for steps in (200, 400)]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.1)
    assert errors[1] < 2e-4
    assert error(ours, w0) > 0.2  # the flow has moved


def test_fourth_order_in_time() -> None:
    w0 = initial()
    reference = solve_navier_stokes(w0, 1, viscosity=1e-3, steps_per_frame=640)
    errors = [
        error(solve_navier_stokes(w0, 1, viscosity=1e-3, steps_per_frame=steps), reference) for steps in (40, 80, 160)
    ]
    orders = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert orders == pytest.approx([4, 4], abs=0.25)


def test_spectral_convergence_in_space() -> None:
    """A smooth flow: each refinement gains orders of magnitude, no fixed power of the grid spacing."""
    w0 = initial(1, 128, max_mode=2)
    fine = solve_navier_stokes(w0, 1, viscosity=5e-3, steps_per_frame=200)[:, 0]
    errors = []
    for n in (16, 32, 64):
        every = 128 // n
        coarse = solve_navier_stokes(w0[:, ::every, ::every], 1, viscosity=5e-3, steps_per_frame=200)[:, 0]
        errors.append(error(coarse, fine[:, ::every, ::every]))
    assert errors[1] < errors[0] / 50
    assert errors[2] < errors[1] / 1000
    assert errors[2] < 1e-8


def test_mean_vorticity_stays_zero() -> None:
    w = solve_navier_stokes(initial(), 5, viscosity=1e-3)
    assert w.mean((-2, -1)).abs().max() < 1e-14 * w.abs().max()
    rounded = solve_navier_stokes(initial() + 1e-5, 1, viscosity=1e-3)  # a mean as small as rounding's is removed
    assert rounded.mean((-2, -1)).abs().max() < 1e-14


def test_inviscid_truncated_flow_conserves_energy_and_enstrophy() -> None:
    w0 = initial(max_mode=10)
    drift = []
    for steps in (100, 200):
        w = solve_navier_stokes(w0, 1, viscosity=0.0, forcing=unforced(), steps_per_frame=steps)[:, 0]
        before, after = energy_and_enstrophy(w0), energy_and_enstrophy(w)
        drift.append(max(((a - b).abs() / b).max().item() for a, b in zip(after, before, strict=True)))
        assert error(w, w0) > 0.3
    assert drift[1] < 1e-6
    assert drift[1] < drift[0] / 14  # what is lost is the time step's, fourth order or better


def test_energy_and_enstrophy_decay_without_forcing() -> None:
    w = solve_navier_stokes(initial(), 4, viscosity=1e-3, forcing=unforced())
    for quantity in energy_and_enstrophy(w):
        assert (quantity.diff(dim=1) < 0).all()


def test_shifted_flow_stays_shifted() -> None:
    w0 = initial()
    options = {"viscosity": 1e-3, "forcing": unforced()}
    shifted = solve_navier_stokes(w0.roll((5, -3), (1, 2)), 2, **options)
    assert error(shifted, solve_navier_stokes(w0, 2, **options).roll((5, -3), (2, 3))) < 1e-11


def test_mirrored_flow_stays_mirrored() -> None:
    """Swapping x and y turns vorticity around."""
    w0 = initial()
    options = {"viscosity": 1e-3, "forcing": unforced()}
    assert error(solve_navier_stokes(-w0.mT, 2, **options), -solve_navier_stokes(w0, 2, **options).mT) < 1e-11


def test_flow_does_not_depend_on_its_company() -> None:
    w0 = initial(3)
    w0[1] *= 10  # another speed, another number of steps
    together = solve_navier_stokes(w0, 2, viscosity=1e-3)
    for i in range(3):
        assert error(solve_navier_stokes(w0[i : i + 1], 2, viscosity=1e-3)[0], together[i]) < 1e-12


@pytest.mark.parametrize("viscosity", [1e-3, 1e-4])
def test_chosen_steps_are_accurate(viscosity: float) -> None:
    w0 = initial(scale=1.0)
    w = solve_navier_stokes(w0, 3, viscosity=viscosity)
    assert error(w, solve_navier_stokes(w0, 3, viscosity=viscosity, courant=0.1)) < 1e-3


def test_interval_in_which_the_flow_speeds_up_is_repeated() -> None:
    """Almost at rest, pushed hard: the speed at the start asks for one step, the one at the end for dozens."""
    w0, f = 1e-3 * initial(1), 10 * initial(1, max_mode=4)[0]
    options = {"viscosity": 5e-3, "forcing": f}
    w = solve_navier_stokes(w0, 1, **options)
    assert error(w, solve_navier_stokes(w0, 1, steps_per_frame=2000, **options)) < 1e-3


def test_odd_grids_and_frames_one_by_one() -> None:
    x, y = grid(27)
    w0 = (torch.sin(x) * torch.sin(y))[None]
    frames = navier_stokes_frames(w0, 2, viscosity=1e-2, forcing=unforced(27))
    assert error(next(frames), w0 * math.exp(-1e-2 * 8 * math.pi**2)) < 1e-12
    assert len(list(frames)) == 1


def test_same_input_same_bits() -> None:
    w0 = initial()
    assert torch.equal(solve_navier_stokes(w0, 1, viscosity=1e-3), solve_navier_stokes(w0, 1, viscosity=1e-3))


def test_phi_functions_against_their_integral() -> None:
    """phi_j(z) = int_0^1 exp((1 - s) z) s^(j-1) / (j-1)! ds, by Gauss-Legendre, on both sides of the switch."""
    z = -torch.logspace(-12, 1.5, 60, dtype=torch.float64)
    nodes, weights = (torch.from_numpy(part) for part in np.polynomial.legendre.leggauss(60))
    s, weights = (nodes + 1) / 2, weights / 2
    for j, phi in enumerate(_phi(z), start=1):
        integral = (weights * torch.exp((1 - s) * z[:, None]) * s ** (j - 1) / math.factorial(j - 1)).sum(1)
        assert ((phi - integral) / integral).abs().max() < 1e-13


def test_blow_up_is_reported() -> None:
    with pytest.raises(ValueError, match=r"blew up before t = .*steps_per_frame are too few"):
        solve_navier_stokes(1e3 * initial(), 4, viscosity=0.0, steps_per_frame=2)


def test_wrong_arguments_are_named() -> None:
    w0 = initial(1)
    for message, arguments, options in [
        ("zero mean", (w0 + 1, 1), {}),
        ("finite", (w0 * math.nan, 1), {}),
        (r"\(b, n, n\)", (w0[0], 1), {}),
        ("viscosity must not be negative", (w0, 1), {"viscosity": -1.0}),
        ("must be positive", (w0, 0), {}),
        ("must be positive", (w0, 1), {"frame_interval": 0.0}),
        ("courant must lie", (w0, 1), {"courant": 2.0}),
        ("steps_per_frame must be positive", (w0, 1), {"steps_per_frame": 0}),
        ("forcing must have the shape", (w0, 1), {"forcing": torch.zeros(3, 3)}),
    ]:
        with pytest.raises(ValueError, match=message):
            solve_navier_stokes(*arguments, **{"viscosity": 1e-3, **options})
    with pytest.raises(TypeError, match="float32 or float64"):
        solve_navier_stokes(w0.half(), 1, viscosity=1e-3)
