"""Convolution by multiplication of the lowest Fourier modes."""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Integral
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from kinn.nn.fourier import Modes, inverse, transform
from kinn.notices import warn_once
from kinn.ops.expect import expect_at_least

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
    grid: the same weights act on any resolution, and modes that a coarse grid cannot hold are left out; training on
    such a grid says so, once.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        n_modes: `(m0, m1)`.

    Raises:
        ValueError: `n_modes` are not two positive integers, no channels; on call, an input that does not fit.

    Transforms and products run in float32 (float64 for float64 input) whatever the autocast state; the output has the
    dtype of the input. Where few modes are kept the transforms are matrix products, which
    `torch.set_float32_matmul_precision` applies to; elsewhere FFTs, with the same result to rounding. The weights stay
    complex under `.to(dtype)`, which would otherwise drop their imaginary part.

    >>> SpectralConv2d(3, 5, (4, 4))(torch.rand(2, 16, 12, 3)).shape
    torch.Size([2, 16, 12, 5])
    """

    def __init__(self, in_channels: int, out_channels: int, n_modes: tuple[int, int]) -> None:
        super().__init__()
        expect_at_least("SpectralConv2d", 1, in_channels=in_channels, out_channels=out_channels)
        modes = tuple(n_modes) if isinstance(n_modes, Iterable) else ()
        if len(modes) != 2 or not all(isinstance(count, Integral) and count >= 1 for count in modes):
            raise ValueError(f"SpectralConv2d: n_modes must be two positive integers, got {n_modes}")
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.n_modes = modes
        shape = (in_channels, out_channels, *modes)
        scale, dtype = 1 / (in_channels * out_channels), torch.promote_types(torch.get_default_dtype(), torch.cfloat)
        self.weight_positive = nn.Parameter(scale * torch.rand(shape, dtype=dtype))
        self.weight_negative = nn.Parameter(scale * torch.rand(shape, dtype=dtype))

    def forward(self, x: Float[Tensor, "b h w i"]) -> Float[Tensor, "b h w o"]:
        """Map `(b, h, w, in_channels)` to `(b, h, w, out_channels)`."""
        if x.dim() != 4 or x.shape[-1] != self.in_channels or not x.is_floating_point():
            raise ValueError(
                f"SpectralConv2d: expected a floating-point field of shape (batch, height, width, {self.in_channels}), "
                f"channels last, got {x.dtype} {tuple(x.shape)}"
            )
        expect_at_least("SpectralConv2d", 1, height=x.shape[1], width=x.shape[2])
        if x.device.type != "meta" and torch.is_autocast_enabled(x.device.type):
            with torch.autocast(x.device.type, enabled=False):
                return self._convolve(x)
        return self._convolve(x)

    def _convolve(self, x: Tensor) -> Tensor:
        modes = Modes.lowest((x.shape[1], x.shape[2]), self.n_modes)
        if self.training and torch.is_grad_enabled() and not (torch.compiler.is_compiling() or torch.jit.is_tracing()):
            self.tell_idle(x.shape[1], x.shape[2])
        spectrum = transform(x if x.dtype == torch.float64 else x.float(), modes)
        return inverse(self._mix(spectrum, modes), modes).to(x.dtype)

    def tell_idle(self, height: int, width: int) -> None:
        """Warn, once, of modes that a grid does not have: training there leaves their weights as they were drawn."""
        modes = Modes.lowest((height, width), self.n_modes)
        held = modes.negative, modes.columns
        if held == self.n_modes:
            return
        own, grid, most = (" x ".join(map(str, pair)) for pair in (self.n_modes, (height, width), held))
        warn_once(
            f"SpectralConv2d has weights for {own} Fourier modes, of which a grid of {grid} points holds {most}: the "
            "others cannot train here, and act as they were drawn on finer grids; take no more n_modes than that"
        )

    def _mix(self, spectrum: Tensor, modes: Modes) -> Tensor:
        """Multiply every mode by its matrix: real and imaginary parts by both parts of the weight at once."""
        b, rows, _, columns, i = spectrum.shape
        positive, negative = (torch.view_as_real(w) for w in (self.weight_positive, self.weight_negative))
        first = self.n_modes[0] - modes.negative
        weight = torch.cat((positive[:, :, : modes.positive, :columns], negative[:, :, first:, :columns]), dim=2)
        weight = weight.to(spectrum.dtype)
        weight = weight.permute(2, 3, 0, 4, 1).reshape(rows * columns, i, 2 * self.out_channels)
        by_mode = spectrum.permute(1, 3, 2, 0, 4).reshape(rows * columns, 2 * b, i)
        parts = torch.bmm(by_mode, weight).view(rows, columns, 2, b, 2, self.out_channels).permute(3, 0, 2, 4, 1, 5)
        real = parts[:, :, 0, 0] - parts[:, :, 1, 1]
        imaginary = parts[:, :, 0, 1] + parts[:, :, 1, 0]
        return torch.stack((real, imaginary), dim=2)

    def extra_repr(self) -> str:
        """Constructor arguments, for `repr`."""
        return f"{self.in_channels}, {self.out_channels}, n_modes={self.n_modes}"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        def keep_complex(tensor: Tensor) -> Tensor:
            if not tensor.is_complex():
                return fn(tensor)
            parts = fn(torch.view_as_real(tensor).reshape(-1)).view(*tensor.shape, 2)  # flat: `fn` may order the axes
            if parts.dtype not in (torch.float32, torch.float64):
                parts = parts.float()  # complex numbers of half precision cannot be transformed on every device
            return torch.view_as_complex(parts)

        return super()._apply(keep_complex, recurse)
