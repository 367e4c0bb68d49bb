"""Linear systems in closed form: how they advance in time, and their zeros."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


def real_array(values: ArrayLike, what: str) -> np.ndarray:
    """Real numbers as an array of floats: NumPy would leave out imaginary parts."""
    if np.iscomplexobj(values):
        raise TypeError(f"expected {what} to be real, got {np.asarray(values).dtype} numbers")
    return np.asarray(values, dtype=float)


def checked_times(t: ArrayLike) -> np.ndarray:
    """Times as an array, of any shape, finite and not negative."""
    t = real_array(t, "times")
    wrong = ~(np.isfinite(t) & (t >= 0))
    if wrong.any():
        raise ValueError(f"expected finite times that are not negative, got {t[wrong].flat[0]}")
    return t


def step_lengths(dt: ArrayLike, x: np.ndarray) -> np.ndarray:
    """Step lengths `(l,)` for a drive `(*batch, l)`."""
    dt = checked_times(dt)
    if x.ndim == 0 or dt.shape not in ((), x.shape[-1:]):
        raise ValueError(f"expected a drive (*batch, l) and dt a number or (l,), got shapes {x.shape} and {dt.shape}")
    return np.broadcast_to(dt, x.shape[-1:])


def potentials_before(initial: ArrayLike, x: np.ndarray, *size: int) -> np.ndarray:
    """Potentials `(*batch, *size)` before a drive `(*batch, l)`, given as such, as `(*size,)` or as a number."""
    initial, shape = real_array(initial, "initial potentials"), (*x.shape[:-1], *size)
    if initial.shape not in ((), size, shape):
        raise ValueError(f"expected initial potentials of shape {shape}, got {initial.shape}")
    return np.broadcast_to(initial, shape)


def propagator(generator: np.ndarray, t: np.ndarray) -> np.ndarray:
    """`exp(generator t)` of a lower-triangular matrix `(k, k)` for all times `(...)`: `(..., k, k)`.

    Scaling and squaring. The diagonal is set to its known value after every squaring (Al-Mohy and Higham, 2009):
    slow and fast stages in one cascade would lose digits otherwise.
    """
    diagonal = np.arange(len(generator))
    with np.errstate(over="ignore"):
        scaled = generator * t[..., None, None]
    norm = np.abs(scaled).sum(-1).max(initial=0.0)
    if not np.isfinite(norm):
        raise ValueError(f"rates times time exceed floating point's range: the largest time is {t.max()}")
    halvings = max(0, math.frexp(norm)[1] + 1)
    scaled = np.ldexp(scaled, -halvings)
    result = identity = np.eye(len(generator))
    for n in range(14, 0, -1):  # Taylor's series; 0.5**15 / 15! is below rounding
        result = identity + scaled @ result / n
    for halving in range(halvings + 1):
        result = result @ result if halving else result
        result[..., diagonal, diagonal] = np.exp(np.ldexp(scaled[..., diagonal, diagonal], halving))
    return result


def zeros_of(A: np.ndarray, B: np.ndarray, C: np.ndarray, D: float) -> np.ndarray:
    """Finite `s` at which `C (s - A)^-1 B + D` vanishes, real or in conjugate pairs; none where it always does.

    Where nothing passes at once, an output that is to stay at zero ties down the state along `B`. That state drives the
    others, a system of one state less with the same zeros (Emami-Naeini and Van Dooren, 1982).
    """
    while len(A) and abs(D) * np.linalg.norm(A) <= 1e-13 * np.linalg.norm(B) * np.linalg.norm(C):
        if not B.any():
            return np.empty(0)
        v = B / np.linalg.norm(B)
        v[0] += np.copysign(1.0, v[0])
        turn = np.eye(len(A)) - np.outer(v, v) * (2 / (v @ v))  # takes B to the first axis
        A, C = turn @ A @ turn, C @ turn
        A, B, C, D = A[1:, 1:], A[1:, 0], C[1:], C[0]
    return np.linalg.eigvals(A - np.outer(B, C) / D) if len(A) else np.empty(0)
