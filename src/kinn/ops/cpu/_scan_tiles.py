"""One chunk of steps of one tile of channels: the scan, the scan again, and the way back."""

# pyright: reportCallIssue=false

from __future__ import annotations

from kinn.ops.cpu._functions import expm1_and_slope, expm1_of_log2
from kinn.ops.cpu._partial import load_first, load_rows, store_first, store_rows
from kinn.ops.cpu._tiles import part
from kinn.ops.cpu._vector import (
    add_folded,
    any_below,
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
def approach(source, at, b, row, d, lanes, like):
    """Ask for a tile of one step: columns of a grid are not what the machine foresees."""
    for j in range(d, d + lanes, 64 // like.itemsize):
        prefetch(source, b * at.batch + row * at.row + j)


@part
def scan_tile(zero, s, at, out, rows, b, kept, d, h, log2_rate, inverse, least, ahead, b_ahead, d_ahead):
    """Scan a tile through the steps `rows`; `h` and the smallest `dt` are continued.

    The tile at `d_ahead` of the steps `ahead`, if those are not None, is asked for meanwhile.
    """
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
    for i, row in enumerate(rows):
        if ahead is not None and i < ahead.size:
            approach(x, at.x, b_ahead, ahead[i], d_ahead, lanes, h)
            approach(dt, at.dt, b_ahead, ahead[i], d_ahead, lanes, h)
            approach(y, out, b_ahead, ahead[i], d_ahead, lanes, h)
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
def recompute_tile(zero, s, at, out, rows, b, kept, d, rates, keep, ahead, b_ahead, d_ahead):
    """The forward pass over one chunk again; with `h' = h - E v`, `E = expm1(-dt a)`, `v = B x / a - h`.

    Keeps `E`, the states `H` before the first and after every step, and of the potentials that are marked as `slow`
    `J = a dh'/da`. `out` says where `y` goes, if not None; `ahead` what to ask for meanwhile.
    """
    E, J, H, slow = keep
    rate, inverse, log2_rate = rates
    x, dt = pointer(at.x.address, E), pointer(at.dt.address, E)
    B, C = pointer(at.B.address, E), pointer(at.C.address, E)
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
        if ahead is not None and i < ahead.size:
            approach(x, at.x, b_ahead, ahead[i], d_ahead, lanes, E)
            approach(dt, at.dt, b_ahead, ahead[i], d_ahead, lanes, E)
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
def return_tile(
    zero,
    s,
    at,
    dy,
    dx,
    ddt,
    rows,
    b,
    d,
    rates,
    keep,
    adjoint,
    sum_da,
    sum_dD,
    lane_dB,
    lane_dC,
    ahead,
    b_ahead,
    d_ahead,
):
    """Back through one chunk with what `recompute_tile` kept; `adjoint` and the sums are continued."""
    E, J, H, slow = keep
    rate, inverse, _ = rates
    x, dt = pointer(at.x.address, E), pointer(at.dt.address, E)
    B, C = pointer(at.B.address, E), pointer(at.C.address, E)
    given_y, to_x, to_dt = pointer(dy.address, E), pointer(dx.address, E), pointer(ddt.address, E)
    lanes = size(zero)
    width = min(lanes, s.d - d)
    skip = load_first(pointer(at.D, E), d, width, zero) if at.D != 0 else zero
    to_skip = zero  # summed by chunks first: a long sum in single precision loses digits
    for i in range(rows.size - 1, -1, -1):
        row = rows[i]
        if ahead is not None and i < ahead.size:
            approach(given_y, dy, b_ahead, ahead[i], d_ahead, lanes, E)
            approach(to_x, dx, b_ahead, ahead[i], d_ahead, lanes, E)
            approach(to_dt, ddt, b_ahead, ahead[i], d_ahead, lanes, E)
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
            to_skip = to_skip + drive * given
        store_first(to_x, b * dx.batch + row * dx.row + d, width, to_drive)
        store_first(to_dt, b * ddt.batch + row * ddt.row + d, width, fold(to_step))
    if at.D != 0:
        store(sum_dD, 0, load(sum_dD, 0, zero) + to_skip)
