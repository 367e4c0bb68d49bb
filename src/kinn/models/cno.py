"""The convolutional neural operator, a baseline, whose U-shape UKNO shares."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from kinn.models.parts import Convolution, PlainConv, Residual, UShape, plain_pair
from kinn.models.registry import register_model
from kinn.nn import FilteredActivation
from kinn.ops.expect import expect_at_least

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = ["CNO"]

_HIDDEN = 64  # channels between the two convolutions of lift and project


@register_model
class CNO(UShape):
    """Convolutional neural operator (Raonic et al., 2023).

    Level 0 has `width / 2` channels at full resolution, level `i` has `2^(i-1) width` at `1 / 2^i` of it::

        lift                                                 two 3x3 convolutions
        down, levels 0 .. L-1:  x -> residual blocks -> convolution -> skip;  x -> convolution to half the resolution
        neck, level L:          residual blocks -> convolution
        up, levels L-1 .. 0:    convolution, convolution to twice the resolution; join skip
        project                                              two 3x3 convolutions

    Every convolution but those of lift and project is followed by batch norm, and by a shifted leaky ReLU that acts on
    the band-limited function (:class:`kinn.nn.FilteredActivation`, our own filters). `CNO(1, 1)` has 2,951,249
    parameters, as its authors' code with the settings of their Poisson benchmark. The count includes a last
    convolution of the way up that their code declares and never applies: it is here, frozen.

    Args:
        in_channels: channels of the input field.
        out_channels: channels of the output field.
        width: channels at half the resolution (the channel multiplier); even.
        levels: number of halvings `L`.
        skip_blocks: residual blocks per skip connection.
        neck_blocks: residual blocks at the coarsest level.

    Raises:
        ValueError: odd width, no level; on call, an input that is not `(b, in_channels, h, w)`.

    >>> sum(p.numel() for p in CNO(1, 1).parameters())
    2951249
    >>> CNO(1, 1, width=4, levels=2)(torch.rand(1, 1, 16, 24)).shape
    torch.Size([1, 1, 16, 24])
    """

    arguments: dict[str, Any]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        width: int = 32,
        levels: int = 3,
        skip_blocks: int = 4,
        neck_blocks: int = 6,
    ) -> None:
        super().__init__()
        expect_at_least("CNO", 1, in_channels=in_channels, out_channels=out_channels, levels=levels)
        expect_at_least("CNO", 0, skip_blocks=skip_blocks, neck_blocks=neck_blocks)
        self.in_channels = in_channels
        self.levels = levels
        channels, upper = self.channels_of(width, levels)
        neck = channels[-1]
        self.lift = plain_pair(in_channels, _HIDDEN, channels[0], _Shifted(_HIDDEN), beyond="zeros")
        self.down = nn.ModuleList(_convolution(channels[i], channels[i + 1], 0.5) for i in range(levels))
        self.skips = nn.ModuleList(
            nn.Sequential(*_residuals(channels[i], skip_blocks), _convolution(channels[i], channels[i]))
            for i in range(levels)
        )
        self.neck = nn.Sequential(*_residuals(neck, neck_blocks), _convolution(neck, neck))
        self.mix = nn.ModuleList(_convolution(c, c) for c in upper)
        self.up = nn.ModuleList(_convolution(upper[i], channels[i], 2) for i in range(levels))
        self.unused = _convolution(2 * channels[0], 2 * channels[0]).requires_grad_(False)
        self.project = plain_pair(2 * channels[0], _HIDDEN, out_channels, _Shifted(_HIDDEN), beyond="replicate")

    def rise(self, level: int, x: Tensor) -> Tensor:
        """A convolution at the coarser grid, and the one to the finer."""
        return self.up[level](self.mix[level](x))


class _Shifted(nn.Sequential):
    """Filtered leaky ReLU of a field with a learned offset per channel."""

    def __init__(self, channels: int, rate: float = 1) -> None:
        super().__init__(FilteredActivation(nn.LeakyReLU(0.2), rate=rate))
        self.offset = nn.Parameter(torch.zeros(channels))

    def forward(self, input: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        return super().forward(input + self.offset)


def _conv(in_channels: int, out_channels: int) -> PlainConv:
    return PlainConv(in_channels, out_channels, "zeros")


def _convolution(in_channels: int, out_channels: int, rate: float = 1) -> Convolution:
    return Convolution(_conv(in_channels, out_channels), out_channels, _Shifted(out_channels, rate))


def _residuals(channels: int, count: int) -> list[Residual]:
    return [Residual(channels, _conv, _Shifted(channels)) for _ in range(count)]
