"""The Fourier neural operator, and the trunk that it shares with FKNO."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kinn.models.checks import check_fields
from kinn.models.registry import register_model
from kinn.nn import ChannelMLP, KirchhoffBlock, SpectralConv2d
from kinn.ops import channel_mix
from kinn.ops.expect import expect_at_least, expect_one_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float

__all__ = ["FNO", "FourierTrunk"]


class FourierTrunk(nn.Module):
    """Fourier layers around any local operators: lift, `x <- gelu(spectral(x) + local(x))` per layer, project.

    The last layer has no activation. Fields are `(b, c, h, w)` outside and channels-last inside.

    Args:
        in_channels: channels of the input field, coordinates not counted.
        out_channels: channels of the output field.
        local_operators: one module per layer, `(b, h, w, width)` to the same; Kirchhoff blocks are given `dt_scale`.
        n_modes: frequencies kept along each grid axis, of either sign; (12, 12) is neuraloperator's (24, 22).
        width: channels inside.
        coordinates: append the two grid coordinates, each running from 0 to 1 inclusive, to the input.

    Raises:
        ValueError: `n_modes` that are not two positive integers, or `coordinates` neither true nor false; on call, an
            input that is not `(b, in_channels, h, w)`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        local_operators: Sequence[nn.Module],
        *,
        n_modes: tuple[int, int],
        width: int,
        coordinates: bool,
    ) -> None:
        super().__init__()
        expect_one_of("FourierTrunk", (True, False), coordinates=coordinates)
        self.in_channels = in_channels
        self.coordinates = coordinates
        self.lift = nn.Linear(in_channels + 2 * coordinates, width)
        self.spectral = nn.ModuleList(SpectralConv2d(width, width, n_modes) for _ in local_operators)
        self.local = nn.ModuleList(local_operators)
        # Li's code declares these and never applies them. They hold no information: they are here, frozen, so that the
        # parameter count is the published one.
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for _ in local_operators).requires_grad_(False)
        self.project = ChannelMLP(width, 128, out_channels)

    def forward(self, x: Float[Tensor, "b i h w"], *, dt_scale: float = 1.0) -> Float[Tensor, "b o h w"]:
        """Map `(b, in_channels, h, w)` to `(b, out_channels, h, w)` on any grid."""
        check_fields(x, self.in_channels)
        x = x.movedim(1, -1)
        if self.coordinates:
            x = torch.cat((x, _coordinates(x)), dim=-1)
        x = self.lift(x)
        for depth, (spectral, local) in enumerate(zip(self.spectral, self.local), start=1):
            gelu = depth < len(self.local)
            if isinstance(local, nn.Linear):
                x = channel_mix(x, spectral(x), local.weight, local.bias, gelu=gelu)
            else:
                x = spectral(x) + (local(x, dt_scale=dt_scale) if isinstance(local, KirchhoffBlock) else local(x))
                x = F.gelu(x) if gelu else x
        return self.project(x).movedim(-1, 1)


def _coordinates(x: Float[Tensor, "b h w i"]) -> Float[Tensor, "b h w 2"]:
    batch, height, width, _ = x.shape
    rows = torch.linspace(0, 1, height, dtype=x.dtype, device=x.device).view(1, height, 1, 1)
    columns = torch.linspace(0, 1, width, dtype=x.dtype, device=x.device).view(1, 1, width, 1)
    return torch.cat((rows.expand(batch, -1, width, -1), columns.expand(batch, height, -1, -1)), dim=-1)


@register_model
class FNO(nn.Module):
    """Fourier neural operator (Li et al., 2021) in the layout of its authors' two-dimensional code.

    Four Fourier layers with a 1x1 convolution each; `FNO(10, 1)` has the published 465,717 parameters (a complex weight
    counted once).

    Args:
        in_channels: channels of the input field; time frames are channels.
        out_channels: channels of the output field.
        n_modes: frequencies kept along each grid axis, of either sign; (12, 12) is neuraloperator's (24, 22).
        width: channels inside.
        n_layers: Fourier layers.
        coordinates: append the two grid coordinates to the input.

    Raises:
        ValueError: no layer, or an option that is not one of the above; on call, an input that is not
            `(b, in_channels, h, w)`.

    >>> model = FNO(10, 1)
    >>> sum(p.numel() for p in model.parameters())
    465717
    >>> model(torch.rand(2, 10, 24, 20)).shape
    torch.Size([2, 1, 24, 20])
    """

    arguments: dict[str, Any]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        n_modes: tuple[int, int] = (12, 12),
        width: int = 20,
        n_layers: int = 4,
        coordinates: bool = True,
    ) -> None:
        super().__init__()
        expect_at_least("FNO", 1, in_channels=in_channels, out_channels=out_channels, width=width, n_layers=n_layers)
        self.trunk = FourierTrunk(
            in_channels,
            out_channels,
            [nn.Linear(width, width) for _ in range(n_layers)],
            n_modes=n_modes,
            width=width,
            coordinates=coordinates,
        )

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o h w"]:
        """Map `(b, in_channels, h, w)` to `(b, out_channels, h, w)` on any grid."""
        return self.trunk(x)
