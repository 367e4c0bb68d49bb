"""One chunk of steps of a band of tiles: the scan, the scan again, and the way back.

A *band* is one or more tiles of one kind, side by side; a step is taken for all of them before the next one. Where a
channel has few potentials a band spans whole rows, if it can: what runs through memory without a gap the machine
foresees by itself.
"""

# pyright: reportCallIssue=false

from __future__ import annotations

from kinn.ops.cpu._functions import expm1_and_slope, expm1_of_log2
from kinn.ops.cpu._partial import load_first, load_rows, store_first, store_rows
from kinn.ops.cpu._tiles import part
from kinn.ops.cpu._vector import (
    add_folded,
    any_below,
    element,
    fold,
    load,
    parts,
    pointer,
    prefetch,
    size,
    smaller,
    splat_each,
    store,
)
from kinn.ops.cpu.records import TILE


@part
def _count(tiles):
    """The tiles of a band; None is one, and known when the kernel is compiled."""
    return 1 if tiles is None else tiles


@part
def _upwards(rows):
    """Whether steps go on to higher addresses: tiles are taken in that order, too."""
    return rows.size < 2 or rows[1] > rows[0]


@part
def _where(at, b, row, d):
    """Where a step's `x` and `dt` begin at channel `d`, and its `B` and `C`."""
    x, dt, B, C = at.x, at.dt, at.B, at.C
    x_row, dt_row = b * x.batch + row * x.row + d, b * dt.batch + row * dt.row + d
    return x_row, dt_row, b * B.batch + row * B.row, b * C.batch + row * C.row


@part
def _ask(ahead, i, d, tiles, zero, like):
    """Ask for what the next chunk's step `i` reads and writes: columns of a grid are not what the machine foresees."""
    grids, rows, count, b = ahead
    if i < count:
        row = element(rows, i)
        for grid in grids:
            first = b * grid.batch + row * grid.row + d
            for t in range(tiles):
                prefetch(pointer(grid.address, like), first + t * size(zero), zero)


@part
def scan_band(zero, s, at, out, rows, b, kept, d, tiles, h, log2_rate, inverse, least, ahead):
    """Scan `tiles` tiles from channel `d` on, one if None, through the steps `rows`; `h` and the least `dt` go on.

    `ahead`, if not None, is asked for meanwhile: the grids that the next chunk reads and writes, a pointer to its grid
    indices (an array would be counted as in use at every step), how many they are, and its batch element.
    """
    x, dt = pointer(at.x.address, h), pointer(at.dt.address, h)
    B, C = pointer(at.B.address, h), pointer(at.C.address, h)
    D, checkpoints, y = pointer(at.D, h), pointer(at.checkpoints, h), pointer(out.address, h)
    lanes, tiles = size(zero), _count(tiles)
    if at.checkpoints != 0:
        for t in range(tiles):
            width = min(lanes, s.d - d - t * lanes)
            for n in range(0, s.n, parts(zero)):
                hn = load(h, (t * s.n + n) * lanes, zero)
                store_rows(checkpoints, kept + n * s.d + d + t * lanes, s.d, width, hn)
    up = _upwards(rows)
    for i, row in enumerate(rows):
        if ahead is not None:
            _ask(ahead, i, d, tiles, zero, h)
        x_row, dt_row, B_row, C_row = _where(at, b, row, d)
        y_row = b * out.batch + row * out.row + d
        for turn in range(tiles):
            t = turn if up else tiles - 1 - turn
            first, own = t * lanes, t * lanes * s.n
            width = min(lanes, s.d - d - first)
            drive, step = load_first(x, x_row + first, width, zero), load_first(dt, dt_row + first, width, zero)
            store(least, first, smaller(step, load(least, first, zero)))
            readout = zero
            if s.zoh:
                for n in range(0, s.n, parts(zero)):
                    q = own + n * lanes
                    hn = load(h, q, zero)
                    u = splat_each(zero, B, B_row + n) * drive
                    hn = hn + expm1_of_log2(step * load(log2_rate, q, zero)) * (hn - u * load(inverse, q, zero))
                    store(h, q, hn)
                    readout = readout + splat_each(zero, C, C_row + n) * hn
            else:
                pulse = step * drive
                for n in range(0, s.n, parts(zero)):
                    q = own + n * lanes
                    hn = load(h, q, zero)
                    hn = hn + expm1_of_log2(step * load(log2_rate, q, zero)) * hn
                    hn = hn + splat_each(zero, B, B_row + n) * pulse
                    store(h, q, hn)
                    readout = readout + splat_each(zero, C, C_row + n) * hn
            readout = fold(readout)
            if at.D != 0:
                readout = readout + load_first(D, d + first, width, zero) * drive
            store_first(y, y_row + first, width, readout)


