"""Band-limited resampling by two, and activations that do not alias.

Grid values are samples of a band-limited function at cell centres. Doubling the resolution puts two points into every
cell, a quarter of a spacing left and right of its centre; halving it joins two cells. Both use one kernel, the windowed
sinc `k(t) = sinc(t) kaiser(t / p)` of half-width `p` coarse spacings::

    up:    y[j] = sum_m k(x_j - x_m) f[m]            over the 2 p nearest coarse points
    down:  y[i] = sum_j k(x_i - x_j) f[j] / 2        over the 4 p nearest fine points

so the result on a plane is a product of one small banded matrix per axis.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from collections.abc import Callable

    from jaxtyping import Float

__all__ = ["Downsample", "FilteredActivation", "Upsample", "kaiser_attenuation", "kaiser_beta"]


def kaiser_attenuation(length: int, transition: float) -> float:
    """Stop-band attenuation in dB that a Kaiser-windowed filter of `length` taps can reach (Kaiser 1974).

    Args:
        length: number of taps.
        transition: width of the transition band in radians per sample.
    """
    return 2.285 * (length - 1) * transition + 7.95


def kaiser_beta(attenuation: float) -> float:
    """Shape parameter of the Kaiser window for a stop-band attenuation in dB (Kaiser 1974).

    >>> round(kaiser_beta(60.0), 3)
    5.653
    """
    if attenuation > 50:
        return 0.1102 * (attenuation - 8.7)
    if attenuation > 21:
        return 0.5842 * (attenuation - 21) ** 0.4 + 0.07886 * (attenuation - 21)
    return 0.0


class Upsample(nn.Module):
    """Double the resolution of a channels-last field along every grid axis.

    Constants and linear functions are reproduced exactly, up to the edges; functions band-limited to half the coarse
    Nyquist frequency to about 33, 47 and 62 dB for half-widths of 2, 3 and 4.

    Args:
        half_width: reach `p` of the filter, in coarse spacings.
        periodic: the domain closes on itself; otherwise the field goes on beyond an edge as its odd reflection about
            the (extrapolated) value there, which keeps a slope straight.

    >>> Upsample()(torch.ones(1, 4, 6, 3)).shape
    torch.Size([1, 8, 12, 3])
    """

    def __init__(self, *, half_width: int = 3, periodic: bool = False) -> None:
        super().__init__()
        self.half_width = _checked(half_width)
        self.periodic = periodic

    def forward(self, x: Float[Tensor, "b *grid c"]) -> Float[Tensor, "b *fine c"]:
        """Map `(b, n, ..., c)` to `(b, 2 n, ..., c)`."""
        return _resample(x, "up", self.half_width, self.periodic)

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

    >>> Downsample()(torch.ones(1, 4, 6, 3)).shape
    torch.Size([1, 2, 3, 3])
    """

    def __init__(self, *, half_width: int = 3, periodic: bool = False) -> None:
        super().__init__()
        self.half_width = _checked(half_width)
        self.periodic = periodic

    def forward(self, x: Float[Tensor, "b *grid c"]) -> Float[Tensor, "b *coarse c"]:
        """Map `(b, n, ..., c)` to `(b, n / 2, ..., c)`."""
        _check_even(x)
        return _resample(x, "down", self.half_width, self.periodic)

    def extra_repr(self) -> str:
        """Constructor arguments, for `repr`."""
        return f"half_width={self.half_width}, periodic={self.periodic}"


class FilteredActivation(nn.Module):
    """A pointwise nonlinearity that acts on the band-limited function rather than on its samples.

    A nonlinearity creates frequencies that the grid cannot hold, and that would fold back. Here it acts at twice the
    resolution, and a low-pass filter follows: the step that keeps CNO's continuous and discrete operators equivalent
    (Raonic et al., 2023).

    Args:
        activation: the nonlinearity.
        rate: resolution of the output over that of the input: 1, 2 (the filter after it falls away), or 0.5.
        half_width: reach of the filters, in spacings of their coarser grid.
        periodic: as in :class:`Upsample`.

    Raises:
        ValueError: another `rate`; on call, an odd grid size at rate 0.5.

    >>> FilteredActivation(torch.nn.GELU(), rate=0.5)(torch.ones(1, 4, 6, 3)).shape
    torch.Size([1, 2, 3, 3])
    """

    def __init__(self, activation: nn.Module, *, rate: float = 1, half_width: int = 3, periodic: bool = False) -> None:
        super().__init__()
        if rate not in (0.5, 1, 2):
            raise ValueError(f"FilteredActivation: rate must be 0.5, 1 or 2, got {rate}")
        self.activation = activation
        self.rate = rate
        self.half_width = _checked(half_width)
        self.periodic = periodic

    def forward(self, x: Float[Tensor, "b *grid c"]) -> Float[Tensor, "b *out c"]:
        """Map `(b, n, ..., c)` to `(b, rate n, ..., c)`."""
        if self.rate == 0.5:
            _check_even(x)
        x = self.activation(_resample(x, "up", self.half_width, self.periodic))
        if self.rate == 2:
            return x
        return _resample(x, "down" if self.rate == 1 else "quarter", self.half_width, self.periodic)

    def extra_repr(self) -> str:
        """What the activation does not show, for `repr`."""
        return f"rate={self.rate}, half_width={self.half_width}, periodic={self.periodic}"


def _checked(half_width: int) -> int:
    if half_width < 1:
        raise ValueError(f"half_width of a resampling filter must be at least 1, got {half_width}")
    return half_width


def _check_even(x: Tensor) -> None:
    if any(n % 2 for n in x.shape[1:-1]):
        raise ValueError(f"halving the resolution needs even grid sizes, got {tuple(x.shape[1:-1])}")


