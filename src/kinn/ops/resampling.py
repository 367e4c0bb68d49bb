"""Band-limited resampling by two, and activations between: the definition.

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
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = [
    "BEHIND",
    "checked_half_width",
    "checked_rate",
    "expect_even",
    "filter_matrix",
    "filtered_reference",
    "kaiser_attenuation",
    "kaiser_beta",
    "resample",
    "resampled",
]

# What follows an activation at twice the resolution, by the resolution of the result over that of the input.
BEHIND: dict[float, str] = {2: "none", 1: "down", 0.5: "quarter"}


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


def checked_half_width(where: str, half_width: int) -> int:
    """The half-width, if it is one."""
    if not isinstance(half_width, int) or half_width < 1:
        raise ValueError(f"{where}: half_width must be a whole number of at least 1, got {half_width!r}")
    return half_width


def checked_rate(where: str, rate: float) -> float:
    """The rate of a filtered activation, if it is one."""
    if not isinstance(rate, int | float) or rate not in BEHIND:
        raise ValueError(f"{where}: rate must be 0.5, 1 or 2, got {rate!r}")
    return rate


def expect_even(where: str, x: Tensor) -> None:
    """Refuse a channels-last field whose resolution cannot be halved."""
    if any(n % 2 for n in x.shape[1:-1]):
        raise ValueError(f"{where}: halving the resolution needs even grid sizes, got {tuple(x.shape[1:-1])}")


def filtered_reference(
    x: Float[Tensor, "b *grid c"], activation: str, slope: float, rate: float, half_width: int, periodic: bool
) -> Float[Tensor, "b *out c"]:
    """`down(activation(up(x)))` with a "silu", "gelu" or "leaky_relu" of `slope` below zero; `BEHIND` goes down."""
    x = resample(x, "up", half_width, periodic)
    x = F.leaky_relu(x, slope) if activation == "leaky_relu" else getattr(F, activation)(x)
    return resample(x, BEHIND[rate], half_width, periodic)


def resample(x: Tensor, kind: str, half_width: int, periodic: bool) -> Tensor:
    """Apply the matrix of `kind` along every grid axis of a channels-last field: see :func:`filter_matrix`."""
    if kind == "none":
        return x
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
        grid[axis] = resampled(n, kind)
    return x.view(batch, *grid, channels)


def _matrix_tensor(
    n: int, kind: str, half_width: int, periodic: bool, dtype: torch.dtype, device: torch.device
) -> Tensor:
    return torch.from_numpy(filter_matrix(n, kind, half_width, periodic)).to(device, dtype)


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
    return torch.empty((resampled(n, kind), n), dtype=dtype, device=device)


def resampled(n: int, kind: str) -> int:
    """Number of points after resampling `n`."""
    return {"up": 2 * n, "none": n, "down": n // 2, "quarter": n // 4}[kind]


def filter_matrix(n: int, kind: str, half_width: int, periodic: bool) -> np.ndarray:
    """The filter along an axis of `n` points as a matrix: `(2 n, n)` up, `(n / 2, n)` down, `(n / 4, n)` quarter.

    A quarter is down twice, and none is `(n, n)`, the identity.
    """
    if kind == "none":
        return np.eye(n)
    if kind == "quarter":
        return filter_matrix(n // 2, "down", half_width, periodic) @ filter_matrix(n, "down", half_width, periodic)
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
    # The continued values are few: all others go to themselves.
    matrix, beyond = extended[:, ghosts : ghosts + n], np.r_[:ghosts, ghosts + n : n + 2 * ghosts]
    return matrix + extended[:, beyond] @ _continuation(n, ghosts, periodic)


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


def _continuation(n: int, ghosts: int, periodic: bool) -> np.ndarray:
    """Matrix `(2 ghosts, n)` that continues `n` values on the left and on the right."""
    inner = np.eye(n)
    if periodic:
        return inner[np.r_[-ghosts:0, n : n + ghosts] % n]
    if n == 1:
        return np.ones((2 * ghosts, 1))
    # Odd reflection about the value (3 f[0] - f[1]) / 2 at the edge; where the grid ends, the first slope goes on.
    left = [
        3 * inner[0] - inner[1] - inner[i] if i < n else inner[0] + (i + 1) * (inner[0] - inner[1])
        for i in reversed(range(ghosts))
    ]
    left = np.stack(left)
    return np.concatenate((left, left[::-1, ::-1]))