@part
def _slow_potentials(zero, s, dt, b, rows, d, tiles, rate, room, slow):
    """Mark, of every vector of potentials, whether a chunk is so short a time for one of them that its rate's gradient
    needs care: the two terms of it that are cheap to form then all but cancel. Rounding leaves them an error of one
    unit over `z sqrt(T)` of the result, with `z` the mean step times the rate and `T` the steps of the sequence.
    `room` is for the sums of steps.
    """
    lanes = size(zero)
    source = pointer(dt.address, rate)
    for t in range(tiles):
        store(room, t * lanes, zero)
    for row in rows:
        dt_row = b * dt.batch + row * dt.row + d
        for first in range(0, tiles * lanes, lanes):
            step = load_first(source, dt_row + first, min(lanes, s.d - d - first), zero)
            store(room, first, load(room, first, zero) + step)
    for t in range(tiles):
        total, width = load(room, t * lanes, zero), min(lanes, s.d - d - t * lanes)
        for n in range(0, s.n, parts(zero)):
            slow[t * s.n + n] = any_below(total * load(rate, (t * s.n + n) * lanes, zero), rows.size * s.slow, width)


@part
def recompute_band(zero, s, at, out, rows, b, kept, d, tiles, rates, keep, ahead):
    """The forward pass over one chunk again; with `h' = h - E v`, `E = expm1(-dt a)`, `v = B x / a - h`.

    Keeps `E`, the states `H` before the first and after every step, and of the potentials that are marked as `slow`
    `J = a dh'/da`; `room` takes a number per channel. `out` says where `y` goes, if not None; `ahead` what to ask for.
    """
    E, J, H, slow, room = keep
    rate, inverse, log2_rate = rates
    x, dt = pointer(at.x.address, E), pointer(at.dt.address, E)
    B, C = pointer(at.B.address, E), pointer(at.C.address, E)
    D, checkpoints = pointer(at.D, E), pointer(at.checkpoints, E)
    lanes, tiles = size(zero), _count(tiles)
    whole = tiles * s.n * lanes  # numbers that are kept of a step
    if s.zoh:
        _slow_potentials(zero, s, at.dt, b, rows, d, tiles, rate, room, slow)
    for t in range(tiles):
        width = min(lanes, s.d - d - t * lanes)
        for n in range(0, s.n, parts(zero)):
            hn = load_rows(checkpoints, kept + n * s.d + d + t * lanes, s.d, width, zero)
            store(H, (t * s.n + n) * lanes, hn)
    up = _upwards(rows)
    for i, row in enumerate(rows):
        if ahead is not None:
            _ask(ahead, i, d, tiles, zero, E)
        x_row, dt_row, B_row, C_row = _where(at, b, row, d)
        for turn in range(tiles):
            t = turn if up else tiles - 1 - turn
            first, own = t * lanes, t * lanes * s.n
            width = min(lanes, s.d - d - first)
            drive, step = load_first(x, x_row + first, width, zero), load_first(dt, dt_row + first, width, zero)
            readout = zero
            if s.zoh:
                for n in range(0, s.n, parts(zero)):
                    q = own + n * lanes
                    r = i * whole + q
                    hn, exponent = load(H, r, zero), step * load(log2_rate, q, zero)
                    v = splat_each(zero, B, B_row + n) * drive * load(inverse, q, zero) - hn
                    if slow[t * s.n + n]:
                        e, slope = expm1_and_slope(exponent)
                        store(J, r, v * slope + e * hn)
                    else:
                        e = expm1_of_log2(exponent)
                    hn = hn - e * v
                    store(E, r, e)
                    store(H, r + whole, hn)
                    if out is not None:
                        readout = readout + splat_each(zero, C, C_row + n) * hn
            else:
                pulse = step * drive
                for n in range(0, s.n, parts(zero)):
                    q = own + n * lanes
                    r = i * whole + q
                    hn, e = load(H, r, zero), expm1_of_log2(step * load(log2_rate, q, zero))
                    hn = hn + e * hn + splat_each(zero, B, B_row + n) * pulse
                    store(E, r, e)
                    store(H, r + whole, hn)
                    if out is not None:
                        readout = readout + splat_each(zero, C, C_row + n) * hn
            if out is not None:
                readout = fold(readout)
                if at.D != 0:
                    readout = readout + load_first(D, d + first, width, zero) * drive
                store_first(pointer(out.address, E), b * out.batch + row * out.row + d + first, width, readout)


