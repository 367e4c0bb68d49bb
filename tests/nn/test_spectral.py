from __future__ import annotations

import copy
import math
import re
import warnings

import pytest
import torch

from kinn.nn import SpectralConv2d, fourier
from kinn.notices import warn_once


@pytest.fixture(autouse=True, params=["fft", "products"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything here holds whichever way the transforms are computed."""
    monkeypatch.setattr(fourier, "_products_are_faster", lambda modes, x: request.param == "products")


def wave(k0: int, k1: int, height: int, width: int, phase: float = 0.0) -> torch.Tensor:
    rows = torch.arange(height, dtype=torch.float64)[:, None] / height
    columns = torch.arange(width, dtype=torch.float64) / width
    return torch.cos(2 * math.pi * (k0 * rows + k1 * columns) + phase)[None, :, :, None]


@pytest.mark.parametrize(("k0", "k1"), [(0, 0), (2, 1), (-3, 2), (-1, 3), (3, 0)])
def test_a_wave_is_scaled_and_shifted_by_its_own_weight(k0: int, k1: int) -> None:
    conv = SpectralConv2d(1, 1, (4, 4)).double()
    y = conv(wave(k0, k1, 12, 15))
    weight = conv.weight_positive[0, 0, k0, k1] if k0 >= 0 else conv.weight_negative[0, 0, 4 + k0, k1]
    weight = weight.detach()
    expected = weight.abs() * wave(k0, k1, 12, 15, weight.angle().item())
    if k1 == 0 and k0:  # both k0 and -k0 are stored along this edge, and the inverse transform takes their mean
        mirror = conv.weight_negative[0, 0, 4 - k0, 0].detach().conj()
        mean = (weight + mirror) / 2
        expected = mean.abs() * wave(k0, k1, 12, 15, mean.angle().item())
    if k0 == k1 == 0:
        expected = weight.real * torch.ones_like(expected)
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-12)


def test_modes_beyond_the_kept_ones_vanish() -> None:
    conv = SpectralConv2d(1, 1, (4, 4)).double()
    for k0, k1 in ((0, 4), (4, 1), (-5, 0), (2, 6)):
        assert conv(wave(k0, k1, 16, 16)).abs().max() < 1e-12


def test_resolution_does_not_matter() -> None:
    conv = SpectralConv2d(1, 2, (4, 4)).double()
    fine = conv(wave(2, 3, 32, 24, 0.4))
    coarse = conv(wave(2, 3, 16, 8, 0.4))
    torch.testing.assert_close(fine[:, ::2, ::3], coarse, rtol=0, atol=1e-12)


@pytest.mark.parametrize("grid", [(1, 1), (3, 5), (6, 4), (7, 7), (8, 8), (9, 20)])
def test_grids_smaller_than_the_modes(grid: tuple[int, int]) -> None:
    """What remains are the modes that the grid has: the same as those of a layer with as many modes."""
    conv = SpectralConv2d(2, 3, (4, 5)).double()
    x = torch.randn(2, *grid, 2, dtype=torch.float64)
    y = conv(x)
    assert y.shape == (2, *grid, 3)
    smaller = SpectralConv2d(2, 3, (max(1, min(4, grid[0] // 2)), min(5, grid[1] // 2 + 1))).double()
    if grid[0] % 2 == 0:
        m0, m1 = smaller.n_modes
        smaller.weight_positive = torch.nn.Parameter(conv.weight_positive[:, :, :m0, :m1])
        smaller.weight_negative = torch.nn.Parameter(conv.weight_negative[:, :, 4 - m0 :, :m1])
        torch.testing.assert_close(y, smaller(x))


def test_weights_stay_complex() -> None:
    conv = SpectralConv2d(2, 2, (2, 2))
    original = conv.weight_positive.detach().clone()
    for dtype, expected in (
        (torch.float64, torch.complex128),
        (torch.bfloat16, torch.complex64),
        (torch.float32, torch.complex64),
    ):
        moved = copy.deepcopy(conv).to(dtype)
        assert moved.weight_positive.dtype == expected
        assert moved.weight_positive.imag.abs().min() > 0
    torch.testing.assert_close(copy.deepcopy(conv).double().weight_positive.to(torch.complex64), original)


def test_weights_are_double_where_that_is_the_default() -> None:
    torch.set_default_dtype(torch.float64)
    try:
        assert {p.dtype for p in SpectralConv2d(2, 2, (2, 2)).parameters()} == {torch.complex128}
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_memory_format_changes_nothing() -> None:
    conv, x = SpectralConv2d(2, 3, (2, 2)), torch.randn(1, 6, 6, 2)
    expected = conv(x)
    assert torch.equal(conv.to(memory_format=torch.channels_last)(x), expected)


def test_half_precision_input_is_transformed_in_single() -> None:
    conv = SpectralConv2d(2, 2, (3, 3))
    x = torch.randn(1, 10, 10, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = conv(x.bfloat16())
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), conv(x.bfloat16().float()), rtol=1e-2, atol=1e-3)


def test_counts_complex_weights_once() -> None:
    assert sum(p.numel() for p in SpectralConv2d(20, 20, (12, 12)).parameters()) == 2 * 20 * 20 * 12 * 12


@pytest.mark.parametrize("n_modes", [(0, 3), (3,), (3.0, 3.0), 3])
def test_wrong_modes(n_modes) -> None:
    with pytest.raises(ValueError, match=re.escape(f"two positive integers, got {n_modes}")):
        SpectralConv2d(1, 1, n_modes)


def test_grid_without_points() -> None:
    with pytest.raises(ValueError, match="SpectralConv2d: width must be at least 1, got 0"):
        SpectralConv2d(1, 1, (2, 2))(torch.ones(1, 4, 0, 1))


def test_no_channels() -> None:
    with pytest.raises(ValueError, match="SpectralConv2d: out_channels must be at least 1, got 0"):
        SpectralConv2d(1, 0, (2, 3))


@pytest.mark.parametrize("x", [torch.ones(2, 8, 8, 4), torch.ones(8, 8, 3), torch.ones(2, 8, 8, 3, dtype=torch.int64)])
def test_wrong_fields(x: torch.Tensor) -> None:
    with pytest.raises(
        ValueError, match=r"floating-point field of shape \(batch, height, width, 3\), channels last, got"
    ):
        SpectralConv2d(3, 5, (2, 2))(x)


@pytest.mark.parametrize(("grid", "held"), [((16, 16), (8, 9)), ((24, 9), (12, 5)), ((23, 30), (11, 12))])
def test_training_on_a_grid_too_coarse_for_some_modes_says_which(grid: tuple[int, int], held: tuple[int, int]) -> None:
    warn_once.cache_clear()
    conv = SpectralConv2d(1, 1, (12, 12))
    message = f"12 x 12 Fourier modes, of which a grid of {grid[0]} x {grid[1]} points holds {held[0]} x {held[1]}: "
    with pytest.warns(UserWarning, match=message):
        conv(torch.rand(2, *grid, 1)).square().sum().backward()
    assert not conv.weight_negative.grad[0, 0, : 12 - held[0]].any()  # k0 = -12 .. -held - 1
    assert not conv.weight_negative.grad[0, 0, :, held[1] :].any()
    assert conv.weight_negative.grad[0, 0, 12 - held[0] :, : held[1]].all()


def test_no_word_of_modes_where_all_are_held_or_nothing_trains() -> None:
    warn_once.cache_clear()
    conv = SpectralConv2d(1, 1, (12, 12))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        conv(torch.rand(1, 24, 22, 1))
        conv.eval()(torch.rand(1, 16, 16, 1))


def test_the_word_of_modes_leaves_tracing_alone() -> None:
    conv, x = SpectralConv2d(1, 1, (12, 12)), torch.rand(1, 16, 16, 1)
    torch.testing.assert_close(torch.jit.trace(conv, x)(x), conv(x))
