from __future__ import annotations

import math

import pytest
import torch
from scipy.fft import dstn, idstn

from kinn.pde import poisson_coefficients, poisson_grid, poisson_pair


def coefficients(samples: int = 3, max_mode: int = 16, *, seed: int = 0) -> torch.Tensor:
    return poisson_coefficients(samples, max_mode, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("points", "kind"), [("nodes", 1), ("centers", 2)])
@pytest.mark.parametrize(("max_mode", "smoothness"), [(16, 0.5), (20, 0.5), (5, -0.5), (1, 0.0)])
def test_pair_solves_the_equation_spectrally(points: str, kind: int, max_mode: int, smoothness: float) -> None:
    """-Laplace u = f by SciPy's discrete sine transforms, independent of our matrices."""
    f, u = poisson_pair(coefficients(max_mode=max_mode), 64, smoothness=smoothness, points=points)
    inner = slice(1, -1) if points == "nodes" else slice(None)
    f, u = f[:, inner, inner].numpy(), u[:, inner, inner].numpy()
    mode = torch.arange(1, u.shape[-1] + 1).numpy()
    laplace = (math.pi * mode[:, None]) ** 2 + (math.pi * mode) ** 2
    minus_laplace_u = idstn(laplace * dstn(u, type=kind, axes=(1, 2)), type=kind, axes=(1, 2))
    # u's rounding is amplified by the highest wave number of the grid, not of the field
    assert abs(minus_laplace_u - f).max() / abs(f).max() < 1e-15 * laplace.max()


def test_pair_solves_the_equation_at_second_order_by_differences() -> None:
    a = coefficients(max_mode=4)
    errors = []
    for n in (65, 129):
        f, u = poisson_pair(a, n)
        h = 1 / (n - 1)
        laplace = (u[:, 2:, 1:-1] + u[:, :-2, 1:-1] + u[:, 1:-1, 2:] + u[:, 1:-1, :-2] - 4 * u[:, 1:-1, 1:-1]) / h**2
        errors.append((laplace + f[:, 1:-1, 1:-1]).abs().max() / f.abs().max())
    assert math.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.05)
    assert errors[1] < 1e-2


def test_source_is_the_series_of_the_benchmark() -> None:
    a = coefficients(1, 3)
    f, _ = poisson_pair(a, 9, smoothness=0.5)
    x, y = 2 / 8, 5 / 8
    series = sum(
        a[0, i - 1, j - 1].item() * math.sqrt(i * i + j * j) * math.sin(math.pi * i * x) * math.sin(math.pi * j * y)
        for i in (1, 2, 3)
        for j in (1, 2, 3)
    )
    assert f[0, 2, 5].item() == pytest.approx(math.pi / 9 * series, rel=1e-12)


def test_boundary_is_zero_to_the_last_bit() -> None:
    for field in poisson_pair(coefficients(), 33):
        for edge in (field[:, 0], field[:, -1], field[:, :, 0], field[:, :, -1]):
            assert (edge == 0).all()


def test_resolution_changes_the_points_not_the_function() -> None:
    a = coefficients()
    for coarse, fine in zip(poisson_pair(a, 33), poisson_pair(a, 65), strict=True):
        assert torch.allclose(coarse, fine[:, ::2, ::2], atol=1e-13)


def test_coefficients_are_uniform_and_seeded() -> None:
    a = coefficients(200)
    assert a.min() >= -1
    assert a.max() <= 1
    assert abs(a.mean()) < 0.01
    assert a.var() == pytest.approx(1 / 3, rel=0.02)
    assert torch.equal(a, coefficients(200))


def test_float32_coefficients_give_float32_fields() -> None:
    a = coefficients()
    single, double = poisson_pair(a.float(), 32), poisson_pair(a, 32)
    assert single[1].dtype == torch.float32
    assert (single[1] - double[1]).abs().max() < 1e-6 * double[1].abs().max()


def test_grid_points() -> None:
    assert poisson_grid(3).tolist() == [0, 0.5, 1]
    assert poisson_grid(2, points="centers").tolist() == [0.25, 0.75]


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="tell 14 sine modes apart, but max_mode is 16"):
        poisson_pair(coefficients(), 16)
    with pytest.raises(ValueError, match=r"\(b, K, K\)"):
        poisson_pair(torch.zeros(3, 4), 16)
    with pytest.raises(ValueError, match="'nodes' or 'centers'"):
        poisson_pair(coefficients(), 32, points="edges")
    with pytest.raises(ValueError, match="at least 2 points"):
        poisson_grid(1)
    with pytest.raises(ValueError, match="must be positive"):
        coefficients(0)
