"""The U-Net baseline."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from kinn.models.parts import OnTrainingGrid
from kinn.models.registry import register_model
from kinn.ops.expect import expect_at_least, expect_one_of

__all__ = ["UNet"]


@register_model
class UNet(OnTrainingGrid):
    """U-Net (Ronneberger et al., 2015) in the size of PDEBench's baseline (Takamoto et al., 2022).

    Each level has two 3x3 convolutions without bias, each followed by batch norm and tanh; max pooling halves the
    resolution and doubles the channels, transposed 2x2 convolutions go back, and skips are concatenated. `UNet(1, 1)`
    has the published 7,762,465 parameters, `UNet(10, 1)` 7,765,057.

    Args:
        in_channels: channels of the input field; time frames are channels.
        out_channels: channels of the output field.
        width: channels at full resolution.
        levels: number of halvings.
        boundary: "zero", as published, or "periodic" for a domain that closes on itself: convolutions and the
            interpolation from other grids wrap around.

    Raises:
        ValueError: no level, a width below 1, or an unknown boundary; on call, an input that is not
            `(b, in_channels, h, w)`, or is periodic with `h` or `w` not divisible by `2^levels`.

    >>> sum(p.numel() for p in UNet(1, 1).parameters())
    7762465
    >>> UNet(1, 2, width=4, levels=2)(torch.rand(1, 1, 16, 24)).shape
    torch.Size([1, 2, 16, 24])
    """

    arguments: dict[str, Any]

    def __init__(
        self, in_channels: int, out_channels: int, *, width: int = 32, levels: int = 4, boundary: str = "zero"
    ) -> None:
        super().__init__()
        expect_at_least("UNet", 1, in_channels=in_channels, out_channels=out_channels, width=width, levels=levels)
        expect_one_of("UNet", ("zero", "periodic"), boundary=boundary)
        self.in_channels = in_channels
        self.levels = levels
        self.periodic = boundary == "periodic"
        channels = [width * 2**level for level in range(levels + 1)]
        self.down = nn.ModuleList(_pair(i, o, self.periodic) for i, o in zip([in_channels, *channels], channels[:-1]))
        self.neck = _pair(channels[-2], channels[-1], self.periodic)
        self.grow = nn.ModuleList(nn.ConvTranspose2d(2 * c, c, 2, stride=2) for c in channels[:-1])
        self.up = nn.ModuleList(_pair(2 * c, c, self.periodic) for c in channels[:-1])
        self.project = nn.Conv2d(width, out_channels, 1)

    def _apply_network(self, x: Tensor) -> Tensor:
        skips = []
        for down in self.down:
            x = down(x)
            skips.append(x)
            x = nn.functional.max_pool2d(x, 2)
        x = self.neck(x)
        for level in reversed(range(self.levels)):
            x = self.up[level](torch.cat((self.grow[level](x), skips[level]), dim=1))
        return self.project(x)


def _pair(in_channels: int, out_channels: int, periodic: bool) -> nn.Sequential:
    beyond = "circular" if periodic else "zeros"
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=1, padding_mode=beyond, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.Tanh(),
        nn.Conv2d(out_channels, out_channels, 3, padding=1, padding_mode=beyond, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.Tanh(),
    )
