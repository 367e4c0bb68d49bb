"""Numba kernels of the selective scan. Sequential, nogil; `cpu.py` splits the work and hands out memory.

A kernel works on *items*: item `i` is block `i // groups` of consecutive sequences and group `i % groups` of the
channels. Within an item time advances in short chunks that stay in the near caches, and the channels are cut into
*tiles*, one vector each: chunk, then tile, then step, then potential, with the lanes as the innermost, explicit
dimension. What is kept per channel and potential lies tile after tile, each as `[n, lane]`.
"""

# pyright: reportCallIssue=false

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import literal_unroll, njit

from kinn.ops._vector import (
    add_folded,
    expm1_and_slope,
    expm1_of_log2,
    load,
    load_first,
    pointer,
    size,
    smaller,
    splat,
    store,
    store_first,
    sum_each,
    zeros,
)

# The disk cache looks at this file alone; with this line it also sees a change of what the kernels inline.
VECTOR_SHA256 = "e2636a3d933b5eb6"
LOG2_E = 1.4426950408889634
WIDE, TILE, NARROW = 32, 16, 8  # lanes of a tile; wide ones share the loads of B and C, narrow ones end a row


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
    """Sequences per batch element, and positions in each."""
    if p.joined:
        return 1, p.outer * p.length * p.inner
    return p.outer * p.inner, p.length


@_compiled
def _channels(p, group):
    """The channels `start .. stop` of a group."""
    tiles = (p.d + TILE - 1) // TILE
    return tiles * group // p.groups * TILE, min(tiles * (group + 1) // p.groups * TILE, p.d)


@_compiled
def _lanes(left):
    """How many lanes the next tile has when `left` channels remain: few and wide tiles, but little unused width."""
    return WIDE if left > TILE + NARROW else TILE if left > NARROW else NARROW


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
def _rates(a, p, start, stop, like):
    """Tile after tile, `a`, `1/a`, `-a log2(e)` as `[n, lane]`, and the smallest `a`."""
    room = (stop - start + WIDE) * p.n
    rate, inverse, log2_rate = _scratch(room, like), _scratch(room, like), _scratch(room, like)
    least = 0.0
    d = start
    while d < stop:
        lanes = _lanes(stop - d)
        for n in range(p.n):
            for j in range(lanes):
                value = a[(d + j) * p.n + n] if d + j < stop else 1.0
                least = min(least, value)
                # Floored so that 1/a is finite: below the floor a step cannot be told from one without decay.
                value = max(value, p.floor) if value == value else value
                i = (d - start) * p.n + n * lanes + j
                rate[i], inverse[i], log2_rate[i] = value, 1.0 / value, -value * LOG2_E
        d += lanes
    return rate, inverse, log2_rate, least


@_compiled
def _move_state(h, memory, p, sequence, start, stop, write):
    """Tiles of `[n, lane]` in `h` to, or from, `(s, d, n)` in memory."""
    d = start
    while d < stop:
        lanes = _lanes(stop - d)
        for j in range(min(lanes, stop - d)):
            for n in range(p.n):
                own, other = (d - start) * p.n + n * lanes + j, (sequence * p.d + d + j) * p.n + n
                if write:
                    memory[other] = h[own]
                else:
                    h[own] = memory[other]
        d += lanes


