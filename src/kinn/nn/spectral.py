"""Convolution by multiplication of the lowest Fourier modes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Callable

    from jaxtyping import Float

__all__ = ["SpectralConv2d"]


class SpectralConv2d(nn.Module):
    """Global convolution on a periodic 2-D grid: a matrix across channels for each of the lowest Fourier modes.

    With the Fourier transform `F` over both grid axes and one complex matrix `R[k]` per mode `k = (k0, k1)`::

        y = F^-1( R[k] F(x)[k] ),    k0 = -m0 .. m0 - 1,    k1 = 0 .. m1 - 1

    All other modes are set to zero; negative `k1` follow from the field being real. Non-negative and negative `k0` have
    a weight block each, of shape `(in_channels, out_channels, m0, m1)`. The modes are those of the domain, not of the
    grid: the same weights act on any resolution, and modes that a coarse grid cannot hold are left out.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        n_modes: `(m0, m1)`.

    Raises:
        ValueError: `n_modes` are not two positive integers.

    The transform runs in float32 (float64 for float64 input) whatever the autocast state; the output has the dtype of
    the input. The weights stay complex under `.to(dtype)`, which would otherwise drop their imaginary part.

    >>> SpectralConv2d(3, 5, (4, 4))(torch.rand(2, 16, 12, 3)).shape
    torch.Size([2, 16, 12, 5])
    """

    def __init__(self, in_channels: int, out_channels: int, n_modes: tuple[int, int]) -> None:
        super().__init__()
        n_modes = (*n_modes,)
        if len(n_modes) != 2 or min(n_modes) < 1:
            raise ValueError(f"SpectralConv2d: n_modes must be two positive integers, got {n_modes}")
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.n_modes = n_modes
        shape = (in_channels, out_channels, *n_modes)
        scale = 1 / (in_channels * out_channels)
        self.weight_positive = nn.Parameter(scale * torch.rand(shape, dtype=torch.cfloat))
        self.weight_negative = nn.Parameter(scale * torch.rand(shape, dtype=torch.cfloat))

    def forward(self, x: Float[Tensor, "b h w i"]) -> Float[Tensor, "b h w o"]:
        """Map `(b, h, w, in_channels)` to `(b, h, w, out_channels)`."""
        _, height, width, _ = x.shape
        wide = x if x.dtype == torch.float64 else x.float()
        # One axis at a time, so that the second transform sees only the columns that are kept.
        columns = min(self.n_modes[1], width // 2 + 1)
        modes = torch.fft.fft(torch.fft.rfft(wide, dim=2)[:, :, :columns], dim=1)
        positive = min(self.n_modes[0], (height + 1) // 2)
        negative = min(self.n_modes[0], height // 2)
        low = torch.cat((modes[:, :positive], modes[:, height - negative :]), dim=1)
        weight = torch.cat(
            (
                self.weight_positive[:, :, :positive, :columns],
                self.weight_negative[:, :, self.n_modes[0] - negative :, :columns],
            ),
            dim=2,
        )
        low = torch.einsum("bxyi,ioxy->bxyo", low, weight.to(low.dtype))
        gap = low.new_zeros(low.shape[0], height - positive - negative, columns, self.out_channels)
        spectrum = torch.cat((low[:, :positive], gap, low[:, positive:]), dim=1)
        y = torch.fft.irfft(torch.fft.ifft(spectrum, dim=1), n=width, dim=2)
        return y.to(x.dtype)

    def extra_repr(self) -> str:
        """Constructor arguments, for `repr`."""
        return f"{self.in_channels}, {self.out_channels}, n_modes={self.n_modes}"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        def keep_complex(tensor: Tensor) -> Tensor:
            if not tensor.is_complex():
                return fn(tensor)
            parts = fn(torch.view_as_real(tensor))
            if parts.dtype not in (torch.float32, torch.float64):
                parts = parts.float()  # complex numbers of half precision cannot be transformed on every device
            return torch.view_as_complex(parts.contiguous())

        return super()._apply(keep_complex, recurse)
