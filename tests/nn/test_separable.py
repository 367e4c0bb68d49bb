from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from kinn.nn import SeparableConv
from kinn.nn.separable import spread


@pytest.mark.parametrize(("n_axes", "grid"), [(1, (6,)), (2, (5, 6)), (3, (3, 4, 5))])
def test_equals_the_dense_convolution_that_it_factorises(n_axes: int, grid: tuple[int, ...]) -> None:
    conv = SeparableConv(3, 4, n_axes=n_axes).double()
    x = torch.randn(2, *grid, 3, dtype=torch.float64)
    pointwise = conv.pointwise.weight.view(4, 3, *n_axes * (1,))
    dense = pointwise * conv.weight.movedim(1, 0)
    bias = conv.pointwise(conv.bias)
    convolve = (F.conv1d, F.conv2d, F.conv3d)[n_axes - 1]
    expected = convolve(x.movedim(-1, 1), dense, bias, padding=1).movedim(1, -1)
    torch.testing.assert_close(conv(x), expected, rtol=0, atol=1e-12)


def test_periodic_convolution_commutes_with_shifts() -> None:
    conv = SeparableConv(2, 2, boundary="periodic", kernel_size=5)
    x = torch.randn(1, 6, 7, 2)
    torch.testing.assert_close(conv(x.roll((2, 3), (1, 2))), conv(x).roll((2, 3), (1, 2)))


@pytest.mark.parametrize("grid", [(1,), (2,), (1, 3), (3, 1)])
def test_a_periodic_filter_may_be_longer_than_the_grid(grid: tuple[int, ...]) -> None:
    """It is that of the grid's copies side by side."""
    conv = SeparableConv(2, 2, n_axes=len(grid), boundary="periodic", kernel_size=7)
    x = torch.randn(1, *grid, 2)
    tiled = conv(x.repeat(1, *[9] * len(grid), 1))
    torch.testing.assert_close(conv(x), tiled[(slice(None), *(slice(n) for n in grid))])


def test_biases_are_optional() -> None:
    count = lambda **options: sum(p.numel() for p in SeparableConv(3, 5, **options).parameters())  # noqa: E731
    assert count() == 27 + 3 + 15 + 5
    assert count(bias=False, pointwise_bias=False) == 27 + 15


@pytest.mark.parametrize("factor", [1, 2, 3])
@pytest.mark.parametrize("n_axes", [1, 2, 3])
def test_whole_factors_put_zeros_between_the_taps(factor: int, n_axes: int) -> None:
    filters = torch.randn(3, 1, *n_axes * (5,))
    x = torch.randn(2, 3, *n_axes * (11,))
    convolve = (F.conv1d, F.conv2d, F.conv3d)[n_axes - 1]
    expected = convolve(x, filters, padding=2 * factor, dilation=factor, groups=3)
    torch.testing.assert_close(convolve(x, spread(filters, factor), padding="same", groups=3), expected)


@pytest.mark.parametrize("factor", [0.3, 0.5, 1.25, 2.7])
def test_other_factors_keep_the_mass_and_scale_the_slope(factor: float) -> None:
    filters = torch.randn(2, 1, 3, dtype=torch.float64, requires_grad=True)
    wide = spread(filters, factor)
    reach = wide.shape[-1] // 2
    torch.testing.assert_close(wide.sum(-1), filters.sum(-1))
    at = torch.arange(-reach, reach + 1, dtype=torch.float64)
    torch.testing.assert_close((wide * at).sum(-1), factor * (filters * torch.tensor([-1.0, 0, 1])).sum(-1))
    assert torch.autograd.gradcheck(lambda f: spread(f, factor), filters)
