"""Numba kernels of the selective scan. Sequential, nogil; `cpu.py` splits the work and hands out memory.

A kernel works on *items*: item `i` is block `i // groups` of consecutive sequences and group `i % groups` of channel
tiles (a tile is `LANES` neighbouring channels, one vector). Within an item time advances in short chunks that stay in
the first cache: chunk, then tile, then step, then potential, with the lanes as the innermost, explicit dimension.
"""

# pyright: reportCallIssue=false

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from kinn.ops._vector import (
    LANES,
    expm1_and_slope,
    expm1_of_log2,
    lane,
    load,
    load_first,
    pointer,
    smaller,
    splat,
    store,
    store_first,
    sum_each,
)

# The disk cache looks at this file alone; with this line it also sees a change of what the kernels inline.
VECTOR_SHA256 = "765089420cdabc14"
LOG2_E = 1.4426950408889634


def _compiled(function):
    try:
        return njit(nogil=True, cache=True)(function)
    except RuntimeError:  # no folder that can be written to: compile in every process
        return njit(nogil=True)(function)


class Rows(NamedTuple):
    """Where a `(b, m, c)` tensor with unit stride in `c` lies: address, and strides in elements."""

    address: int
    batch: int
    row: int


class Plan(NamedTuple):
    """Sizes, the path (see `path.py`), and how the work is cut."""

    batch: int
    d: int
    n: int
    outer: int
    length: int
    inner: int
    joined: bool
    reverse: bool
    zoh: bool
    floor: float
    chunk: int
    blocks: int
    groups: int


class Inputs(NamedTuple):
    """What both directions read; contiguous tensors by their address, 0 where there is none."""

    x: Rows
    dt: Rows
    B: Rows
    C: Rows
    a: int
    D: int
    initial_state: int
    checkpoints: int


class Outputs(NamedTuple):
    """What the forward kernel writes, all contiguous: `y` `(b, m, d)`, `state` `(s, d, n)`."""

    y: int
    state: int


class Gradients(NamedTuple):
    """What the backward kernel reads and writes.

    Written contiguously: `dx`, `ddt` `(b, m, d)`; `dB`, `dC` `(groups, b, m, n)`; `da` `(blocks, n, d)`;
    `dD` `(blocks, d)`; `dinitial_state` `(s, d, n)`. Partial sums are the caller's to reduce.
    """

    dy: Rows
    dstate: int
    dx: int
    ddt: int
    da: int
    dB: int  # noqa: N815
    dC: int  # noqa: N815
    dD: int  # noqa: N815
    dinitial_state: int


@_compiled
def _extent(p):
    """Sequences per batch element, positions in each, channel tiles."""
    tiles = (p.d + LANES - 1) // LANES
    if p.joined:
        return 1, p.outer * p.length * p.inner, tiles
    return p.outer * p.inner, p.length, tiles


@_compiled
def _fill_rows(rows, p, line, steps, start, count):
    """Grid indices of the steps `start .. start + count` of one sequence."""
    for i in range(count):
        t = steps - 1 - (start + i) if p.reverse else start + i
        if p.joined:
            line = t // p.length
            t -= line * p.length
        o = line // p.inner
        rows[i] = (o * p.length + t) * p.inner + (line - o * p.inner)


