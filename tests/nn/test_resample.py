"""Resampling by two, held against functions that are known between the samples."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from kinn.nn import Downsample, FilteredActivation, Upsample
from kinn.ops.resampling import kaiser_attenuation, kaiser_beta


def centres(n: int) -> Tensor:
    return (torch.arange(n, dtype=torch.float64) + 0.5) / n


def wave(n: int, k: float) -> Tensor:
    """k periods over the unit interval, sampled at n cell centres."""
    return torch.cos(2 * math.pi * k * centres(n) + 0.3).view(1, n, 1)


def smooth_field(n: int) -> Tensor:
    x, y = centres(n)[:, None], centres(n)
    return (torch.sin(2 * math.pi * (2 * x + y)) + 0.5 * torch.cos(2 * math.pi * (x - 3 * y)))[None, :, :, None]


@pytest.mark.parametrize("periodic", [True, False])
def test_band_limited_function_is_reproduced_and_better_by_longer_filters(periodic: bool) -> None:
    n, errors = 32, []
    for half_width in (2, 3, 4, 6):
        up, down = (
            Upsample(half_width=half_width, periodic=periodic),
            Downsample(half_width=half_width, periodic=periodic),
        )
        inner = slice(None) if periodic else slice(2 * half_width, -2 * half_width)
        fine = max((up(wave(n, k)) - wave(2 * n, k))[:, inner].abs().max() for k in (1, 3, 5, 8))
        back = max((down(up(wave(n, k))) - wave(n, k))[:, inner].abs().max() for k in (1, 3, 5, 8))
        errors.append(max(fine, back))
    assert errors[0] < 0.1
    assert errors[1] < 0.015
    assert errors[2] < 0.003
    assert errors[3] < 1e-4
    assert all(later < earlier / 2 for earlier, later in itertools.pairwise(errors))


@pytest.mark.parametrize(("half_width", "decibels"), [(2, 30), (3, 45), (4, 60)])
def test_frequencies_above_the_new_nyquist_are_suppressed(half_width: int, decibels: float) -> None:
    n = 64
    for k in (24, 26, 28, 31):  # the transition band ends at 3/4 of the fine Nyquist frequency, 24 of 32
        left = Downsample(half_width=half_width, periodic=True)(wave(n, k)).abs().max()
        assert 20 * math.log10(left) < -decibels


def test_attenuation_is_what_the_formula_promises() -> None:
    for half_width in (3, 4, 6):
        promised = kaiser_attenuation(4 * half_width, math.pi / 2)
        left = max(Downsample(half_width=half_width, periodic=True)(wave(128, k)).abs().max() for k in range(48, 64))
        assert -20 * math.log10(left) > promised - 3
    assert kaiser_beta(20) == 0
    assert kaiser_beta(40) == pytest.approx(3.395, abs=1e-3)  # Oppenheim and Schafer's table


@pytest.mark.parametrize("n", [1, 2, 3, 4, 9])
def test_constants_and_slopes_are_exact_up_to_the_edge(n: int) -> None:
    for module, coarse, fine in ((Upsample(), n, 2 * n), (Upsample(half_width=1), n, 2 * n), (Downsample(), 2 * n, n)):
        line = lambda m: (2 - 3 * centres(m)).view(1, m, 1)  # noqa: E731
        if n > 1 or isinstance(module, Downsample):
            torch.testing.assert_close(module(line(coarse)), line(fine), rtol=0, atol=1e-13)
        ones = torch.ones(1, coarse, 1, dtype=torch.float64)
        for periodic in (True, False):
            flat = type(module)(periodic=periodic)(ones)
            torch.testing.assert_close(flat, torch.ones_like(flat), rtol=0, atol=1e-14)


@pytest.mark.parametrize("periodic", [True, False])
@pytest.mark.parametrize("rate", [0.5, 1, 2])
def test_flips_and_transposition_commute(rate: float, periodic: bool) -> None:
    module = FilteredActivation(torch.nn.SiLU(), rate=rate, periodic=periodic)
    x = torch.randn(2, 8, 8, 3, dtype=torch.float64)
    y = module(x)
    for axes in ((1,), (2,), (1, 2)):
        torch.testing.assert_close(module(x.flip(*axes)), y.flip(*axes), rtol=0, atol=1e-13)
    torch.testing.assert_close(module(x.transpose(1, 2)), y.transpose(1, 2), rtol=0, atol=1e-13)


def test_shift_of_a_periodic_field_commutes() -> None:
    module = FilteredActivation(torch.nn.GELU(), periodic=True)
    x = torch.randn(1, 6, 10, 2, dtype=torch.float64)
    torch.testing.assert_close(module(x.roll((1, 3), (1, 2))), module(x).roll((1, 3), (1, 2)), rtol=0, atol=1e-13)


@pytest.mark.parametrize("rate", [0.5, 1, 2])
def test_activation_means_the_same_at_two_resolutions(rate: float) -> None:
    """Activate on a fine grid and bring the result down, or activate on the coarse one: equal, but for the tail."""

    def gap(module: torch.nn.Module, n: int, rate: float) -> float:
        down = Downsample(half_width=6, periodic=True)
        return (down(module(smooth_field(2 * n))) - module(smooth_field(n))).abs().max().item()

    filtered = FilteredActivation(torch.nn.SiLU(), rate=rate, half_width=6, periodic=True)
    assert gap(filtered, 32, rate) < 1e-4
    assert gap(filtered, 16, rate) > gap(filtered, 32, rate)


def test_a_pointwise_activation_aliases_and_a_filtered_one_does_not() -> None:
    """Squaring doubles a frequency; beyond the Nyquist frequency it folds back, or is filtered out."""

    class Square(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * x

    x = wave(32, 10)  # its square holds frequency 20, which 32 points see as 12
    module = FilteredActivation(Square(), half_width=6, periodic=True)
    folded, filtered = (torch.fft.rfft(y.flatten()).abs()[12] / 32 for y in (Square()(x), module(x)))
    assert folded == pytest.approx(0.25)
    assert filtered < 0.25 / 10


@pytest.mark.parametrize("grid", [(6,), (4, 6), (2, 4, 6)])
def test_every_axis_is_resampled(grid: tuple[int, ...]) -> None:
    x = torch.ones(2, *grid, 3)
    assert Upsample()(x).shape == (2, *(2 * n for n in grid), 3)
    assert Downsample()(x).shape == (2, *(n // 2 for n in grid), 3)


def test_rate_half_is_activation_then_two_halvings() -> None:
    x = torch.randn(1, 12, 8, 2, dtype=torch.float64)
    expected = Downsample()(Downsample()(torch.tanh(Upsample()(x))))
    torch.testing.assert_close(FilteredActivation(torch.nn.Tanh(), rate=0.5)(x), expected, rtol=0, atol=1e-13)


def test_works_for_training_after_inference() -> None:
    x = torch.randn(1, 20, 3, requires_grad=True)
    module = FilteredActivation(torch.nn.SiLU())
    with torch.inference_mode():
        module(x)
    module(x).sum().backward()
    assert x.grad is not None


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match=r"rate must be 0\.5, 1 or 2, got 3"):
        FilteredActivation(torch.nn.SiLU(), rate=3)
    with pytest.raises(ValueError, match="Upsample: half_width must be a whole number of at least 1, got 0"):
        Upsample(half_width=0)
    with pytest.raises(ValueError, match=r"needs even grid sizes, got \(4, 5\)"):
        Downsample()(torch.zeros(1, 4, 5, 1))
    for layer in (Upsample(), Downsample()):
        with pytest.raises(TypeError, match="x must be a floating-point tensor"):
            layer(torch.ones(1, 4, 4, 1, dtype=torch.long))
