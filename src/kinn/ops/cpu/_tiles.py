"""How the scan's and the cascade's kernels lay out their work: in chunks of steps and tiles of channels.

A *tile* is a vector of neighbouring channels. What is kept per channel and potential lies tile after tile, each as
`[n, lane]`; the lanes are the innermost, explicit dimension of every loop. A tile too narrow for a vector has two
potentials in one.
"""

# pyright: reportCallIssue=false

from __future__ import annotations

import numpy as np
from numba import njit

from kinn.ops.cpu._vector import pairs, store, sum_each, zeros
from kinn.ops.cpu.records import BAND, NARROW, TILE, WIDE

LOG2_E = 1.4426950408889634

part = njit(nogil=True)


@part
def extent(path):
    """Sequences per batch element, and positions in each."""
    if path.joined:
        return 1, path.outer * path.length * path.inner
    return path.outer * path.inner, path.length


@part
def fill_rows(rows, path, line, steps, start, count):
    """Grid indices of the steps `start .. start + count` of one sequence."""
    for i in range(count):
        t = steps - 1 - (start + i) if path.reverse else start + i
        if path.joined:
            line = t // path.length
            t -= line * path.length
        o = line // path.inner
        rows[i] = (o * path.length + t) * path.inner + (line - o * path.inner)


@part
def chunk_of(rows, path, chunk, batch, sequence, c):
    """Fill `rows` with the grid indices of chunk `c` of a sequence; how many, none behind the last, and its element of
    the batch.
    """
    lines, steps = extent(path)
    b, start = sequence // lines, c * chunk
    count = min(chunk, steps - start) if b < batch else 0
    fill_rows(rows, path, sequence - b * lines, steps, start, count)
    return count, b


@part
def kinds_of(like):
    """A zero vector of each kind that tiles are made of."""
    return zeros(like, WIDE), zeros(like, TILE), pairs(like, TILE)


@part
def lanes_of(left, n):
    """How many channels the next tile has when `left` remain: few and wide tiles, but little unused width."""
    return WIDE if left > TILE + NARROW else TILE if left > NARROW or n % 2 else NARROW


@part
def tiles_of(left, n):
    """How many tiles of the next one's kind go side by side when `left` channels remain.

    The more potentials a channel has, the fewer: their work hides what memory takes.
    """
    return max(1, min(BAND // max(n * n, 1), (left - TILE - NARROW + WIDE - 1) // WIDE))


@part
def scratch(count, like):
    """Uninitialised memory that begins on a cache line, so that no vector straddles two."""
    room = np.empty(count + 64 // like.itemsize, like.dtype)
    start = (-room.ctypes.data % 64) // like.itemsize
    return room[start : start + count]


@part
def rates_of(a, s, start, stop, rates):
    """Fill `rates` with `a`, `1/a`, `-a log2(e)`, tile after tile as `[n, lane]`; returns the smallest `a`."""
    rate, inverse, log2_rate = rates
    least = 0.0
    d = start
    while d < stop:
        lanes = lanes_of(stop - d, s.n)
        for n in range(s.n):
            for j in range(lanes):
                value = a[(d + j) * s.n + n] if d + j < stop else 1.0
                least = min(least, value)
                # Floored so that 1/a is finite: below the floor a step cannot be told from one without decay.
                value = max(value, s.floor) if value == value else value
                i = (d - start) * s.n + n * lanes + j
                rate[i], inverse[i], log2_rate[i] = value, 1.0 / value, -value * LOG2_E
        d += lanes
    return least


@part
def room_for(s, channels):
    """Numbers that a tiled array of `channels` channels may take."""
    return (channels + WIDE) * s.n


@part
def move_state(h, memory, s, sequence, start, stop, write):
    """Tiles of `[n, lane]` in `h` to, or from, `(sequences, d, n)` in memory."""
    d = start
    while d < stop:
        lanes = lanes_of(stop - d, s.n)
        for j in range(min(lanes, stop - d)):
            for n in range(s.n):
                own, other = (d - start) * s.n + n * lanes + j, (sequence * s.d + d + j) * s.n + n
                if write:
                    memory[other] = h[own]
                else:
                    h[own] = memory[other]
        d += lanes


@part
def sum_lanes(zero, lane, sums, count):
    """Sum `count` groups of lanes; both arrays are padded to whole tiles of groups."""
    for q in range(0, (count + TILE - 1) // TILE * TILE, TILE):
        store(sums, q, sum_each(lane, q * TILE, zero))


@part
def finish_rates(s, start, stop, inverse, sum_da, da):
    """`a dL/da` in tiles to `dL/da` `(n, d)`."""
    d = start
    while d < stop:
        lanes = lanes_of(stop - d, s.n)
        for j in range(min(lanes, stop - d)):
            for n in range(s.n):
                q = (d - start) * s.n + n * lanes + j
                da[n * s.d + d + j] = sum_da[q] * inverse[q]
        d += lanes
