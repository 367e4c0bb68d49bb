"""What the scan's and the cascade's kernels are made of: one chunk of steps, one tile of channels at a time.

A *tile* is a vector of neighbouring channels. What is kept per channel and potential lies tile after tile, each as
`[n, lane]`; the lanes are the innermost, explicit dimension of every loop. A tile too narrow for a vector has two
potentials in one.
"""

# pyright: reportCallIssue=false

from __future__ import annotations

import numpy as np
from numba import literal_unroll, njit

from kinn.ops.cpu._functions import expm1_and_slope, expm1_of_log2
from kinn.ops.cpu._vector import (
    add_folded,
    any_below,
    fold,
    load,
    load_first,
    load_rows,
    pairs,
    parts,
    pointer,
    prefetch,
    size,
    smaller,
    splat_each,
    store,
    store_first,
    store_rows,
    sum_each,
    zeros,
)
from kinn.ops.cpu.records import NARROW, TILE, WIDE

LOG2_E = 1.4426950408889634

part = njit(nogil=True)


def kernel(function):
    """Compile an entry point, and keep the code on disk."""
    try:
        return njit(nogil=True, cache=True)(function)
    except RuntimeError:  # no folder that can be written to: compile in every process
        return njit(nogil=True)(function)


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
def kinds_of(like):
    """A zero vector of each kind that tiles are made of."""
    return zeros(like, WIDE), zeros(like, TILE), pairs(like, TILE)


@part
def lanes_of(left, n):
    """How many channels the next tile has when `left` remain: few and wide tiles, but little unused width."""
    return WIDE if left > TILE + NARROW else TILE if left > NARROW or n % 2 else NARROW


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
def approach(at, rows, b, start, stop, like):
    """Ask for the channels `start .. stop` of the steps `rows`, row by row, before tiles read them column by column."""
    source = pointer(at.address, like)
    for row in rows:
        for d in range(start, stop, TILE):
            prefetch(source, b * at.batch + row * at.row + d)


@part
def scan_chunk(kinds, s, at, y, rows, b, kept, start, stop, h, rates, least):
    """Scan the channels `start .. stop` through the steps `rows`; `h` and the smallest `dt` are continued."""
    _, inverse, log2_rate = rates
    d = start
    while d < stop:
        lanes, own = lanes_of(stop - d, s.n), (d - start) * s.n
        for zero in literal_unroll(kinds):
            if size(zero) == lanes:
                _scan_tile(
                    zero, s, at, y, rows, b, kept, d, h[own:], log2_rate[own:], inverse[own:], least[d - start :]
                )
        d += lanes


@part
def _scan_tile(zero, s, at, out, rows, b, kept, d, h, log2_rate, inverse, least):
    x, dt = pointer(at.x.address, h), pointer(at.dt.address, h)
    B, C = pointer(at.B.address, h), pointer(at.C.address, h)
    D, checkpoints, y = pointer(at.D, h), pointer(at.checkpoints, h), pointer(out.address, h)
    lanes = size(zero)
    width = min(lanes, s.d - d)
    skip = load_first(D, d, width, zero) if at.D != 0 else zero
    if at.checkpoints != 0:
        for n in range(0, s.n, parts(zero)):
            store_rows(checkpoints, kept + n * s.d + d, s.d, width, load(h, n * lanes, zero))
    least_dt = load(least, 0, zero)
    for row in rows:
        drive = load_first(x, b * at.x.batch + row * at.x.row + d, width, zero)
        step = load_first(dt, b * at.dt.batch + row * at.dt.row + d, width, zero)
        B_row, C_row = b * at.B.batch + row * at.B.row, b * at.C.batch + row * at.C.row
        least_dt = smaller(step, least_dt)
        readout = zero
        if s.zoh:
            for n in range(0, s.n, parts(zero)):
                q = n * lanes
                hn = load(h, q, zero)
                u = splat_each(zero, B, B_row + n) * drive
                hn = hn + expm1_of_log2(step * load(log2_rate, q, zero)) * (hn - u * load(inverse, q, zero))
                store(h, q, hn)
                readout = readout + splat_each(zero, C, C_row + n) * hn
        else:
            pulse = step * drive
            for n in range(0, s.n, parts(zero)):
                q = n * lanes
                hn = load(h, q, zero)
                hn = hn + expm1_of_log2(step * load(log2_rate, q, zero)) * hn
                hn = hn + splat_each(zero, B, B_row + n) * pulse
                store(h, q, hn)
                readout = readout + splat_each(zero, C, C_row + n) * hn
        readout = fold(readout)
        if at.D != 0:
            readout = readout + skip * drive
        store_first(y, b * out.batch + row * out.row + d, width, readout)
    store(least, 0, least_dt)


@part
def _slow_potentials(zero, s, dt, b, rows, d, rate, slow):
    """Mark, of every vector of potentials, whether a chunk is so short a time for one of them that its rate's gradient
    needs care: the two terms of it that are cheap to form then all but cancel. Rounding leaves them an error of one
    unit over `z sqrt(T)` of the result, with `z` the mean step times the rate and `T` the steps of the sequence.
    """
    lanes = size(zero)
    width, total = min(lanes, s.d - d), zero
    source = pointer(dt.address, rate)
    for row in rows:
        total = total + load_first(source, b * dt.batch + row * dt.row + d, width, zero)
    for n in range(0, s.n, parts(zero)):
        slow[n] = s.zoh and any_below(total * load(rate, n * lanes, zero), rows.size * s.slow, width)


