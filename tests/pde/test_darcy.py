"""Darcy flow: exact solutions, second order, conservation, symmetry; held against SciPy's direct solver."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.sparse
import scipy.sparse.linalg
import torch
from torch import Tensor

from kinn.pde import darcy_bumps, darcy_coefficient, darcy_flux, solve_darcy
from kinn.pde.darcy import Bumps


def centres(n: int) -> tuple[Tensor, Tensor]:
    x = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    return x[:, None].expand(n, n), x.expand(n, n)


def media(samples: int, n: int, seed: int = 0, **values: float) -> Tensor:
    return darcy_coefficient(darcy_bumps(samples, generator=torch.Generator().manual_seed(seed)), n, **values)


def test_second_order_for_a_smooth_coefficient_and_a_manufactured_solution() -> None:
    """u = sin(pi x) sin(2 pi y), a = exp(x / 2 + y): f = -a (u_xx + u_yy + u_x / 2 + u_y)."""
    errors = []
    for n in (16, 32, 64):
        x, y = centres(n)
        sx, cx, sy, cy = (f(math.pi * k * c) for k, c in ((1, x), (2, y)) for f in (torch.sin, torch.cos))
        a, u = torch.exp(x / 2 + y), sx * sy
        f = a * (5 * math.pi**2 * u - math.pi * cx * sy / 2 - 2 * math.pi * sx * cy)
        errors.append((solve_darcy(a[None], beta=f[None])[0] - u).square().mean().sqrt().item())
    orders = np.log2(np.array(errors[:-1]) / errors[1:])
    assert orders == pytest.approx(2, abs=0.1)


def test_constant_coefficient_is_the_fourier_series() -> None:
    """The torsion function of the square: u(1/2, 1/2) = 0.0736713..."""
    n = 64
    x, y = centres(n)
    exact = torch.zeros(n, n, dtype=torch.float64)
    for i in range(1, 200, 2):
        for j in range(1, 200, 2):
            exact += torch.sin(math.pi * i * x) * torch.sin(math.pi * j * y) * 16 / (math.pi**4 * i * j * (i**2 + j**2))
    u = solve_darcy(torch.full((1, n, n), 2.0, dtype=torch.float64), beta=3.0)[0]
    assert (u / 1.5 - exact).abs().max() < 1e-4
    assert abs(exact.max() - 0.0736713) < 2e-4


def test_layers_along_cells_are_solved_exactly() -> None:
    """u = p(x) s(y): p linear between the jumps of a(x) and a line source, s an eigenvector of the second difference.

    With R(x) the integral of 1 / a from 0, a source of unit strength at x0 makes
    p = R(min(x, x0)) (R(1) - R(max(x, x0))) / R(1), whose flux a p' is constant on either side of x0.
    """
    n, source = 24, 7
    column = torch.ones(n, dtype=torch.float64)
    column[4:10], column[15:] = 0.1, 0.3
    at_faces = torch.cat((torch.zeros(1, dtype=torch.float64), (1 / column).cumsum(0) / n))
    r, total = (at_faces[1:] + at_faces[:-1]) / 2, at_faces[-1]
    p = torch.minimum(r, r[source]) * (total - torch.maximum(r, r[source])) / total
    s = torch.sin(2 * math.pi * centres(n)[1][0])
    eigenvalue = (2 * n * math.sin(math.pi / n)) ** 2
    line = torch.zeros(n, dtype=torch.float64)
    line[source] = n
    beta = (line + eigenvalue * column * p)[:, None] * s
    u = solve_darcy(column[None, :, None].repeat(1, 1, n), beta=beta)[0]
    torch.testing.assert_close(u, p[:, None] * s, rtol=0, atol=1e-10)


def test_flux_across_an_interface_between_cells_is_continuous() -> None:
    """Both half cells beside a jump from a = 1 to 0.1 agree on the value at the face and on the flux through it."""
    n = 32
    a = torch.ones(1, n, n, dtype=torch.float64)
    a[:, n // 2 :] = 0.1
    u = solve_darcy(a)
    flux, _ = darcy_flux(a, u)
    left, right = u[0, n // 2 - 1], u[0, n // 2]
    face = (1.0 * left + 0.1 * right) / 1.1
    torch.testing.assert_close(flux[0, n // 2], 2 * n * 1.0 * (left - face))
    torch.testing.assert_close(flux[0, n // 2], 2 * n * 0.1 * (face - right))


def direct(a: np.ndarray) -> np.ndarray:
    """The same finite volumes, assembled face by face."""
    n = len(a)
    rows, columns, values = [], [], []
    for i in range(n):
        for j in range(n):
            diagonal = 0.0
            for di, dj in ((-1, 0), (1, 0), (0, -1), (0, 1)):
                k, m = i + di, j + dj
                if 0 <= k < n and 0 <= m < n:
                    weight = 2 / (1 / a[i, j] + 1 / a[k, m])
                    rows.append(i * n + j)
                    columns.append(k * n + m)
                    values.append(-weight)
                else:
                    weight = 2 * a[i, j]
                diagonal += weight
            rows.append(i * n + j)
            columns.append(i * n + j)
            values.append(diagonal)
    matrix = scipy.sparse.csc_matrix((values, (rows, columns))) * n**2
    return scipy.sparse.linalg.spsolve(matrix, np.ones(n * n)).reshape(n, n)


@pytest.mark.parametrize("values", [{}, {"high": 1000.0, "low": 1e-3}])
def test_agrees_with_a_direct_solver(values: dict[str, float]) -> None:
    a = media(2, 24, **values)
    u = solve_darcy(a)
    for one, found in zip(a.numpy(), u.numpy()):
        expected = direct(one)
        assert np.abs(found - expected).max() < 1e-8 * np.abs(expected).max()


def test_what_the_source_makes_leaves_through_the_boundary() -> None:
    a = media(3, 48)
    x, y = darcy_flux(a, solve_darcy(a, beta=2.5))
    out = (x[:, -1] - x[:, 0]).mean(-1) + (y[..., -1] - y[..., 0]).mean(-1)
    torch.testing.assert_close(out, torch.full((3,), 2.5, dtype=torch.float64), rtol=1e-9, atol=0)


def test_symmetries_scalings_and_sign() -> None:
    a = media(2, 32)
    u = solve_darcy(a)
    close = {"rtol": 1e-8, "atol": 1e-10}
    assert (u > 0).all()  # maximum principle
    torch.testing.assert_close(solve_darcy(a.transpose(1, 2)), u.transpose(1, 2), **close)
    torch.testing.assert_close(solve_darcy(a.flip(1)), u.flip(1), **close)
    torch.testing.assert_close(solve_darcy(3 * a), u / 3, **close)
    torch.testing.assert_close(solve_darcy(a, beta=-2.0), -2 * u, **close)
    torch.testing.assert_close(solve_darcy(a[1:]), u[1:], **close)  # whatever else is in the batch


def test_iterations_do_not_grow_with_the_grid() -> None:
    for n in (16, 64, 128):
        solve_darcy(media(2, n), max_iterations=45)
    with pytest.raises(RuntimeError, match="did not converge in 5 iterations"):
        solve_darcy(media(1, 16), max_iterations=5)


def test_a_medium_is_the_same_function_on_every_grid() -> None:
    coarse, fine = media(4, 20), media(4, 60)
    assert torch.equal(fine[:, 1::3, 1::3], coarse)  # where the centres coincide


def test_the_threshold_is_the_mean_over_the_square() -> None:
    """One narrow bump: its integral is 2 pi w^2, and the disc where it exceeds that is known."""
    n, width = 400, 0.06
    bump = Bumps(torch.tensor([[[0.3, 0.6]]], dtype=torch.float64), torch.full((1, 1), width, dtype=torch.float64))
    inside = (darcy_coefficient(bump, n)[0] == 1).double()
    radius = width * math.sqrt(-2 * math.log(2 * math.pi * width**2))
    assert inside.mean().item() == pytest.approx(math.pi * radius**2, rel=2e-3)
    for c, middle in zip(centres(n), (0.3, 0.6)):
        assert ((c * inside).sum() / inside.sum()).item() == pytest.approx(middle, abs=1e-9)
        assert ((c - middle) * inside).abs().max().item() == pytest.approx(radius, abs=1 / n)


def test_a_bump_that_the_boundary_cuts_has_its_mean_within_the_square() -> None:
    """A wide bump in the corner, by the midpoint rule on a fine grid."""
    width = 0.25
    bump = Bumps(torch.zeros(1, 1, 2, dtype=torch.float64), torch.full((1, 1), width, dtype=torch.float64))
    x, y = centres(512)
    height = torch.exp(-(x.square() + y.square()) / (2 * width**2))
    assert torch.equal(darcy_coefficient(bump, 512)[0] == 1, height > height.mean())


def test_values_and_distribution_of_the_media() -> None:
    a = media(200, 16, high=5.0, low=2.0)
    assert set(a.unique().tolist()) == {2.0, 5.0}
    share = (a == 5).double().mean().item()
    assert 0.3 < share < 0.5  # bumps are peaked: less than half lies above the mean
    bumps = darcy_bumps(2000, generator=torch.Generator().manual_seed(1))
    assert bumps.centres.mean().item() == pytest.approx(0.5, abs=0.01)
    assert bumps.widths.min() >= 0.05
    assert bumps.widths.max() <= 0.25
    assert bumps.widths.mean().item() == pytest.approx(0.15, abs=0.003)


def test_wrong_arguments() -> None:
    with pytest.raises(TypeError, match=r"must be float64, but is torch\.float32"):
        solve_darcy(torch.ones(1, 4, 4))
    one = torch.ones(1, 4, 4, dtype=torch.float64)
    for shape in ((4, 4), (1, 4, 5)):
        with pytest.raises(ValueError, match=r"must have the shape \(b, n, n\)"):
            solve_darcy(torch.ones(shape, dtype=torch.float64))
    for value in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="must be positive and finite"):
            solve_darcy(value * one)
    with pytest.raises(ValueError, match="beta must be finite"):
        solve_darcy(one, beta=math.nan)
    for shape in ((4,), (4, 1, 1), (2, 4, 4)):
        with pytest.raises(ValueError, match=r"a number or a field \(1, 4, 4\), but its shape is"):
            solve_darcy(one, beta=torch.ones(shape))
    with pytest.raises(ValueError, match=r"must be positive, but are 8, 1\.0 and 0"):
        darcy_coefficient(darcy_bumps(1, generator=torch.Generator()), 8, low=0)
    with pytest.raises(ValueError, match="must be positive, but are 1 and 0"):
        darcy_bumps(1, 0, generator=torch.Generator())
