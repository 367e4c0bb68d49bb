"""What is handed to the kernels: sizes, and tensors by their addresses. Needs no compiler."""

from __future__ import annotations

from typing import NamedTuple

WIDE, TILE, NARROW = 32, 16, 8  # lanes of a tile; wide ones share the loads of B and C, narrow ones end a row


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
    """Channels, potentials, steps of a chunk, the injection, and the smallest decay rate that is told from none."""

    d: int
    n: int
    chunk: int
    zoh: bool
    floor: float
