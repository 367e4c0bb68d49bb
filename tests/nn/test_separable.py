from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from kinn.nn import SeparableConv


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


def test_biases_are_optional() -> None:
    count = lambda **options: sum(p.numel() for p in SeparableConv(3, 5, **options).parameters())  # noqa: E731
    assert count() == 27 + 3 + 15 + 5
    assert count(bias=False, pointwise_bias=False) == 27 + 15
