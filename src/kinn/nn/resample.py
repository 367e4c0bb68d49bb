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

import numpy as np
import torch
from torch import Tensor, nn

if TYPE_CHECKING:
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
    # Compiled programs see one operator, exported ones a constant: neither may leave a tracer's tensor in the cache.
    if torch.compiler.is_dynamo_compiling():
        matrix = _matrix_operator
    else:
        matrix = _matrix_tensor if torch.compiler.is_compiling() else _cached_matrix
    batch, *grid, channels = x.shape
    for axis, n in enumerate(grid):
        along = matrix(n, kind, half_width, periodic, x.dtype, x.device)
        before, after = math.prod(grid[:axis]), math.prod(grid[axis + 1 :])
        # One product per batch element and leading position: both operands stay where they are.
        lines = x.reshape(batch * before, n, after * channels)
        x = torch.bmm(along.expand(batch * before, -1, -1), lines)
        grid[axis] = _resampled(n, kind)
    return x.view(batch, *grid, channels)


def _matrix_tensor(
    n: int, kind: str, half_width: int, periodic: bool, dtype: torch.dtype, device: torch.device
) -> Tensor:
    return torch.from_numpy(_matrix(n, kind, half_width, periodic)).to(device, dtype)


@functools.lru_cache(maxsize=512)
def _cached_matrix(
    n: int, kind: str, half_width: int, periodic: bool, dtype: torch.dtype, device: torch.device
) -> Tensor:
    with torch.inference_mode(False):
        return _matrix_tensor(n, kind, half_width, periodic, dtype, device)


@torch.library.custom_op(
    "kinn::resample_matrix",
    mutates_args=(),
    schema="(SymInt n, str kind, int half_width, bool periodic, ScalarType dtype, Device device) -> Tensor",
)
def _matrix_operator(
    n: int, kind: str, half_width: int, periodic: bool, dtype: torch.dtype, device: torch.device
) -> Tensor:
    return _cached_matrix(n, kind, half_width, periodic, dtype, device).clone()


@_matrix_operator.register_fake
def _(n: int, kind: str, half_width: int, periodic: bool, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.empty((_resampled(n, kind), n), dtype=dtype, device=device)


def _resampled(n: int, kind: str) -> int:
    """Number of points after resampling `n`."""
    return 2 * n if kind == "up" else n // (2 if kind == "down" else 4)


def _matrix(n: int, kind: str, half_width: int, periodic: bool) -> np.ndarray:
    """The filter along an axis of `n` points as a matrix: `(2 n, n)` up, `(n / 2, n)` down, `(n / 4, n)` twice down."""
    if kind == "quarter":
        return _matrix(n // 2, "down", half_width, periodic) @ _matrix(n, "down", half_width, periodic)
    if kind == "up":
        ghosts = half_width
        taps = _up_taps(half_width)
        # The points left and right of a cell's centre see mirror images of one filter.
        extended = np.zeros((2 * n, n + 2 * ghosts))
        for i in range(n):
            extended[2 * i, i : i + taps.size] = taps
            extended[2 * i + 1, i + 1 : i + 1 + taps.size] = taps[::-1]
    else:
        ghosts = 2 * half_width
        taps = _down_taps(half_width)
        extended = np.zeros((n // 2, n + 2 * ghosts))
        for i in range(n // 2):
            extended[i, 2 * i + 1 : 2 * i + 1 + taps.size] = taps
    return extended @ _extension(n, ghosts, periodic)


def _kernel(t: np.ndarray, half_width: int) -> tuple[np.ndarray, np.ndarray]:
    """Windowed sinc and its window at distances `t` in coarse spacings.

    The transition band is centred on the coarse Nyquist frequency and as wide as it: a quarter of the fine sampling
    frequency, so that the attenuation grows with the filter's length alone.
    """
    beta = kaiser_beta(kaiser_attenuation(4 * half_width, math.pi / 2))
    window = np.i0(beta * np.sqrt(1 - (t / half_width) ** 2)) / np.i0(beta)
    return np.sinc(t) * window, window


def _up_taps(half_width: int) -> np.ndarray:
    """Weights of the coarse points `-p .. p - 1` at a quarter spacing left of point 0."""
    t = np.arange(-half_width, half_width) + 0.25
    weights, window = _kernel(t, half_width)
    # The least change, measured by the window, that makes constants and slopes exact.
    powers = np.stack((np.ones_like(t), t))
    lacking = np.array([1.0, 0.0]) - powers @ weights
    return weights + window * (np.linalg.solve((powers * window) @ powers.T, lacking) @ powers)


def _down_taps(half_width: int) -> np.ndarray:
    """Weights of the `4 p` fine points around a coarse one."""
    t = (np.arange(-2 * half_width, 2 * half_width) + 0.5) / 2
    weights, _ = _kernel(t, half_width)
    return weights / weights.sum()


def _extension(n: int, ghosts: int, periodic: bool) -> np.ndarray:
    """Matrix `(n + 2 ghosts, n)` that continues `n` values on either side."""
    inner = np.eye(n)
    if periodic:
        return inner[np.arange(-ghosts, n + ghosts) % n]
    if n == 1:
        return np.ones((1 + 2 * ghosts, 1))
    # Odd reflection about the value (3 f[0] - f[1]) / 2 at the edge; where the grid ends, the first slope goes on.
    left = [
        3 * inner[0] - inner[1] - inner[i] if i < n else inner[0] + (i + 1) * (inner[0] - inner[1])
        for i in reversed(range(ghosts))
    ]
    left = np.stack(left)
    return np.concatenate((left, inner, left[::-1, ::-1]))
