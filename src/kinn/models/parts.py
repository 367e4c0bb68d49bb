"""Convolutional parts of the operator U-Nets, UKNO and CNO: fields inside are channels-last, `(b, h, w, c)`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Callable

    from jaxtyping import Float
    from torch import Tensor

__all__ = ["BatchNorm", "Beyond", "Convolution", "PlainConv", "Residual", "plain_pair"]

Beyond = Literal["zeros", "replicate", "circular"]  # what lies beyond the grid


class BatchNorm(nn.BatchNorm2d):
    """Batch norm over the last axis; the move is a view."""

    def forward(self, input: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        return super().forward(input.movedim(-1, 1)).movedim(1, -1)


class PlainConv(nn.Conv2d):
    """3x3 convolution with channels last; the move is a view."""

    def __init__(self, in_channels: int, out_channels: int, beyond: Beyond) -> None:
        super().__init__(in_channels, out_channels, 3, padding=1 if beyond == "zeros" else 0)
        self.beyond = beyond

    def forward(self, input: Float[Tensor, "b h w i"]) -> Float[Tensor, "b h w o"]:
        for axis in (1, 2) if self.beyond != "zeros" else ():
            first, last = input.narrow(axis, 0, 1), input.narrow(axis, -1, 1)
            # Not by torch's padding modes: the gradient of "replicate" fails in compiled networks.
            ends = (last, first) if self.beyond == "circular" else (first, last)
            input = torch.cat([ends[0], input, ends[1]], axis)
        return super().forward(input.movedim(-1, 1)).movedim(1, -1)


class Convolution(nn.Sequential):
    """Convolution, batch norm, activation; the activation may change the resolution."""

    def __init__(self, conv: nn.Module, channels: int, activation: nn.Module) -> None:
        super().__init__(conv, BatchNorm(channels), activation)


class Residual(nn.Module):
    """Two convolutions around an activation, added to the input."""

    def __init__(self, channels: int, conv: Callable[[int, int], nn.Module], activation: nn.Module) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            conv(channels, channels),
            BatchNorm(channels),
            activation,
            conv(channels, channels),
            BatchNorm(channels),
        )

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        return x + self.branch(x)


def plain_pair(
    in_channels: int, hidden: int, out_channels: int, activation: nn.Module, *, beyond: Beyond
) -> nn.Sequential:
    """Lift or project: two plain convolutions around an activation."""
    return nn.Sequential(PlainConv(in_channels, hidden, beyond), activation, PlainConv(hidden, out_channels, beyond))
