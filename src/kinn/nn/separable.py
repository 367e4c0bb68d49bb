"""Depthwise-separable convolution on channels-last grids."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from kinn.ops.expect import expect_at_least, expect_one_of
from kinn.ops.reference import separable_reference

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = ["SeparableConv", "spread"]


class SeparableConv(nn.Module):
    """A filter of its own for every channel, then a matrix across channels at every position.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output; None for the filters alone.
        n_axes: number of grid axes, 1 to 3.
        kernel_size: odd width of the filters along each axis.
        bias: of the depthwise part.
        pointwise_bias: of the pointwise part.
        boundary: "zero" pads with zeros, "periodic" with the opposite side.

    Raises:
        ValueError: `n_axes` not in 1 to 3, a size below 1, even `kernel_size`, unknown boundary.

    >>> SeparableConv(3, 8)(torch.rand(2, 7, 5, 3)).shape
    torch.Size([2, 7, 5, 8])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None,
        *,
        n_axes: int = 2,
        kernel_size: int = 3,
        bias: bool = True,
        pointwise_bias: bool = True,
        boundary: str = "zero",
    ) -> None:
        super().__init__()
        expect_one_of("SeparableConv", (1, 2, 3), n_axes=n_axes)
        expect_at_least("SeparableConv", 1, in_channels=in_channels, kernel_size=kernel_size)
        if kernel_size % 2 != 1:
            raise ValueError(f"SeparableConv: kernel_size must be odd, got {kernel_size}")
        expect_one_of("SeparableConv", ("zero", "periodic"), boundary=boundary)
        self.n_axes = n_axes
        self.boundary = boundary
        bound = kernel_size ** (-n_axes / 2)
        self.weight = nn.Parameter(torch.empty(in_channels, 1, *n_axes * (kernel_size,)).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(in_channels).uniform_(-bound, bound)) if bias else None
        self.pointwise = None if out_channels is None else nn.Linear(in_channels, out_channels, bias=pointwise_bias)

    def forward(self, x: Float[Tensor, "b *grid i"]) -> Float[Tensor, "b *grid o"]:
        """Map `(b, *grid, in_channels)` to `(b, *grid, out_channels)`."""
        mix = (None, None) if self.pointwise is None else (self.pointwise.weight, self.pointwise.bias)
        return separable_reference(x, self.weight, self.bias, *mix, self.boundary == "periodic")

    def extra_repr(self) -> str:
        """What the sub-modules do not show, for `repr`."""
        return f"kernel={tuple(self.weight.shape)}, bias={self.bias is not None}, boundary={self.boundary!r}"


def spread(filters: Float[Tensor, "i 1 *taps"], factor: float) -> Float[Tensor, "i 1 *wider"]:
    """The same filters on a grid that is finer by a factor: their taps stay where they are in space.

    A tap between two points is shared by them, so that whole factors put zeros between the taps, and others are exact
    for linear functions.

    Args:
        filters: centred, of odd widths.
        factor: distance of the taps in spacings of the grid.

    >>> spread(torch.tensor([[[1.0, 2.0, 3.0]]]), 2)
    tensor([[[1., 0., 2., 0., 3.]]])
    >>> spread(torch.tensor([[[1.0, 2.0, 3.0]]]), 1.5)
    tensor([[[0.5000, 0.5000, 2.0000, 1.5000, 1.5000]]])
    """
    if factor == 1:
        return filters
    for axis in range(2, filters.dim()):
        reach = filters.shape[axis] // 2
        wide = math.ceil(reach * factor)
        at = factor * torch.arange(-reach, reach + 1, dtype=filters.dtype, device=filters.device)
        to = torch.arange(-wide, wide + 1, dtype=filters.dtype, device=filters.device)
        shares = (1 - (to[:, None] - at).abs()).clamp(min=0)
        filters = (filters.movedim(axis, -1) @ shares.T).movedim(-1, axis)
    return filters
