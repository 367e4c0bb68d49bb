"""Truncated Fourier transforms of real fields on periodic 2-D grids: to the lowest modes, and from them.

A spectrum is a real tensor `(b, rows, 2, columns, c)`: mode rows `k0 = 0 .. positive - 1, -negative .. -1`, real and
imaginary part, mode columns `k1 = 0 .. columns - 1`. The FFT computes all modes and defines the result. Products with
small matrices compute only those that are kept, which is less work as long as they are few, and have no complex numbers
for an exporter to stumble over.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float

# Multiplications per value and channel up to which the products are faster than the FFT, as measured on a CPU: they run
# at full speed from 32 channels on, and the fewer there are the slower.
_MOST_PRODUCTS, _FULL_SPEED = 6, 32
_MOST_KEPT = 64  # grids whose matrices are kept for the next call
_kept: dict[tuple[Modes, torch.dtype, torch.device], tuple[Tensor, ...]] = {}


class Modes(NamedTuple):
    """The modes kept of a grid of `height` by `width` points."""

    height: int
    width: int
    positive: int
    negative: int
    columns: int

    @classmethod
    def lowest(cls, grid: tuple[int, int], n_modes: tuple[int, int]) -> Modes:
        """The modes `-m0 .. m0 - 1` by `0 .. m1 - 1` as far as the grid has them."""
        height, width = grid
        rows, columns = n_modes
        return cls(height, width, min(rows, (height + 1) // 2), min(rows, height // 2), min(columns, width // 2 + 1))

    @property
    def rows(self) -> int:
        """Number of `k0`."""
        return self.positive + self.negative

    @property
    def products(self) -> float:
        """Multiplications per value of the field that a transform by matrices takes."""
        return 2 * self.columns + 4 * self.rows * self.columns / self.width


def transform(x: Float[Tensor, "b h w c"], modes: Modes) -> Float[Tensor, "b rows 2 columns c"]:
    """The kept modes of `F(x)[k] = sum_p x[p] exp(-2 pi i k p)`, by the cheaper way for these sizes."""
    by_products = _products_are_faster(modes, x)
    return _transform_by_products(x, modes) if by_products else _transform_by_fft(x, modes)


def inverse(spectrum: Float[Tensor, "b rows 2 columns c"], modes: Modes) -> Float[Tensor, "b h w c"]:
    """The real field with these modes and no others, by the cheaper way for these sizes.

    Modes of negative `k1` are the conjugates of their mirror images. Where a mode is its own mirror image (`k1` zero or
    at the Nyquist frequency), only the part of the spectrum that a real field can have counts.
    """
    by_products = _products_are_faster(modes, spectrum)
    return _inverse_by_products(spectrum, modes) if by_products else _inverse_by_fft(spectrum, modes)


def _products_are_faster(modes: Modes, x: Tensor) -> bool:
    """Exporters and compilers know products better than complex numbers, so these count as faster there."""
    if torch.compiler.is_compiling() or x.numel() == 0:  # some FFT libraries refuse an empty batch
        return True
    return modes.products <= _MOST_PRODUCTS * min(x.shape[-1], _FULL_SPEED)


def _transform_by_fft(x: Tensor, modes: Modes) -> Tensor:
    # One axis at a time, so that the second transform sees only the columns that are kept.
    full = torch.fft.fft(torch.fft.rfft(x, dim=2)[:, :, : modes.columns], dim=1)
    kept = torch.cat((full[:, : modes.positive], full[:, modes.height - modes.negative :]), dim=1)
    return torch.view_as_real(kept).permute(0, 1, 4, 2, 3)


def _inverse_by_fft(spectrum: Tensor, modes: Modes) -> Tensor:
    kept = torch.view_as_complex(spectrum.permute(0, 1, 3, 4, 2).contiguous())
    gap = kept.new_zeros(kept.shape[0], modes.height - modes.rows, *kept.shape[2:])
    full = torch.cat((kept[:, : modes.positive], gap, kept[:, modes.positive :]), dim=1)
    return torch.fft.irfft(torch.fft.ifft(full, dim=1), n=modes.width, dim=2)


def _transform_by_products(x: Tensor, modes: Modes) -> Tensor:
    along_rows, along_columns, _, _ = _matrices_for(x, modes)
    b, h, w, c = x.shape
    lines = torch.matmul(along_columns, x.reshape(b * h, w, c))
    low = torch.matmul(along_rows, lines.view(b, 2 * h, modes.columns * c))
    return low.view(b, modes.rows, 2, modes.columns, c)


def _inverse_by_products(spectrum: Tensor, modes: Modes) -> Tensor:
    _, _, to_rows, to_columns = _matrices_for(spectrum, modes)
    b, c = spectrum.shape[0], spectrum.shape[-1]
    lines = torch.matmul(to_rows, spectrum.reshape(b, 2 * modes.rows, modes.columns * c))
    y = torch.matmul(to_columns, lines.view(b * modes.height, 2 * modes.columns, c))
    return y.view(b, modes.height, modes.width, c)


def _matrices_for(x: Tensor, modes: Modes) -> tuple[Tensor, ...]:
    if torch.compiler.is_compiling() or type(x) is not Tensor:
        return _matrices(modes, x.dtype, x.device)
    key = (modes, x.dtype, x.device)
    if key not in _kept:
        with torch.inference_mode(False):  # or they could not be used for training afterwards
            matrices = _matrices(*key)
        # what tracing makes must not outlive it, nor what is made while a CUDA graph is recorded the graph's memory
        if type(matrices[0]) is not Tensor or (x.is_cuda and torch.cuda.is_current_stream_capturing()):
            return matrices
        if len(_kept) >= _MOST_KEPT:
            _kept.clear()
        _kept[key] = matrices
    return _kept[key]


def _matrices(modes: Modes, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, ...]:
    """Along rows, along columns, and back: real matrices that stand for complex ones.

    Points and modes of the rows are complex numbers already, stored as neighbouring real and imaginary rows; the
    columns begin and end with a real field, and store all real parts before the imaginary ones.
    """
    k0 = torch.cat((torch.arange(modes.positive, device=device), torch.arange(-modes.negative, 0, device=device)))
    k1 = torch.arange(modes.columns, device=device)
    cos, sin = _waves(k0, modes.height)
    along_rows = torch.stack((torch.stack((cos, sin), -1), torch.stack((-sin, cos), -1)), 1)
    along_rows = along_rows.reshape(2 * modes.rows, 2 * modes.height)
    cos, sin = _waves(k1, modes.width)
    along_columns = torch.cat((cos, -sin))
    # Every mode stands for its mirror image too, but for those that are their own.
    counts = torch.where((k1 == 0) | (2 * k1 == modes.width), 1.0, 2.0).double()
    to_columns = along_columns.t() * counts.repeat(2) / (modes.height * modes.width)
    return tuple(m.to(dtype).contiguous() for m in (along_rows, along_columns, along_rows.t(), to_columns))


def _waves(k: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """`cos` and `sin` of `2 pi k p / size`, `(k, size)`, in float64; whole periods are dropped exactly."""
    p = torch.arange(size, device=k.device)
    angle = (k[:, None] * p % size).double() * (2 * math.pi / size)
    return angle.cos(), angle.sin()