def _resample(x: Tensor, kind: str, half_width: int, periodic: bool) -> Tensor:
    """Apply the matrix of `kind` along every grid axis."""
    # Traced programs build their matrices themselves: a cache would hold on to the tracer's tensors.
    matrix: Callable[..., Tensor] = _matrix if torch.compiler.is_compiling() else _cached_matrix
    batch, *grid, channels = x.shape
    for axis, n in enumerate(grid):
        along = matrix(n, kind, half_width, periodic, x.dtype, x.device)
        before, after = math.prod(grid[:axis]), math.prod(grid[axis + 1 :])
        # One product per batch element and leading position: both operands stay where they are.
        lines = x.reshape(batch * before, n, after * channels)
        x = torch.bmm(along.expand(batch * before, -1, -1), lines)
        grid[axis] = along.shape[0]
    return x.view(batch, *grid, channels)


def _matrix(
    n: int, kind: str, half_width: int, periodic: bool, dtype: torch.dtype, device: torch.device
) -> Float[Tensor, "rows n"]:
    """The filter along an axis of `n` points as a matrix: `(2 n, n)` up, `(n / 2, n)` down, `(n / 4, n)` down twice."""
    if kind == "quarter":
        first = _matrix(n, "down", half_width, periodic, torch.float64, device)
        return (_matrix(n // 2, "down", half_width, periodic, torch.float64, device) @ first).to(dtype)
    if kind == "up":
        taps = _up_taps(half_width).to(device)
        # The points left and right of a cell's centre see mirror images of one filter.
        left = _band(taps, n, 1, 0, n + 2 * half_width)
        right = _band(taps.flip(0), n, 1, 1, n + 2 * half_width)
        extended = torch.stack((left, right), dim=1).reshape(2 * n, -1)
        ghosts = half_width
    else:
        ghosts = 2 * half_width
        extended = _band(_down_taps(half_width).to(device), n // 2, 2, 1, n + 2 * ghosts)
    return (extended @ _extension(n, ghosts, periodic, device)).to(dtype)


@functools.lru_cache(maxsize=512)
def _cached_matrix(
    n: int, kind: str, half_width: int, periodic: bool, dtype: torch.dtype, device: torch.device
) -> Tensor:
    with torch.inference_mode(False), torch.no_grad():
        return _matrix(n, kind, half_width, periodic, dtype, device)


def _kernel(t: Float[Tensor, "m"], half_width: int) -> tuple[Float[Tensor, "m"], Float[Tensor, "m"]]:
    """Windowed sinc and its window at distances `t` in coarse spacings.

    The transition band is centred on the coarse Nyquist frequency and as wide as it: a quarter of the fine sampling
    frequency, so that the attenuation grows with the filter's length alone.
    """
    beta = kaiser_beta(kaiser_attenuation(4 * half_width, math.pi / 2))
    window = torch.i0(beta * torch.sqrt(1 - (t / half_width) ** 2)) / torch.i0(t.new_tensor(beta))
    return torch.sinc(t) * window, window


def _up_taps(half_width: int) -> Float[Tensor, "taps"]:
    """Weights of the coarse points `-p .. p - 1` at a quarter spacing left of point 0."""
    t = torch.arange(-half_width, half_width, dtype=torch.float64) + 0.25
    weights, window = _kernel(t, half_width)
    # The least change, measured by the window, that makes constants and slopes exact.
    moments = torch.stack((window.sum(), (window * t).sum(), (window * t * t).sum()))
    lacking = 1 - weights.sum(), -(weights * t).sum()
    determinant = moments[0] * moments[2] - moments[1] ** 2
    constant = (lacking[0] * moments[2] - lacking[1] * moments[1]) / determinant
    slope = (lacking[1] * moments[0] - lacking[0] * moments[1]) / determinant
    return weights + window * (constant + slope * t)


def _down_taps(half_width: int) -> Float[Tensor, "taps"]:
    """Weights of the `4 p` fine points around a coarse one."""
    t = (torch.arange(-2 * half_width, 2 * half_width, dtype=torch.float64) + 0.5) / 2
    weights, _ = _kernel(t, half_width)
    return weights / weights.sum()


def _band(taps: Tensor, rows: int, stride: int, start: int, columns: int) -> Float[Tensor, "rows columns"]:
    """Matrix whose row `r` holds the taps from column `stride r + start` on."""
    device = taps.device
    offset = torch.arange(columns, device=device) - (stride * torch.arange(rows, device=device) + start).unsqueeze(1)
    inside = (offset >= 0) & (offset < taps.shape[0])
    return torch.where(inside, taps[offset.clamp(0, taps.shape[0] - 1)], 0.0)


def _extension(n: int, ghosts: int, periodic: bool, device: torch.device) -> Float[Tensor, "extended n"]:
    """Matrix that continues `n` values by `ghosts` more on either side."""
    if periodic:
        return F.one_hot((torch.arange(n + 2 * ghosts, device=device) - ghosts) % n, n).double()
    inner = torch.eye(n, dtype=torch.float64, device=device)
    if n == 1:
        return inner.expand(1 + 2 * ghosts, 1)
    # Odd reflection about the value (3 f[0] - f[1]) / 2 at the edge; beyond the other edge, the first slope goes on.
    distance = torch.arange(ghosts, 0, -1, device=device)
    reflected = 3 * inner[0] - inner[1] - inner[(distance - 1).clamp(max=n - 1)]
    straight = inner[0] + distance.unsqueeze(1) * (inner[0] - inner[1])
    left = torch.where((distance <= n).unsqueeze(1), reflected, straight)
    return torch.cat((left, inner, left.flip(0, 1)))