@part
def return_band(
    zero, s, at, dy, dx, ddt, rows, b, d, tiles, rates, keep, adjoint, sums, ahead
):  # fmt: skip
    """Back through one chunk with what `recompute_band` kept; `adjoint` and the sums are continued."""
    E, J, H, slow, to_skip = keep
    sum_da, sum_dD, lane_dB, lane_dC = sums
    rate, inverse, _ = rates
    x, dt = pointer(at.x.address, E), pointer(at.dt.address, E)
    B, C, D = pointer(at.B.address, E), pointer(at.C.address, E), pointer(at.D, E)
    given_y, to_x, to_dt = pointer(dy.address, E), pointer(dx.address, E), pointer(ddt.address, E)
    lanes, tiles = size(zero), _count(tiles)
    whole = tiles * s.n * lanes
    for t in range(tiles):  # the skips' gradient by chunks first: a long sum in single precision loses digits
        store(to_skip, t * lanes, zero)
    up = not _upwards(rows)
    for i in range(rows.size - 1, -1, -1):
        row = rows[i]
        if ahead is not None:
            _ask(ahead, i, d, tiles, zero, E)
        x_row, dt_row, B_row, C_row = _where(at, b, row, d)
        dy_row, dx_row = b * dy.batch + row * dy.row + d, b * dx.batch + row * dx.row + d
        ddt_row = b * ddt.batch + row * ddt.row + d
        for turn in range(tiles):
            t = turn if up else tiles - 1 - turn
            first, own = t * lanes, t * lanes * s.n
            width = min(lanes, s.d - d - first)
            drive, step = load_first(x, x_row + first, width, zero), load_first(dt, dt_row + first, width, zero)
            given = load_first(given_y, dy_row + first, width, zero)
            to_drive, to_step = zero, zero
            if s.zoh:
                for n in range(0, s.n, parts(zero)):
                    q = own + n * lanes
                    r = i * whole + q
                    Bn = splat_each(zero, B, B_row + n)
                    u, after = Bn * drive, load(H, r + whole, zero)
                    above = load(adjoint, q, zero) + splat_each(zero, C, C_row + n) * given
                    lost = above * load(E, r, zero)
                    below = above + lost
                    store(adjoint, q, below)
                    injected = zero - lost * load(inverse, q, zero)
                    moved = below * (u - load(rate, q, zero) * load(H, r, zero))
                    to_step = to_step + moved
                    # a dh'/da times the adjoint: above J, and J = dt exp(-dt a) (B x - a h) + E B x / a
                    if slow[t * s.n + n]:
                        store(sum_da, q, load(sum_da, q, zero) + above * load(J, r, zero))
                    else:
                        store(sum_da, q, load(sum_da, q, zero) + step * moved - injected * u)
                    to_drive = to_drive + injected * Bn
                    add_folded(lane_dB, (i * s.n + n) * TILE, injected * drive, TILE)
                    add_folded(lane_dC, (i * s.n + n) * TILE, given * after, TILE)
            else:
                for n in range(0, s.n, parts(zero)):
                    q = own + n * lanes
                    r = i * whole + q
                    Bn, after = splat_each(zero, B, B_row + n), load(H, r + whole, zero)
                    above = load(adjoint, q, zero) + splat_each(zero, C, C_row + n) * given
                    below = above + above * load(E, r, zero)
                    store(adjoint, q, below)
                    injected = above * step
                    lost = below * (load(rate, q, zero) * load(H, r, zero))
                    to_step = to_step + (above * (Bn * drive) - lost)
                    store(sum_da, q, load(sum_da, q, zero) - step * lost)
                    to_drive = to_drive + injected * Bn
                    add_folded(lane_dB, (i * s.n + n) * TILE, injected * drive, TILE)
                    add_folded(lane_dC, (i * s.n + n) * TILE, given * after, TILE)
            to_drive = fold(to_drive)
            if at.D != 0:
                to_drive = to_drive + load_first(D, d + first, width, zero) * given
                store(to_skip, first, load(to_skip, first, zero) + drive * given)
            store_first(to_x, dx_row + first, width, to_drive)
            store_first(to_dt, ddt_row + first, width, fold(to_step))
    if at.D != 0:
        for first in range(0, tiles * lanes, lanes):
            store(sum_dD, first, load(sum_dD, first, zero) + load(to_skip, first, zero))
