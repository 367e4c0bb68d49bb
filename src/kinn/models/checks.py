"""What every model checks of its input."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["check_fields"]


def check_fields(x: Tensor, in_channels: int) -> None:
    """Refuse, with a ValueError, an input that is not `(b, in_channels, h, w)`."""
    if x.dim() != 4 or x.shape[1] != in_channels:
        way_out = "; x.unsqueeze(1), or from_arrays(..., channel_axis=None), adds a missing channel axis"
        raise ValueError(
            f"expected fields of shape (batch, {in_channels}, height, width), got {tuple(x.shape)}"
            + (way_out if x.dim() == 3 else "")
        )
