"""What is handed to the kernels: sizes, and tensors by their addresses. Needs no compiler."""

from __future__ import annotations

from typing import NamedTuple

# Channels of a tile: wide ones share the loads of B and C; narrow ones, of two potentials to a vector, end a row.
WIDE, TILE, NARROW = 32, 16, 8
BAND = 48  # wide tiles side by side, where a channel has one potential: their states stay in the nearest cache
_RESOLVED = 1 / 16


class Rows(NamedTuple):
    """Where a `(b, m, c)` tensor with unit stride in `c` lies: address, and strides in elements."""

    address: int
    batch: int
    row: int


class Cells(NamedTuple):
    """What a scan reads; contiguous tensors by their address, 0 where there is none. `checkpoints` are written first.

    `a` `(d, n)`, `D` `(d,)`, `checkpoints` `(sequences, chunks, n, d)`.
    """

    x: Rows
    dt: Rows
    B: Rows
    C: Rows
    a: int
    D: int
    checkpoints: int


class Size(NamedTuple):
    """Channels, potentials, steps of a chunk, the injection; what is small.

    `floor` is the smallest decay rate that is told from none; `slow` a mean step times rate below which the gradient of
    that rate needs care, see `slow_below`.
    """

    d: int
    n: int
    chunk: int
    zoh: bool
    floor: float
    slow: float


def slow_below(steps: int) -> float:
    """`Size.slow` for sequences of so many steps: cheap forms lose up to 16 units in the last place."""
    return _RESOLVED * max(steps, 1) ** -0.5