@_compiled
def forward(p, at, out, begin, end, least):
    """Scan items `begin .. end`; `least` receives, per item, the smallest `dt` and the smallest `a` (0 if positive)."""
    a, initial_state = pointer(at.a, least), pointer(at.initial_state, least)
    state = pointer(out.state, least)
    lines, steps = _extent(p)
    sequences, chunks = p.batch * lines, (steps + p.chunk - 1) // p.chunk
    rows = np.empty(p.chunk, np.int64)
    kinds = zeros(least, WIDE), zeros(least, TILE), zeros(least, NARROW)
    for item in range(begin, end):
        block, group = item // p.groups, item % p.groups
        start, stop = _channels(p, group)
        _, inverse, log2_rate, least_a = _rates(a, p, start, stop, least)
        h = _scratch(inverse.size, least)
        least_dt = np.zeros(stop - start + WIDE, least.dtype)
        for sequence in range(sequences * block // p.blocks, sequences * (block + 1) // p.blocks):
            b = sequence // lines
            h[:] = 0
            if at.initial_state != 0:
                _move_state(h, initial_state, p, sequence, start, stop, False)
            for c in range(chunks):
                count = min(p.chunk, steps - c * p.chunk)
                _fill_rows(rows, p, sequence - b * lines, steps, c * p.chunk, count)
                kept = (sequence * chunks + c) * p.n * p.d
                d = start
                while d < stop:
                    lanes, own = _lanes(stop - d), (d - start) * p.n
                    for zero in literal_unroll(kinds):
                        if size(zero) == lanes:
                            _forward_tile(
                                zero, p, at, out, rows[:count], b, kept, d,
                                h[own:], log2_rate[own:], inverse[own:], least_dt[d - start :],
                            )  # fmt: skip
                    d += lanes
            _move_state(h, state, p, sequence, start, stop, True)
        least[item, 0] = least_dt.min()
        least[item, 1] = least_a


@_compiled
def _forward_tile(zero, p, at, out, rows, b, kept, d, h, log2_rate, inverse, least):
    """Scan the channels `d ..` of one tile through the steps of one chunk; `h`, `least` are continued."""
    x, dt = pointer(at.x.address, h), pointer(at.dt.address, h)
    B, C = pointer(at.B.address, h), pointer(at.C.address, h)
    D, checkpoints, y = pointer(at.D, h), pointer(at.checkpoints, h), pointer(out.y, h)
    lanes = size(zero)
    width = min(lanes, p.d - d)
    skip = load_first(D, d, width, zero) if at.D != 0 else zero
    if at.checkpoints != 0:
        for n in range(p.n):
            store_first(checkpoints, kept + n * p.d + d, width, load(h, n * lanes, zero))
    least_dt = load(least, 0, zero)
    for row in rows:
        drive = load_first(x, b * at.x.batch + row * at.x.row + d, width, zero)
        step = load_first(dt, b * at.dt.batch + row * at.dt.row + d, width, zero)
        B_row, C_row = b * at.B.batch + row * at.B.row, b * at.C.batch + row * at.C.row
        least_dt = smaller(step, least_dt)
        readout = zero
        if at.D != 0:
            readout = skip * drive
        if p.zoh:
            for n in range(p.n):
                q = n * lanes
                hn = load(h, q, zero)
                u = splat(zero, B[B_row + n]) * drive
                hn = hn + expm1_of_log2(step * load(log2_rate, q, zero)) * (hn - u * load(inverse, q, zero))
                store(h, q, hn)
                readout = readout + splat(zero, C[C_row + n]) * hn
        else:
            pulse = step * drive
            for n in range(p.n):
                q = n * lanes
                hn = load(h, q, zero)
                hn = hn + expm1_of_log2(step * load(log2_rate, q, zero)) * hn
                hn = hn + splat(zero, B[B_row + n]) * pulse
                store(h, q, hn)
                readout = readout + splat(zero, C[C_row + n]) * hn
        store_first(y, (b * p.outer * p.length * p.inner + row) * p.d + d, width, readout)
    store(least, 0, least_dt)


@_compiled
def backward(p, at, out, begin, end, like):
    """Gradients of items `begin .. end`; `like` is any array of the element type.

    With `h' = h - E v`, `E = expm1(-dt a)`, `v = B x / a - h`: the first pass over a chunk recomputes the states and
    keeps `E`, `K = dh'/d(dt) exp(dt a) = a v` and `J = a dh'/da`, the second runs back through them.
    """
    a = pointer(at.a, like)
    dstate, dinitial_state = pointer(out.dstate, like), pointer(out.dinitial_state, like)
    da, dB, dC, dD = pointer(out.da, like), pointer(out.dB, like), pointer(out.dC, like), pointer(out.dD, like)
    lines, steps = _extent(p)
    positions = p.outer * p.length * p.inner
    sequences, chunks = p.batch * lines, (steps + p.chunk - 1) // p.chunk
    rows = np.empty(p.chunk, np.int64)
    kinds = zeros(like, WIDE), zeros(like, TILE), zeros(like, NARROW)
    # Padded to whole groups of TILE vectors, which are summed over lanes together.
    most = (p.chunk * p.n + TILE - 1) // TILE * TILE * TILE
    lane_dB, lane_dC = _scratch(most, like), _scratch(most, like)
    sum_dB, sum_dC = np.empty(most // TILE, like.dtype), np.empty(most // TILE, like.dtype)
    most = p.chunk * p.n * WIDE
    keep = (_scratch(most, like), _scratch(most, like), _scratch(most, like), _scratch(p.n * WIDE, like))
    for item in range(begin, end):
        block, group = item // p.groups, item % p.groups
        start, stop = _channels(p, group)
        rate, inverse, log2_rate, _ = _rates(a, p, start, stop, like)
        adjoint, sum_da = _scratch(rate.size, like), _scratch(rate.size, like)
        sum_da[:] = 0
        sum_dD = np.zeros(stop - start + WIDE, like.dtype)
        for sequence in range(sequences * block // p.blocks, sequences * (block + 1) // p.blocks):
            b = sequence // lines
            adjoint[:] = 0
            if out.dstate != 0:
                _move_state(adjoint, dstate, p, sequence, start, stop, False)
            for c in range(chunks - 1, -1, -1):
                count = min(p.chunk, steps - c * p.chunk)
                _fill_rows(rows, p, sequence - b * lines, steps, c * p.chunk, count)
                kept = (sequence * chunks + c) * p.n * p.d
                lane_dB[:] = 0
                lane_dC[:] = 0
                d = start
                while d < stop:
                    lanes, own = _lanes(stop - d), (d - start) * p.n
                    for zero in literal_unroll(kinds):
                        if size(zero) == lanes:
                            _backward_tile(
                                zero, p, at, out, rows[:count], b, kept, d,
                                (rate[own:], inverse[own:], log2_rate[own:]), keep,
                                adjoint[own:], sum_da[own:], sum_dD[d - start :], lane_dB, lane_dC,
                            )  # fmt: skip
                    d += lanes
                for q in range(0, (count * p.n + TILE - 1) // TILE * TILE, TILE):
                    store(sum_dB, q, sum_each(lane_dB, q * TILE, kinds[1]))
                    store(sum_dC, q, sum_each(lane_dC, q * TILE, kinds[1]))
                for i in range(count):
                    i_out = ((group * p.batch + b) * positions + rows[i]) * p.n
                    for n in range(p.n):
                        dB[i_out + n] = sum_dB[i * p.n + n]
                        dC[i_out + n] = sum_dC[i * p.n + n]
            _move_state(adjoint, dinitial_state, p, sequence, start, stop, True)
        d = start
        while d < stop:
            lanes = _lanes(stop - d)
            for j in range(min(lanes, stop - d)):
                for n in range(p.n):
                    q = (d - start) * p.n + n * lanes + j
                    da[(block * p.n + n) * p.d + d + j] = sum_da[q] * inverse[q]
                if at.D != 0:
                    dD[block * p.d + d + j] = sum_dD[d - start + j]
            d += lanes


@_compiled
def _backward_tile(zero, p, at, out, rows, b, kept, d, rates, keep, adjoint, sum_da, sum_dD, lane_dB, lane_dC):
    """Both passes over one chunk for the channels `d ..` of one tile; all arrays but `rates` are continued."""
    x, dt, dy = pointer(at.x.address, adjoint), pointer(at.dt.address, adjoint), pointer(out.dy.address, adjoint)
    B, C = pointer(at.B.address, adjoint), pointer(at.C.address, adjoint)
    D, checkpoints = pointer(at.D, adjoint), pointer(at.checkpoints, adjoint)
    dx, ddt = pointer(out.dx, adjoint), pointer(out.ddt, adjoint)
    rate, inverse, log2_rate = rates
    E, K, J, h = keep
    lanes = size(zero)
    width = min(lanes, p.d - d)
    for n in range(p.n):
        store(h, n * lanes, load_first(checkpoints, kept + n * p.d + d, width, zero))
    for i, row in enumerate(rows):
        drive = load_first(x, b * at.x.batch + row * at.x.row + d, width, zero)
        step = load_first(dt, b * at.dt.batch + row * at.dt.row + d, width, zero)
        given = load_first(dy, b * out.dy.batch + row * out.dy.row + d, width, zero)
        B_row = b * at.B.batch + row * at.B.row
        for n in range(p.n):
            q, r = n * lanes, (i * p.n + n) * lanes
            hn = load(h, q, zero)
            u = splat(zero, B[B_row + n]) * drive
            e, slope = expm1_and_slope(step * load(log2_rate, q, zero))
            store(E, r, e)
            if p.zoh:
                v = u * load(inverse, q, zero) - hn
                store(J, r, v * slope + e * hn)
                store(K, r, load(rate, q, zero) * v)
                hn = hn - e * v
            else:
                decay = load(rate, q, zero) * hn
                store(J, r, zero - step * (decay + e * decay))
                store(K, r, zero - decay)
                hn = hn + e * hn + step * u
            store(h, q, hn)
            add_folded(lane_dC, (i * p.n + n) * TILE, given * hn, TILE)
    skip = load_first(D, d, width, zero) if at.D != 0 else zero
    for i in range(rows.size - 1, -1, -1):
        row = rows[i]
        drive = load_first(x, b * at.x.batch + row * at.x.row + d, width, zero)
        step = load_first(dt, b * at.dt.batch + row * at.dt.row + d, width, zero)
        given = load_first(dy, b * out.dy.batch + row * out.dy.row + d, width, zero)
        B_row, C_row = b * at.B.batch + row * at.B.row, b * at.C.batch + row * at.C.row
        to_drive, to_step = zero, zero
        for n in range(p.n):
            q, r = n * lanes, (i * p.n + n) * lanes
            Bn = splat(zero, B[B_row + n])
            above = load(adjoint, q, zero) + splat(zero, C[C_row + n]) * given
            store(sum_da, q, load(sum_da, q, zero) + above * load(J, r, zero))
            lost = above * load(E, r, zero)
            below = above + lost
            store(adjoint, q, below)
            to_step = to_step + below * load(K, r, zero)
            if p.zoh:
                injected = zero - lost * load(inverse, q, zero)
            else:
                injected = above * step
                to_step = to_step + above * (Bn * drive)
            to_drive = to_drive + injected * Bn
            add_folded(lane_dB, (i * p.n + n) * TILE, injected * drive, TILE)
        if at.D != 0:
            to_drive = to_drive + skip * given
            store(sum_dD, 0, load(sum_dD, 0, zero) + drive * given)
        i_out = (b * p.outer * p.length * p.inner + row) * p.d + d
        store_first(dx, i_out, width, to_drive)
        store_first(ddt, i_out, width, to_step)
