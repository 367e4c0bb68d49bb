from __future__ import annotations

import math

import pytest
import torch

from kinn.pde import gaussian_random_field


def draw(samples: int, resolution: int, *, seed: int = 0, **options) -> torch.Tensor:
    return gaussian_random_field(samples, resolution, generator=torch.Generator().manual_seed(seed), **options)


def test_spectrum_is_that_of_the_benchmark() -> None:
    """Power of each wave against s^2 sqrt(2) sigma (4 pi^2 |k|^2 + tau^2)^(-alpha/2), summed over k and -k."""
    n, samples, tau, alpha = 16, 4000, 7.0, 2.5
    power = torch.fft.fft2(draw(samples, n), norm="forward").abs().square().mean(0)
    k = torch.fft.fftfreq(n, 1 / n, dtype=torch.float64)
    square = k[:, None] ** 2 + k**2
    # Re(sum of sqrt_eig (xi + i eta) exp) leaves half of |sqrt_eig|^2 (2 numbers, 2 waves, amplitude 1/2) in each wave
    sqrt_eigenvalue = math.sqrt(2) * tau ** (alpha - 1) * (4 * math.pi**2 * square + tau**2) ** (-alpha / 2)
    resolved = (k.abs()[:, None] < n // 2) & (k.abs() < n // 2) & (square > 0)
    ratio = (power / sqrt_eigenvalue**2)[resolved]
    # |coefficient|^2 is exponential: relative spread 1 / sqrt(samples) of the mean, 5 sigma over some 200 waves
    assert (ratio - 1).abs().max() < 5 / math.sqrt(samples)
    assert abs(ratio.mean() - 1) < 5 / math.sqrt(samples * len(ratio) / 2)
    assert power[~resolved].max() < 1e-30


def test_law_equals_the_benchmarks_own_construction() -> None:
    """Variance of the real part of the inverse FFT of complex white noise times n^2 sqrt(2) sigma (...)."""
    n, samples = 16, 4000
    generator = torch.Generator().manual_seed(1)
    k = torch.fft.fftfreq(n, 1 / n, dtype=torch.float64)
    root = n**2 * math.sqrt(2) * 7.0**1.5 * (4 * math.pi**2 * (k[:, None] ** 2 + k**2) + 49) ** -1.25
    root[0, 0] = 0
    noise = torch.randn(samples, n, n, dtype=torch.complex128, generator=generator) * math.sqrt(2)
    theirs = torch.fft.ifft2(root * noise).real
    ours = draw(samples, n)
    assert ours.var() == pytest.approx(theirs.var().item(), rel=0.02)
    neighbours = (ours * ours.roll(1, -1)).mean() / ours.var()
    assert neighbours == pytest.approx(((theirs * theirs.roll(1, -1)).mean() / theirs.var()).item(), rel=0.02)


def test_mean_is_zero_and_the_seed_decides() -> None:
    field = draw(3, 32)
    assert field.mean(dim=(1, 2)).abs().max() < 1e-15
    assert torch.equal(field, draw(3, 32))
    assert not torch.allclose(field, draw(3, 32, seed=1))


def test_first_samples_do_not_depend_on_how_many_follow() -> None:
    assert torch.equal(draw(5, 16)[:2], draw(2, 16))


@pytest.mark.parametrize("odd", [0, 1])
def test_finer_grid_keeps_the_modes_of_the_coarser_one(odd: int) -> None:
    coarse, fine = draw(2, 16 + odd), draw(2, 64 + odd)
    a, b = torch.fft.fft2(coarse, norm="forward"), torch.fft.fft2(fine, norm="forward")
    low = list(range(-7, 8))
    assert torch.allclose(a[:, low][:, :, low], b[:, low][:, :, low], atol=1e-15)
    assert (fine - draw(2, 64 + odd, max_mode=7)).abs().max() > 1e-3


def test_with_max_mode_the_field_is_one_function() -> None:
    assert torch.allclose(draw(2, 32, max_mode=6), draw(2, 128, max_mode=6)[:, ::4, ::4], atol=1e-13)


def test_float32_is_the_same_field_rounded() -> None:
    assert torch.equal(draw(1, 16, dtype=torch.float32), draw(1, 16).float())


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        ((0, 16), {}),
        ((1, 2), {}),
        ((1, 16), {"max_mode": 8}),
        ((1, 16), {"alpha": 1.0}),
        ((1, 16), {"tau": -1.0}),
        ((1, 16), {"tau": 0.0}),
    ],
)
def test_wrong_arguments_are_named(arguments: tuple[int, int], options: dict) -> None:
    with pytest.raises(ValueError, match=r"must lie in|needs"):
        draw(*arguments, **options)
