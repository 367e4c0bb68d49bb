"""Numba kernels of the selective scan. Sequential, nogil; `scan.py` splits the work and hands out memory.

A kernel works on *items*: item `i` is block `i // groups` of consecutive sequences and group `i % groups` of the
channels. Within an item time advances in short chunks that stay in the near caches: chunk, then tile, then step, then
potential.
"""

# pyright: reportCallIssue=false

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import literal_unroll

from kinn.ops.cpu._scan_bands import recompute_band, return_band, scan_band
from kinn.ops.cpu._tiles import (
    chunk_of,
    extent,
    finish_rates,
    kinds_of,
    lanes_of,
    move_state,
    part,
    rates_of,
    room_for,
    scratch,
    sum_lanes,
    tiles_of,
)
from kinn.ops.cpu._vector import pointer, size
from kinn.ops.cpu.cache import kernel
from kinn.ops.cpu.records import TILE, WIDE, Rows, Size
from kinn.ops.path import Path


class Plan(NamedTuple):
    """Sizes, the path, and how the work is cut."""

    batch: int
    size: Size
    path: Path
    blocks: int
    groups: int


class Outputs(NamedTuple):
    """What the forward kernel reads first and writes: potentials `(sequences, d, n)`, `y` `(b, m, d)`."""

    initial_state: int
    y: Rows
    state: int


class Gradients(NamedTuple):
    """What the backward kernel reads and writes.

    Written contiguously: `dB`, `dC` `(groups, b, m, n)`; `da` `(blocks, n, d)`; `dD` `(blocks, d)`; `dinitial_state`
    `(sequences, d, n)`. Partial sums are the caller's to reduce.
    """

    dy: Rows
    dstate: int
    dx: Rows
    ddt: Rows
    da: int
    dB: int  # noqa: N815
    dC: int  # noqa: N815
    dD: int  # noqa: N815
    dinitial_state: int


@part
def _channels(p, group):
    """The channels `start .. stop` of a group."""
    tiles = (p.size.d + TILE - 1) // TILE
    return tiles * group // p.groups * TILE, min(tiles * (group + 1) // p.groups * TILE, p.size.d)


@part
def _chunk(rows, p, sequence, c):
    """Fill `rows` with the grid indices of chunk `c` of a sequence, none behind the last; and the batch element."""
    count, b = chunk_of(rows, p.path, p.size.chunk, p.batch, sequence, c)
    return rows[:count], b


@part
def _unforeseen(p, ahead, tiles):
    """How many of the next chunk's steps to ask for: none where steps run through memory in rows as wide as a band."""
    return 0 if p.path.inner == 1 and tiles > 1 else ahead.size


