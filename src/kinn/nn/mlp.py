"""The channel MLP: the same small network at every position."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from torch import Tensor, nn

from kinn.ops import channel_mlp
from kinn.ops.expect import expect_at_least

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = ["ChannelMLP"]


class ChannelMLP(nn.Sequential):
    """Layer norm (optional), linear map, GELU, linear map, over the last axis.

    Computed by :func:`kinn.ops.channel_mlp`, which on a CPU keeps small hidden layers out of memory.

    Args:
        in_channels: channels of the input.
        hidden_channels: channels between the linear maps.
        out_channels: channels of the output.
        norm: begin with a layer norm.
        norm_eps: added to the variance under its root.

    Raises:
        ValueError: a number of channels below 1.

    >>> import torch
    >>> ChannelMLP(20, 128, 1)(torch.rand(2, 8, 8, 20)).shape
    torch.Size([2, 8, 8, 1])
    """

    def __init__(
        self, in_channels: int, hidden_channels: int, out_channels: int, *, norm: bool = False, norm_eps: float = 1e-5
    ) -> None:
        expect_at_least(
            "ChannelMLP", 1, in_channels=in_channels, hidden_channels=hidden_channels, out_channels=out_channels
        )
        layers = nn.Linear(in_channels, hidden_channels), nn.GELU(), nn.Linear(hidden_channels, out_channels)
        super().__init__(*((nn.LayerNorm(in_channels, norm_eps),) if norm else ()), *layers)

    def forward(self, input: Float[Tensor, "*grid i"]) -> Float[Tensor, "*grid o"]:
        """Map `(..., in_channels)` to `(..., out_channels)`."""
        *norms, first, _, second = cast(Any, list(self))
        norm = (norms[0].weight, norms[0].bias) if norms else None
        eps = norms[0].eps if norms else 0.0
        return channel_mlp(input, first.weight, first.bias, second.weight, second.bias, norm=norm, eps=eps)
