"""The filtered activation, as one operation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from kinn.ops.backends import kernels_fit
from kinn.ops.cpu import filtered_cpu
from kinn.ops.expect import expect_floating, expect_one_of
from kinn.ops.resampling import checked_half_width, checked_rate, expect_even, filtered_reference

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = ["filtered_activation"]

_LEAST_SIDE = 8  # on smaller grids full matrices are as fast or faster
_ACTIVATIONS = "silu", "gelu", "leaky_relu"


def filtered_activation(
    x: Float[Tensor, "b *grid c"],
    activation: str,
    *,
    slope: float = 0.01,
    rate: float = 1,
    half_width: int = 3,
    periodic: bool = False,
) -> Float[Tensor, "b *out c"]:
    """An activation of the band-limited function: up by two, activation, low-pass filter (Raonic et al., 2023).

    In single precision on a CPU, on 2-D grids of eight points a side and more, 512 in a batch, compiled kernels walk
    through the fine grid row by row: nothing at twice the resolution reaches memory, neither forth nor back, and the
    banded filters cost what their taps do. Otherwise, and under autocast, compilers and function transforms, it is
    PyTorch's own operations with full matrices, which spread what is not a number over the whole grid. Differentiable
    at will either way.

    Args:
        x: fields `(b, *grid, c)`.
        activation: "silu", "gelu" or "leaky_relu".
        slope: of a leaky ReLU below zero.
        rate: resolution of the result over that of `x`: 1, 2 (no filter follows), or 0.5 (grid sizes must be even).
        half_width: reach of the filters, in spacings of their coarser grid.
        periodic: the domain closes on itself; otherwise fields go on beyond an edge with their slope.

    Returns:
        `(b, *out, c)`, `rate` times as many points along every axis.

    Raises:
        ValueError: an unknown activation or rate, no half-width, no grid, or odd grid sizes at rate 0.5.
        TypeError: `x` is not a floating-point tensor.

    >>> import torch
    >>> filtered_activation(torch.rand(2, 8, 6, 3), "silu", rate=0.5).shape
    torch.Size([2, 4, 3, 3])
    """
    where = "filtered_activation"
    expect_one_of(where, _ACTIVATIONS, activation=activation)
    expect_floating(where, x=x)
    checked_rate(where, rate)
    checked_half_width(where, half_width)
    if x.dim() < 3 or 0 in x.shape[1:-1]:
        raise ValueError(f"{where}: expected fields (b, *grid, c) on a grid with points, got {tuple(x.shape)}")
    if rate == 0.5:
        expect_even(where, x)
    arguments = (x, activation, float(slope), float(rate), half_width, bool(periodic))
    if x.dim() == 4 and kernels_fit(x, (), 0) and min(x.shape[1:3]) >= _LEAST_SIDE:
        return filtered_cpu(*arguments)
    return filtered_reference(*arguments)
