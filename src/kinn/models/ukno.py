"""The U-shaped Kirchhoff neural operator."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from kinn.models.parts import Beyond, Convolution, Residual, UShape, plain_pair
from kinn.models.registry import register_model
from kinn.nn import FilteredActivation, KirchhoffBlock, SeparableConv
from kinn.ops.expect import expect_at_least

__all__ = ["UKNO", "UKNO_DEEP", "UKNO_SHALLOW"]

# The two layouts that meet the parameter counts of the paper's Table 3: a deep backbone with slim blocks of one
# potential per channel, and a shallow backbone with full blocks.
UKNO_DEEP: dict[str, Any] = {
    "skip_blocks": 4,
    "neck_blocks": 6,
    "d_state": 1,
    "rank_divisor": 8,
    "pointwise_bias": False,
    "output_norm": False,
    "mlp_ratio": 0,
}
UKNO_SHALLOW: dict[str, Any] = {
    "skip_blocks": 2,
    "neck_blocks": 2,
    "d_state": 8,
    "rank_divisor": 16,
    "pointwise_bias": True,
    "output_norm": True,
    "mlp_ratio": 3,
}


@register_model
class UKNO(UShape):
    """U-shaped Kirchhoff neural operator: a convolutional operator U-Net with Kirchhoff blocks at its coarse levels.

    The backbone is CNO's (Raonic et al., 2023) with depthwise-separable convolutions. Level 0 has `width / 2` channels
    at full resolution, level `i` has `2^(i-1) width` at `1 / 2^i` of it::

        lift                                                 two plain 3x3 convolutions
        down, levels 0 .. L-1:  x -> residual blocks -> skip;  x -> convolution to half the resolution
        neck, level L:          residual blocks -> convolution
        up, levels L-1 .. 0:    convolution to twice the resolution; join convolution(skip)
        project                                              two plain 3x3 convolutions

    Every convolution inside is separable and followed by batch norm and an activation that acts on the band-limited
    function (:class:`kinn.nn.FilteredActivation`), which also changes the resolution. Kirchhoff blocks stand at the
    head of the two deepest levels of the way down, behind the neck's residual blocks, and behind the two deepest
    convolutions of the way up: widths 64, 128 | 256 | 128, 64 by default. `order=0` is the baseline without blocks.

    With the settings `UKNO_SHALLOW` (the default) and `UKNO_DEEP` the model has the paper's 2.60, 2.83, 3.07 and 3.31
    million parameters for `order` 1 to 4.

    Args:
        in_channels: channels of the input field.
        out_channels: channels of the output field.
        order: cells in cascade `K`; 0 for the backbone alone.
        width: channels at half the resolution (CNO's channel multiplier); even.
        levels: number of halvings `L`.
        lift_channels: channels between the two convolutions of lift and project; None for `width`.
        skip_blocks: residual blocks per skip connection.
        neck_blocks: residual blocks at the coarsest level.
        routes: scan directions: 1, 2 or 4.
        d_state: potentials per channel `N`.
        expand: inner channels of a block over its width.
        rank_divisor: the rank of a cell's step projection is `ceil(channels / rank_divisor)`.
        wiring: "series" or "parallel".
        injection: "zoh" or "euler".
        couplings: "free", as in the paper, or "bounded", see :class:`kinn.nn.KirchhoffCell`.
        boundary: "zero", or "periodic" for a domain that closes on itself (filters and convolutions wrap around too).
        lines: "joined", one sequence over the whole grid, or "separate", every grid line a sequence of its own.
        pointwise_bias: bias of the pointwise convolutions inside the blocks.
        output_norm: normalise the blocks' scan output before the gate.
        mlp_ratio: hidden channels of the blocks' MLP over their width; 0 for no MLP.

    Raises:
        ValueError: a negative order, odd width, no level, or an option that the block does not know; on call, an input
            that is not `(b, in_channels, h, w)`, or is periodic with `h` or `w` not divisible by `2^L`.

    >>> sum(p.numel() for p in UKNO(1, 1, order=1).parameters())
    2595238
    >>> import torch
    >>> model = UKNO(1, 1, width=8, **UKNO_DEEP)
    >>> model(torch.rand(2, 1, 16, 24)).shape
    torch.Size([2, 1, 16, 24])
    """

    arguments: dict[str, Any]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        order: int = 2,
        width: int = 64,
        levels: int = 3,
        lift_channels: int | None = None,
        skip_blocks: int = 2,
        neck_blocks: int = 2,
        routes: int = 4,
        d_state: int = 8,
        expand: float = 2,
        rank_divisor: int = 16,
        wiring: str = "series",
        injection: str = "zoh",
        couplings: str = "free",
        boundary: str = "zero",
        lines: str = "joined",
        pointwise_bias: bool = True,
        output_norm: bool = True,
        mlp_ratio: float = 3,
    ) -> None:
        super().__init__()
        expect_at_least("UKNO", 0, order=order, skip_blocks=skip_blocks, neck_blocks=neck_blocks)
        expect_at_least(
            "UKNO", 1, in_channels=in_channels, out_channels=out_channels, levels=levels, rank_divisor=rank_divisor
        )
        if lift_channels is not None:
            expect_at_least("UKNO", 1, lift_channels=lift_channels)

        hidden = width if lift_channels is None else lift_channels

        def block(channels: int) -> KirchhoffBlock:
            return KirchhoffBlock(
                channels,
                order=max(order, 1),
                routes=routes,
                d_state=d_state,
                expand=expand,
                dt_rank=-(-channels // rank_divisor),
                wiring=wiring,
                injection=injection,
                couplings=couplings,
                boundary=boundary,
                lines=lines,
                pointwise_bias=pointwise_bias,
                output_norm=output_norm,
                mlp_ratio=mlp_ratio,
                residual_scale=True,
            )

        def conv(i: int, o: int) -> SeparableConv:
            return SeparableConv(i, o, boundary=boundary)

        def activation(rate: float = 1) -> FilteredActivation:
            return FilteredActivation(nn.SiLU(), rate=rate, periodic=boundary == "periodic")

        def convolution(i: int, o: int, rate: float = 1) -> Convolution:
            return Convolution(conv(i, o), o, activation(rate))

        def residuals(channels: int, count: int) -> list[Residual]:
            return [Residual(channels, conv, activation()) for _ in range(count)]

        def pair(i: int, o: int, beyond: Beyond) -> nn.Sequential:
            return plain_pair(i, hidden, o, activation(), beyond="circular" if boundary == "periodic" else beyond)

        self.in_channels = in_channels
        self.periodic = boundary == "periodic"
        self.levels = levels
        channels, upper = self.channels_of(width, levels)
        neck = channels[-1]
        if not order:
            with torch.device("meta"):  # the options are checked, and no random number is drawn
                block(neck)

        # Zeros around the input tell the network where the edge is; around the output they would spoil the corners.
        self.lift = pair(in_channels, channels[0], "zeros")
        self.down = nn.ModuleList(convolution(channels[i], channels[i + 1], 0.5) for i in range(levels))
        self.skips = nn.ModuleList(
            nn.Sequential(*residuals(channels[i], skip_blocks), convolution(channels[i], channels[i]))
            for i in range(levels)
        )
        self.neck = nn.Sequential(*residuals(neck, neck_blocks))
        self.neck_exit = convolution(neck, neck)
        self.up = nn.ModuleList(convolution(upper[i], channels[i], 2) for i in range(levels))
        self.project = pair(2 * channels[0], out_channels, "replicate")
        coarse = range(max(1, levels - 2), levels) if order else ()
        self.down_blocks = nn.ModuleDict({str(level): block(channels[level]) for level in coarse})
        self.neck_block = block(neck) if order else None
        self.up_blocks = nn.ModuleDict({str(level): block(channels[level]) for level in coarse})

    def before_skip(self, level: int, x: Tensor) -> Tensor:
        """A Kirchhoff block at the coarser levels."""
        return self.down_blocks[str(level)](x) if str(level) in self.down_blocks else x

    def turn(self, x: Tensor) -> Tensor:
        """Residual blocks, a Kirchhoff block and a convolution."""
        x = self.neck(x)
        if self.neck_block is not None:
            x = self.neck_block(x)
        return self.neck_exit(x)

    def rise(self, level: int, x: Tensor) -> Tensor:
        """A convolution to the finer grid, and a Kirchhoff block at the coarser levels."""
        x = self.up[level](x)
        return self.up_blocks[str(level)](x) if str(level) in self.up_blocks else x