@kernel
def forward(p, at, out, begin, end, least):
    """Scan items `begin .. end`; `least` receives, per item, the smallest `dt` and the smallest `a` (0 if positive)."""
    s = p.size
    a, state = pointer(at.a, least), pointer(out.state, least)
    lines, steps = extent(p.path)
    sequences, chunks = p.batch * lines, (steps + s.chunk - 1) // s.chunk
    now, later = np.empty(s.chunk, np.int64), np.empty(s.chunk, np.int64)
    kinds = kinds_of(least)
    for item in range(begin, end):
        block, group = item // p.groups, item % p.groups
        start, stop = _channels(p, group)
        room = room_for(s, stop - start)
        rate, inverse, log2_rate = scratch(room, least), scratch(room, least), scratch(room, least)
        least_a = rates_of(a, s, start, stop, (rate, inverse, log2_rate))
        h = scratch(room, least)
        least_dt = np.zeros(stop - start + WIDE, least.dtype)
        first, last = sequences * block // p.blocks, sequences * (block + 1) // p.blocks
        rows, b = _chunk(now, p, first, 0)
        for sequence in range(first, last):
            h[:] = 0
            if out.initial_state != 0:
                move_state(h, pointer(out.initial_state, least), s, sequence, start, stop, False)
            for c in range(chunks):
                ahead, b_ahead = _chunk(later, p, sequence + (c + 1) // chunks, (c + 1) % chunks)
                kept = (sequence * chunks + c) * s.n * s.d
                d = start
                while d < stop:
                    lanes, tiles, own = lanes_of(stop - d, s.n), tiles_of(stop - d, s.n), (d - start) * s.n
                    soon = (
                        (at.x, at.dt, out.y),
                        pointer(later.ctypes.data, later),
                        _unforeseen(p, ahead, tiles),
                        b_ahead,
                    )
                    if tiles > 1:
                        scan_band(
                            kinds[0], s, at, out.y, rows, b, kept, d, tiles, h[own:], log2_rate[own:], inverse[own:],
                            least_dt[d - start :], soon,
                        )  # fmt: skip
                    else:
                        for zero in literal_unroll(kinds):
                            if size(zero) == lanes:
                                scan_band(
                                    zero, s, at, out.y, rows, b, kept, d, None, h[own:], log2_rate[own:],
                                    inverse[own:], least_dt[d - start :], soon,
                                )  # fmt: skip
                    d += tiles * lanes
                rows, b, now, later = ahead, b_ahead, later, now
            move_state(h, state, s, sequence, start, stop, True)
        least[item, 0] = least_dt.min()
        least[item, 1] = least_a


@part
def _back_through(zero, s, at, out, rows, b, kept, d, tiles, rates, keep, adjoint, sums, soon):
    """One chunk of one band: its forward pass again, and the way back."""
    later, count, b_later = soon
    ahead = (at.x, at.dt), later, count, b_later
    recompute_band(zero, s, at, None, rows, b, kept, d, tiles, rates, keep, ahead)
    ahead_back = (out.dy, out.dx, out.ddt), later, count, b_later
    return_band(zero, s, at, out.dy, out.dx, out.ddt, rows, b, d, tiles, rates, keep, adjoint, sums, ahead_back)


@kernel
def backward(p, at, out, begin, end, like):
    """Gradients of items `begin .. end`; `like` is any array of the element type."""
    s = p.size
    dB, dC, dD = pointer(out.dB, like), pointer(out.dC, like), pointer(out.dD, like)
    lines, steps = extent(p.path)
    positions = p.path.outer * p.path.length * p.path.inner
    sequences, chunks = p.batch * lines, (steps + s.chunk - 1) // s.chunk
    now, later = np.empty(s.chunk, np.int64), np.empty(s.chunk, np.int64)
    kinds = kinds_of(like)
    most = (s.chunk * s.n + TILE - 1) // TILE * TILE  # whole groups of TILE vectors are summed over lanes together
    lane_dB, lane_dC = scratch(most * TILE, like), scratch(most * TILE, like)
    sum_dB, sum_dC = np.empty(most, like.dtype), np.empty(most, like.dtype)
    most = tiles_of(s.d, s.n) * WIDE  # channels of a band
    kept_of = scratch(s.chunk * s.n * most, like), scratch(s.chunk * s.n * most, like)
    keep = (*kept_of, scratch((s.chunk + 1) * s.n * most, like), np.empty(s.n * most, np.bool_), scratch(most, like))
    for item in range(begin, end):
        block, group = item // p.groups, item % p.groups
        start, stop = _channels(p, group)
        room = room_for(s, stop - start)
        rate, inverse, log2_rate = scratch(room, like), scratch(room, like), scratch(room, like)
        rates_of(pointer(at.a, like), s, start, stop, (rate, inverse, log2_rate))
        adjoint, sum_da = scratch(room, like), scratch(room, like)
        sum_da[:] = 0
        sum_dD = np.zeros(stop - start + WIDE, like.dtype)
        first, last = sequences * block // p.blocks, sequences * (block + 1) // p.blocks
        rows, b = _chunk(now, p, first, max(chunks - 1, 0))
        for sequence in range(first, last):
            adjoint[:] = 0
            if out.dstate != 0:
                move_state(adjoint, pointer(out.dstate, like), s, sequence, start, stop, False)
            for c in range(chunks - 1, -1, -1):
                ahead, b_ahead = _chunk(later, p, sequence + (c == 0), (c - 1) % chunks)
                kept = (sequence * chunks + c) * s.n * s.d
                lane_dB[:] = 0
                lane_dC[:] = 0
                d = start
                while d < stop:
                    lanes, tiles, own = lanes_of(stop - d, s.n), tiles_of(stop - d, s.n), (d - start) * s.n
                    rates = (rate[own:], inverse[own:], log2_rate[own:])
                    soon = pointer(later.ctypes.data, later), _unforeseen(p, ahead, tiles), b_ahead
                    sums = sum_da[own:], sum_dD[d - start :], lane_dB, lane_dC
                    if tiles > 1:
                        _back_through(
                            kinds[0], s, at, out, rows, b, kept, d, tiles, rates, keep, adjoint[own:], sums,
                            soon,
                        )  # fmt: skip
                    else:
                        for zero in literal_unroll(kinds):
                            if size(zero) == lanes:
                                _back_through(
                                    zero, s, at, out, rows, b, kept, d, None, rates, keep, adjoint[own:], sums,
                                    soon,
                                )  # fmt: skip
                    d += tiles * lanes
                sum_lanes(kinds[1], lane_dB, sum_dB, rows.size * s.n)
                sum_lanes(kinds[1], lane_dC, sum_dC, rows.size * s.n)
                for i in range(rows.size):
                    i_out = ((group * p.batch + b) * positions + rows[i]) * s.n
                    for n in range(s.n):
                        dB[i_out + n] = sum_dB[i * s.n + n]
                        dC[i_out + n] = sum_dC[i * s.n + n]
                rows, b, now, later = ahead, b_ahead, later, now
            move_state(adjoint, pointer(out.dinitial_state, like), s, sequence, start, stop, True)
        finish_rates(s, start, stop, inverse, sum_da, pointer(out.da + block * s.n * s.d * like.itemsize, like))
        if at.D != 0:
            for d in range(start, stop):
                dD[block * s.d + d] = sum_dD[d - start]