@part
def recompute_tile(zero, s, at, out, rows, b, kept, d, rates, keep):
    """The forward pass over one chunk again; with `h' = h - E v`, `E = expm1(-dt a)`, `v = B x / a - h`.

    Keeps `E`, the states `H` before the first and after every step, and of the potentials that are marked as `slow`
    `J = a dh'/da`. `out` says where `y` goes, if not None.
    """
    E, J, H, slow = keep
    rate, inverse, log2_rate = rates
    x, dt, B, C = (
        pointer(at.x.address, E),
        pointer(at.dt.address, E),
        pointer(at.B.address, E),
        pointer(at.C.address, E),
    )
    D, checkpoints = pointer(at.D, E), pointer(at.checkpoints, E)
    lanes = size(zero)
    width = min(lanes, s.d - d)
    _slow_potentials(zero, s, at.dt, b, rows, d, rate, slow)
    for n in range(0, s.n, parts(zero)):
        store(H, n * lanes, load_rows(checkpoints, kept + n * s.d + d, s.d, width, zero))
    skip = zero
    if out is not None and at.D != 0:
        skip = load_first(D, d, width, zero)
    for i, row in enumerate(rows):
        drive = load_first(x, b * at.x.batch + row * at.x.row + d, width, zero)
        step = load_first(dt, b * at.dt.batch + row * at.dt.row + d, width, zero)
        B_row, C_row = b * at.B.batch + row * at.B.row, b * at.C.batch + row * at.C.row
        readout = zero
        for n in range(0, s.n, parts(zero)):
            q, r = n * lanes, (i * s.n + n) * lanes
            hn = load(H, r, zero)
            u = splat_each(zero, B, B_row + n) * drive
            exponent = step * load(log2_rate, q, zero)
            if s.zoh:
                v = u * load(inverse, q, zero) - hn
                if slow[n]:
                    e, slope = expm1_and_slope(exponent)
                    store(J, r, v * slope + e * hn)
                else:
                    e = expm1_of_log2(exponent)
                hn = hn - e * v
            else:
                e = expm1_of_log2(exponent)
                hn = hn + e * hn + step * u
            store(E, r, e)
            store(H, r + s.n * lanes, hn)
            if out is not None:
                readout = readout + splat_each(zero, C, C_row + n) * hn
        if out is not None:
            readout = fold(readout) + skip * drive
            store_first(pointer(out.address, E), b * out.batch + row * out.row + d, width, readout)


@part
def return_tile(zero, s, at, dy, dx, ddt, rows, b, d, rates, keep, adjoint, sum_da, sum_dD, lane_dB, lane_dC):
    """Back through one chunk with what `recompute_tile` kept; `adjoint` and the sums are continued."""
    E, J, H, slow = keep
    rate, inverse, _ = rates
    x, dt, B, C = (
        pointer(at.x.address, E),
        pointer(at.dt.address, E),
        pointer(at.B.address, E),
        pointer(at.C.address, E),
    )
    given_y, to_x, to_dt = pointer(dy.address, E), pointer(dx.address, E), pointer(ddt.address, E)
    lanes = size(zero)
    width = min(lanes, s.d - d)
    skip = load_first(pointer(at.D, E), d, width, zero) if at.D != 0 else zero
    for i in range(rows.size - 1, -1, -1):
        row = rows[i]
        drive = load_first(x, b * at.x.batch + row * at.x.row + d, width, zero)
        step = load_first(dt, b * at.dt.batch + row * at.dt.row + d, width, zero)
        given = load_first(given_y, b * dy.batch + row * dy.row + d, width, zero)
        B_row, C_row = b * at.B.batch + row * at.B.row, b * at.C.batch + row * at.C.row
        to_drive, to_step = zero, zero
        for n in range(0, s.n, parts(zero)):
            q, r = n * lanes, (i * s.n + n) * lanes
            Bn = splat_each(zero, B, B_row + n)
            u = Bn * drive
            above = load(adjoint, q, zero) + splat_each(zero, C, C_row + n) * given
            lost = above * load(E, r, zero)
            below = above + lost
            store(adjoint, q, below)
            decay = load(rate, q, zero) * load(H, r, zero)
            # sum_da takes a dh'/da times the adjoint: for ZOH above J, and J = dt exp(-dt a) (B x - a h) + E B x / a.
            if s.zoh:
                injected = zero - lost * load(inverse, q, zero)
                moved = below * (u - decay)
                to_step = to_step + moved
                if slow[n]:
                    store(sum_da, q, load(sum_da, q, zero) + above * load(J, r, zero))
                else:
                    store(sum_da, q, load(sum_da, q, zero) + step * moved - injected * u)
            else:
                injected = above * step
                lost = below * decay
                to_step = to_step + (above * u - lost)
                store(sum_da, q, load(sum_da, q, zero) - step * lost)
            to_drive = to_drive + injected * Bn
            add_folded(lane_dB, (i * s.n + n) * TILE, injected * drive, TILE)
            add_folded(lane_dC, (i * s.n + n) * TILE, given * load(H, r + s.n * lanes, zero), TILE)
        to_drive = fold(to_drive)
        if at.D != 0:
            to_drive = to_drive + skip * given
            store(sum_dD, 0, load(sum_dD, 0, zero) + drive * given)
        store_first(to_x, b * dx.batch + row * dx.row + d, width, to_drive)
        store_first(to_dt, b * ddt.batch + row * ddt.row + d, width, fold(to_step))


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