@_compiled
def _scratch(size, like):
    """Uninitialised memory that begins on a cache line, so that no vector straddles two."""
    room = np.empty(size + 64 // like.itemsize, like.dtype)
    start = (-room.ctypes.data % 64) // like.itemsize
    return room[start : start + size]


@_compiled
def _rates(a, p, first, last, like):
    """For tiles `first .. last`: `a`, `1/a`, `-a log2(e)` as `[tile, n, lane]`, and the smallest `a`."""
    size = (last - first) * p.n * LANES
    rate, inverse, log2_rate = _scratch(size, like), _scratch(size, like), _scratch(size, like)
    least = 0.0
    i = 0
    for tile in range(first, last):
        for n in range(p.n):
            for d in range(tile * LANES, (tile + 1) * LANES):
                value = a[d * p.n + n] if d < p.d else 1.0
                least = min(least, value)
                # Floored so that 1/a is finite: below the floor a step cannot be told from one without decay.
                value = max(value, p.floor) if value == value else value
                rate[i], inverse[i], log2_rate[i] = value, 1.0 / value, -value * LOG2_E
                i += 1
    return rate, inverse, log2_rate, least


@_compiled
def _read_state(h, source, p, sequence, first, last):
    """`(s, d, n)` at `source` into `[tile, n, lane]`."""
    for d in range(first * LANES, min(last * LANES, p.d)):
        at = (d // LANES - first) * p.n * LANES + d % LANES
        for n in range(p.n):
            h[at + n * LANES] = source[(sequence * p.d + d) * p.n + n]


@_compiled
def _write_state(h, target, p, sequence, first, last):
    """The inverse of `_read_state`."""
    for d in range(first * LANES, min(last * LANES, p.d)):
        at = (d // LANES - first) * p.n * LANES + d % LANES
        for n in range(p.n):
            target[(sequence * p.d + d) * p.n + n] = h[at + n * LANES]


@_compiled
def forward(p, at, out, begin, end, least):
    """Scan items `begin .. end`; `least` receives, per item, the smallest `dt` and the smallest `a` (0 if positive)."""
    x, dt = pointer(at.x.address, least), pointer(at.dt.address, least)
    B, C = pointer(at.B.address, least), pointer(at.C.address, least)
    a, D, initial_state = pointer(at.a, least), pointer(at.D, least), pointer(at.initial_state, least)
    checkpoints, y, state = pointer(at.checkpoints, least), pointer(out.y, least), pointer(out.state, least)
    lines, steps, tiles = _extent(p)
    sequences, chunks = p.batch * lines, (steps + p.chunk - 1) // p.chunk
    rows = np.empty(p.chunk, np.int64)
    zero = splat(least, 0)
    for item in range(begin, end):
        block, group = item // p.groups, item % p.groups
        first, last = tiles * group // p.groups, tiles * (group + 1) // p.groups
        _, inverse, log2_rate, least_a = _rates(a, p, first, last, least)
        h = _scratch(inverse.size, least)
        least_dt = zero
        for sequence in range(sequences * block // p.blocks, sequences * (block + 1) // p.blocks):
            b = sequence // lines
            h[:] = 0
            if at.initial_state != 0:
                _read_state(h, initial_state, p, sequence, first, last)
            for c in range(chunks):
                count = min(p.chunk, steps - c * p.chunk)
                _fill_rows(rows, p, sequence - b * lines, steps, c * p.chunk, count)
                for tile in range(first, last):
                    own = (tile - first) * p.n * LANES
                    d = tile * LANES
                    width = min(LANES, p.d - d)
                    skip = load_first(D, d, width) if at.D != 0 else zero
                    if at.checkpoints != 0:
                        for n in range(p.n):
                            i = ((sequence * chunks + c) * p.n + n) * p.d + d
                            store_first(checkpoints, i, width, load(h, own + n * LANES))
                    for i in range(count):
                        row = rows[i]
                        drive = load_first(x, b * at.x.batch + row * at.x.row + d, width)
                        step = load_first(dt, b * at.dt.batch + row * at.dt.row + d, width)
                        B_row, C_row = b * at.B.batch + row * at.B.row, b * at.C.batch + row * at.C.row
                        least_dt = smaller(step, least_dt)
                        readout = zero
                        if at.D != 0:
                            readout = skip * drive
                        if p.zoh:
                            for n in range(p.n):
                                q = own + n * LANES
                                hn = load(h, q)
                                u = splat(least, B[B_row + n]) * drive
                                hn = hn + expm1_of_log2(step * load(log2_rate, q)) * (hn - u * load(inverse, q))
                                store(h, q, hn)
                                readout = readout + splat(least, C[C_row + n]) * hn
                        else:
                            pulse = step * drive
                            for n in range(p.n):
                                q = own + n * LANES
                                hn = load(h, q)
                                hn = hn + expm1_of_log2(step * load(log2_rate, q)) * hn
                                hn = hn + splat(least, B[B_row + n]) * pulse
                                store(h, q, hn)
                                readout = readout + splat(least, C[C_row + n]) * hn
                        store_first(y, (b * p.outer * p.length * p.inner + row) * p.d + d, width, readout)
            _write_state(h, state, p, sequence, first, last)
        for j in range(LANES):
            least[item, 0] = min(least[item, 0], lane(least_dt, j))
        least[item, 1] = least_a


@_compiled
def backward(p, at, out, begin, end, like):
    """Gradients of items `begin .. end`; `like` is any array of the element type.

    With `h' = h - E v`, `E = expm1(-dt a)`, `v = B x / a - h`: the first pass over a chunk recomputes the states and
    keeps `E`, `K = dh'/d(dt) exp(dt a) = a v` and `J = a dh'/da`, the second runs back through them.
    """
    x, dt = pointer(at.x.address, like), pointer(at.dt.address, like)
    B, C, dy = pointer(at.B.address, like), pointer(at.C.address, like), pointer(out.dy.address, like)
    a, D, checkpoints = pointer(at.a, like), pointer(at.D, like), pointer(at.checkpoints, like)
    dstate, dinitial_state = pointer(out.dstate, like), pointer(out.dinitial_state, like)
    dx, ddt, da = pointer(out.dx, like), pointer(out.ddt, like), pointer(out.da, like)
    dB, dC, dD = pointer(out.dB, like), pointer(out.dC, like), pointer(out.dD, like)
    lines, steps, tiles = _extent(p)
    positions = p.outer * p.length * p.inner
    sequences, chunks = p.batch * lines, (steps + p.chunk - 1) // p.chunk
    rows = np.empty(p.chunk, np.int64)
    # Padded to whole groups of LANES vectors, which are summed over lanes together.
    size = (p.chunk * p.n + LANES - 1) // LANES * LANES * LANES
    E, K, J = _scratch(size, like), _scratch(size, like), _scratch(size, like)
    lane_dB, lane_dC = _scratch(size, like), _scratch(size, like)
    sum_dB, sum_dC = np.empty(size // LANES, like.dtype), np.empty(size // LANES, like.dtype)
    h = _scratch(p.n * LANES, like)
    zero = splat(like, 0)
    for item in range(begin, end):
        block, group = item // p.groups, item % p.groups
        first, last = tiles * group // p.groups, tiles * (group + 1) // p.groups
        rate, inverse, log2_rate, _ = _rates(a, p, first, last, like)
        adjoint, sum_da = _scratch(rate.size, like), _scratch(rate.size, like)
        sum_da[:] = 0
        sum_dD = np.zeros((last - first) * LANES, like.dtype)
        for sequence in range(sequences * block // p.blocks, sequences * (block + 1) // p.blocks):
            b = sequence // lines
            adjoint[:] = 0
            if out.dstate != 0:
                _read_state(adjoint, dstate, p, sequence, first, last)
            for c in range(chunks - 1, -1, -1):
                count = min(p.chunk, steps - c * p.chunk)
                _fill_rows(rows, p, sequence - b * lines, steps, c * p.chunk, count)
                lane_dB[:] = 0
                lane_dC[:] = 0
                for tile in range(first, last):
                    own = (tile - first) * p.n * LANES
                    d = tile * LANES
                    width = min(LANES, p.d - d)
                    for n in range(p.n):
                        i = ((sequence * chunks + c) * p.n + n) * p.d + d
                        store(h, n * LANES, load_first(checkpoints, i, width))
                    for i in range(count):
                        drive = load_first(x, b * at.x.batch + rows[i] * at.x.row + d, width)
                        step = load_first(dt, b * at.dt.batch + rows[i] * at.dt.row + d, width)
                        given = load_first(dy, b * out.dy.batch + rows[i] * out.dy.row + d, width)
                        B_row = b * at.B.batch + rows[i] * at.B.row
                        for n in range(p.n):
                            q, r = own + n * LANES, (i * p.n + n) * LANES
                            hn = load(h, n * LANES)
                            u = splat(like, B[B_row + n]) * drive
                            e, slope = expm1_and_slope(step * load(log2_rate, q))
                            store(E, r, e)
                            if p.zoh:
                                v = u * load(inverse, q) - hn
                                store(J, r, v * slope + e * hn)
                                store(K, r, load(rate, q) * v)
                                hn = hn - e * v
                            else:
                                decay = load(rate, q) * hn
                                store(J, r, zero - step * (decay + e * decay))
                                store(K, r, zero - decay)
                                hn = hn + e * hn + step * u
                            store(h, n * LANES, hn)
                            store(lane_dC, r, load(lane_dC, r) + given * hn)
                    skip = load_first(D, d, width) if at.D != 0 else zero
                    for i in range(count - 1, -1, -1):
                        drive = load_first(x, b * at.x.batch + rows[i] * at.x.row + d, width)
                        step = load_first(dt, b * at.dt.batch + rows[i] * at.dt.row + d, width)
                        given = load_first(dy, b * out.dy.batch + rows[i] * out.dy.row + d, width)
                        B_row, C_row = b * at.B.batch + rows[i] * at.B.row, b * at.C.batch + rows[i] * at.C.row
                        to_drive, to_step = zero, zero
                        for n in range(p.n):
                            q, r = own + n * LANES, (i * p.n + n) * LANES
                            Bn = splat(like, B[B_row + n])
                            above = load(adjoint, q) + splat(like, C[C_row + n]) * given
                            store(sum_da, q, load(sum_da, q) + above * load(J, r))
                            lost = above * load(E, r)
                            below = above + lost
                            store(adjoint, q, below)
                            to_step = to_step + below * load(K, r)
                            if p.zoh:
                                injected = zero - lost * load(inverse, q)
                            else:
                                injected = above * step
                                to_step = to_step + above * (Bn * drive)
                            to_drive = to_drive + injected * Bn
                            store(lane_dB, r, load(lane_dB, r) + injected * drive)
                        if at.D != 0:
                            to_drive = to_drive + skip * given
                            j = (tile - first) * LANES
                            store(sum_dD, j, load(sum_dD, j) + drive * given)
                        i_out = (b * positions + rows[i]) * p.d + d
                        store_first(dx, i_out, width, to_drive)
                        store_first(ddt, i_out, width, to_step)
                for q in range(0, (count * p.n + LANES - 1) // LANES * LANES, LANES):
                    store(sum_dB, q, sum_each(lane_dB, q * LANES))
                    store(sum_dC, q, sum_each(lane_dC, q * LANES))
                for i in range(count):
                    i_out = ((group * p.batch + b) * positions + rows[i]) * p.n
                    for n in range(p.n):
                        dB[i_out + n] = sum_dB[i * p.n + n]
                        dC[i_out + n] = sum_dC[i * p.n + n]
            _write_state(adjoint, dinitial_state, p, sequence, first, last)
        for tile in range(first, last):
            d = tile * LANES
            width = min(LANES, p.d - d)
            for n in range(p.n):
                q = ((tile - first) * p.n + n) * LANES
                store_first(da, (block * p.n + n) * p.d + d, width, load(sum_da, q) * load(inverse, q))
            if at.D != 0:
                store_first(dD, block * p.d + d, width, load(sum_dD, (tile - first) * LANES))
