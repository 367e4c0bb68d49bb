"""Band-limited resampling by two, and activations that do not alias: see :mod:`kinn.ops.resampling`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from kinn.ops import filtered_activation
from kinn.ops.expect import expect_floating
from kinn.ops.resampling import BEHIND, checked_half_width, checked_rate, expect_even, resample

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = ["Downsample", "FilteredActivation", "Upsample"]


class Upsample(nn.Module):
    """Double the resolution of a channels-last field along every grid axis.

    Constants and linear functions are reproduced exactly, up to the edges; functions band-limited to half the coarse
    Nyquist frequency to about 33, 47 and 62 dB for half-widths of 2, 3 and 4.

    Args:
        half_width: reach `p` of the filter, in coarse spacings.
        periodic: the domain closes on itself; otherwise the field goes on beyond an edge as its odd reflection about
            the (extrapolated) value there, which keeps a slope straight.

    >>> import torch
    >>> Upsample()(torch.ones(1, 4, 6, 3)).shape
    torch.Size([1, 8, 12, 3])
    """

    def __init__(self, *, half_width: int = 3, periodic: bool = False) -> None:
        super().__init__()
        self.half_width = checked_half_width(type(self).__name__, half_width)
        self.periodic = periodic

    def forward(self, x: Float[Tensor, "b *grid c"]) -> Float[Tensor, "b *fine c"]:
        """Map `(b, n, ..., c)` to `(b, 2 n, ..., c)`."""
        expect_floating("Upsample", x=x)
        return resample(x, "up", self.half_width, self.periodic)

    def extra_repr(self) -> str:
        """Constructor arguments, for `repr`."""
        return f"half_width={self.half_width}, periodic={self.periodic}"


class Downsample(nn.Module):
    """Halve the resolution of a channels-last field along every grid axis.

    Frequencies that the coarse grid cannot hold are filtered out first; constants and linear functions stay exact.

    Args:
        half_width: reach `p` of the filter, in coarse spacings.
        periodic: as in :class:`Upsample`.

    Raises:
        ValueError: (on call) an odd grid size.

    >>> import torch
    >>> Downsample()(torch.ones(1, 4, 6, 3)).shape
    torch.Size([1, 2, 3, 3])
    """

    def __init__(self, *, half_width: int = 3, periodic: bool = False) -> None:
        super().__init__()
        self.half_width = checked_half_width(type(self).__name__, half_width)
        self.periodic = periodic

    def forward(self, x: Float[Tensor, "b *grid c"]) -> Float[Tensor, "b *coarse c"]:
        """Map `(b, n, ..., c)` to `(b, n / 2, ..., c)`."""
        expect_floating("Downsample", x=x)
        expect_even("Downsample", x)
        return resample(x, "down", self.half_width, self.periodic)

    def extra_repr(self) -> str:
        """Constructor arguments, for `repr`."""
        return f"half_width={self.half_width}, periodic={self.periodic}"


class FilteredActivation(nn.Module):
    """A pointwise nonlinearity that acts on the band-limited function rather than on its samples.

    A nonlinearity creates frequencies that the grid cannot hold, and that would fold back. Here it acts at twice the
    resolution, and a low-pass filter follows: the step that keeps CNO's continuous and discrete operators equivalent
    (Raonic et al., 2023). SiLU, GELU, ReLU and leaky ReLU are computed by :func:`kinn.ops.filtered_activation`.

    Args:
        activation: the nonlinearity.
        rate: resolution of the output over that of the input: 1, 2 (the filter after it falls away), or 0.5.
        half_width: reach of the filters, in spacings of their coarser grid.
        periodic: as in :class:`Upsample`.

    Raises:
        ValueError: another `rate`; on call, an odd grid size at rate 0.5.

    >>> import torch
    >>> FilteredActivation(torch.nn.GELU(), rate=0.5)(torch.ones(1, 4, 6, 3)).shape
    torch.Size([1, 2, 3, 3])
    """

    def __init__(self, activation: nn.Module, *, rate: float = 1, half_width: int = 3, periodic: bool = False) -> None:
        super().__init__()
        self.activation = activation
        self.rate = checked_rate("FilteredActivation", rate)
        self.half_width = checked_half_width(type(self).__name__, half_width)
        self.periodic = periodic

    def forward(self, x: Float[Tensor, "b *grid c"]) -> Float[Tensor, "b *out c"]:
        """Map `(b, n, ..., c)` to `(b, rate n, ..., c)`."""
        filters = {"half_width": self.half_width, "periodic": self.periodic}
        known = _known(self.activation)
        if known is not None:
            name, slope = known
            return filtered_activation(x, name, slope=slope, rate=self.rate, **filters)
        if self.rate == 0.5:
            expect_even("FilteredActivation", x)
        return resample(self.activation(resample(x, "up", **filters)), BEHIND[self.rate], **filters)

    def extra_repr(self) -> str:
        """What the activation does not show, for `repr`."""
        return f"rate={self.rate}, half_width={self.half_width}, periodic={self.periodic}"


def _known(activation: nn.Module) -> tuple[str, float] | None:
    """Name and slope of what :func:`kinn.ops.filtered_activation` knows, unless somebody watches it."""
    watched = activation._forward_hooks, activation._forward_pre_hooks, activation._backward_hooks
    if any(watched) or activation._backward_pre_hooks:
        return None
    if type(activation) is nn.SiLU:
        return "silu", 0.0
    if type(activation) is nn.LeakyReLU:
        return "leaky_relu", activation.negative_slope
    if type(activation) is nn.ReLU:
        return "leaky_relu", 0.0
    return ("gelu", 0.0) if type(activation) is nn.GELU and activation.approximate == "none" else None
