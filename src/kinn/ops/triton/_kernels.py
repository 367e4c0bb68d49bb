"""Triton kernels of the selective scan.

A program owns a tile of channels of one *segment* of one sequence: a run of chunks, one step after the other. With
one segment per sequence a single pass does it all. With more, a pass from rest finds where each segment ends
(`local_ends`), `carry` joins the ends, and the pass that writes starts every segment from what it was handed. States
and adjoints lie in memory as `(sequences, segments, n, d)`.
"""

# pyright: reportArgumentType=false, reportGeneralTypeIssues=false, reportIndexIssue=false, reportOperatorIssue=false
# pyright: reportPossiblyUnboundVariable=false, reportReturnType=false

from __future__ import annotations

import triton
import triton.language as tl

from kinn.ops.triton._parts import advance, between, expm1_and_slope, expm1_of_log2, load_at, rates_of, row_of

# numbers that only say where a program begins and ends ask for no kernels of their own
GRIDS = ["steps", "length", "lines", "segments", "chunks", "run"]


@triton.jit
def _place(tiles, segments, lines, BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr):
    """This program's tile, segment, sequence, batch element, line, channels and potentials."""
    program = tl.program_id(0)
    tile = program % tiles
    program = program // tiles
    segment, sequence = program % segments, program // segments
    b = sequence // lines
    channels = tile * BLOCK_D + tl.arange(0, BLOCK_D)[None, :]
    potentials = tl.arange(0, BLOCK_N)[:, None]
    return tile, segment, tl.cast(sequence, tl.int64), tl.cast(b, tl.int64), sequence - b * lines, channels, potentials


@triton.jit(do_not_specialize=GRIDS)
def forward(
    x, dt, a, B, C, D, start, y, state, kept,
    x_batch, x_row, dt_batch, dt_row, B_batch, B_row, C_batch, C_row, y_batch, y_row,
    d, n, steps, length, inner, lines, tiles, segments, chunks, run,
    JOINED: tl.constexpr, REVERSE: tl.constexpr, ZOH: tl.constexpr, START: tl.constexpr, KEEP: tl.constexpr,
    SKIP: tl.constexpr, CHUNK: tl.constexpr, PIECE: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr,
    TYPE: tl.constexpr,
):  # fmt: skip
    """`y`, the last `state`, and where asked the state at the start of every chunk, from each segment's `start`."""
    _, segment, sequence, b, line, channels, potentials = _place(tiles, segments, lines, BLOCK_D, BLOCK_N)
    wide, narrow = channels < d, potentials < n
    at = potentials * d + channels
    _, inverse, log2_rate = rates_of(a, channels, potentials, d, n)
    x += b * x_batch
    dt += b * dt_batch
    B += b * B_batch
    C += b * C_batch
    y += b * y_batch
    if SKIP:
        skip = tl.load(D + channels, mask=wide, other=0.0).to(TYPE)
    if START:
        h = tl.load(start + (sequence * segments + segment) * n * d + at, mask=wide & narrow, other=0.0)
    else:
        h = tl.zeros((BLOCK_N, BLOCK_D), TYPE)
    for c in range(segment * run, tl.minimum(segment * run + run, chunks)):
        if KEEP:
            tl.store(kept + (sequence * chunks + c) * n * d + at, h, mask=wide & narrow)
        for t in range(c * CHUNK, tl.minimum(c * CHUNK + CHUNK, steps), PIECE):
            # Unrolled, so that the loads of several steps are under way at a time.
            for i in tl.static_range(PIECE):
                row = row_of(t + i, line, steps, length, inner, JOINED, REVERSE)
                inside = between(t + i, 0, steps)
                here, there = wide & inside, narrow & inside
                drive = load_at(x, row, x_row, channels, here, TYPE)
                step = load_at(dt, row, dt_row, channels, here, TYPE)
                h = advance(h, drive, step, load_at(B, row, B_row, potentials, there, TYPE), inverse, log2_rate, ZOH)
                readout = tl.sum(load_at(C, row, C_row, potentials, there, TYPE) * h, axis=0, keep_dims=True)
                if SKIP:
                    readout += skip * drive
                tl.store(y + row * y_row + channels, readout, mask=here)
    if segment == segments - 1:
        tl.store(state + sequence * n * d + at, h, mask=wide & narrow)


@triton.jit(do_not_specialize=GRIDS)
def local_ends(
    x, dt, a, B, C, dy, ends, total,
    x_batch, x_row, dt_batch, dt_row, B_batch, B_row, C_batch, C_row, dy_batch, dy_row,
    d, n, steps, length, inner, lines, tiles, segments, run,
    JOINED: tl.constexpr, REVERSE: tl.constexpr, ZOH: tl.constexpr, ADJOINT: tl.constexpr, CHUNK: tl.constexpr,
    PIECE: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr, TYPE: tl.constexpr,
):  # fmt: skip
    """Per segment: where it takes a state (or, backwards, an adjoint) that enters as zero, and its `total` of `dt`."""
    _, segment, sequence, b, line, channels, potentials = _place(tiles, segments, lines, BLOCK_D, BLOCK_N)
    wide, narrow = channels < d, potentials < n
    _, inverse, log2_rate = rates_of(a, channels, potentials, d, n)
    x += b * x_batch
    dt += b * dt_batch
    B += b * B_batch
    C += b * C_batch
    dy += b * dy_batch
    h = tl.zeros((BLOCK_N, BLOCK_D), TYPE)
    elapsed = tl.zeros((1, BLOCK_D), TYPE)
    first, last = segment * run * CHUNK, tl.minimum((segment + 1) * run * CHUNK, steps)
    for ahead in range(first, last, PIECE):
        for i in tl.static_range(PIECE):
            if ADJOINT:
                t = last - 1 - (ahead - first + i)
            else:
                t = ahead + i
            inside = between(t, first, last)
            row = row_of(t, line, steps, length, inner, JOINED, REVERSE)
            here, there = wide & inside, narrow & inside
            step = load_at(dt, row, dt_row, channels, here, TYPE)
            elapsed += step
            if ADJOINT:
                given = load_at(dy, row, dy_row, channels, here, TYPE)
                h += load_at(C, row, C_row, potentials, there, TYPE) * given
                h += expm1_of_log2(step * log2_rate) * h
            else:
                drive = load_at(x, row, x_row, channels, here, TYPE)
                h = advance(h, drive, step, load_at(B, row, B_row, potentials, there, TYPE), inverse, log2_rate, ZOH)
    place = sequence * segments + segment
    tl.store(ends + place * n * d + potentials * d + channels, h, mask=wide & narrow)
    tl.store(total + place * d + channels, elapsed, mask=wide)


@triton.jit(do_not_specialize=["segments"])
def carry(
    a, start, ends, total, d, n, tiles, segments, START: tl.constexpr, ADJOINT: tl.constexpr, AHEAD: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr, TYPE: tl.constexpr,
):  # fmt: skip
    """In place: from where each segment ends by itself to what enters it; `start` enters the first one."""
    _, _, sequence, _, _, channels, potentials = _place(tiles, 1, 1, BLOCK_D, BLOCK_N)
    wide, narrow = channels < d, potentials < n
    at = potentials * d + channels
    _, _, log2_rate = rates_of(a, channels, potentials, d, n)
    if START:
        h = tl.load(start + sequence * n * d + at, mask=wide & narrow, other=0.0)
    else:
        h = tl.zeros((BLOCK_N, BLOCK_D), TYPE)
    for first in range(0, segments, AHEAD):
        # Loaded before any is stored, so that their ways through memory overlap.
        for j in tl.static_range(AHEAD):
            if ADJOINT:
                place = sequence * segments + (segments - 1 - first - j)
            else:
                place = sequence * segments + first + j
            there = between(first + j, 0, segments)
            own = tl.load(ends + place * n * d + at, mask=wide & narrow & there, other=0.0)
            elapsed = tl.load(total + place * d + channels, mask=wide & there, other=0.0)
            if j == 0:
                loaded = ((own, elapsed),)
            else:
                loaded = loaded + ((own, elapsed),)  # noqa: RUF005
        for j in tl.static_range(AHEAD):
            if ADJOINT:
                place = sequence * segments + (segments - 1 - first - j)
            else:
                place = sequence * segments + first + j
            there = between(first + j, 0, segments)
            tl.store(ends + place * n * d + at, h, mask=wide & narrow & there)
            h += expm1_of_log2(loaded[j][1] * log2_rate) * h + loaded[j][0]


@triton.jit(do_not_specialize=GRIDS)
def backward(
    dy, x, dt, a, B, C, D, kept, start, dx, ddt, da, dB, dC, dD, dstart,
    dy_batch, dy_row, x_batch, x_row, dt_batch, dt_row, B_batch, B_row, C_batch, C_row, out_batch, to_tile,
    d, n, steps, length, inner, lines, tiles, segments, chunks, run,
    JOINED: tl.constexpr, REVERSE: tl.constexpr, ZOH: tl.constexpr, START: tl.constexpr, SKIP: tl.constexpr,
    CHUNK: tl.constexpr, PIECE: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr, TYPE: tl.constexpr,
):  # fmt: skip
    """Every gradient, from each segment's entering adjoint `start` and the states `kept`; nothing is added in memory.

    Written: `dx`, `ddt` `(b, m, d)`; `dB`, `dC` `(tiles, b, m, n)`; `da` `(sequences, segments, n, d)`; `dD`
    `(sequences, segments, d)`; `dstart` `(sequences, n, d)`. States inside a piece of a chunk are held in registers.
    """
    tile, segment, sequence, b, line, channels, potentials = _place(tiles, segments, lines, BLOCK_D, BLOCK_N)
    wide, narrow = channels < d, potentials < n
    at = potentials * d + channels
    rate, inverse, log2_rate = rates_of(a, channels, potentials, d, n)
    dy += b * dy_batch
    x += b * x_batch
    dt += b * dt_batch
    B += b * B_batch
    C += b * C_batch
    dx += b * out_batch * d
    ddt += b * out_batch * d
    dB += tl.cast(tile, tl.int64) * to_tile + b * out_batch * n
    dC += tl.cast(tile, tl.int64) * to_tile + b * out_batch * n
    place = sequence * segments + segment
    if SKIP:
        skip = tl.load(D + channels, mask=wide, other=0.0).to(TYPE)
    if START:
        below = tl.load(start + place * n * d + at, mask=wide & narrow, other=0.0)
    else:
        below = tl.zeros((BLOCK_N, BLOCK_D), TYPE)
    to_rate = tl.zeros((BLOCK_N, BLOCK_D), TYPE)
    to_skip = tl.zeros((1, BLOCK_D), TYPE)
    pieces: tl.constexpr = CHUNK // PIECE
    first, last = segment * run * pieces, tl.minimum((segment + 1) * run, chunks) * pieces
    for ahead in range(first, last):
        piece = last - 1 - (ahead - first)
        c = piece // pieces
        h = tl.load(kept + (sequence * chunks + c) * n * d + at, mask=wide & narrow, other=0.0)
        for t in range(c * CHUNK, tl.minimum(piece * PIECE, steps), PIECE // 2):
            for i in tl.static_range(PIECE // 2):
                row = row_of(t + i, line, steps, length, inner, JOINED, REVERSE)
                inside = between(t + i, 0, steps)
                here, there = wide & inside, narrow & inside
                drive = load_at(x, row, x_row, channels, here, TYPE)
                step = load_at(dt, row, dt_row, channels, here, TYPE)
                h = advance(h, drive, step, load_at(B, row, B_row, potentials, there, TYPE), inverse, log2_rate, ZOH)
        states = (h,)
        for i in tl.static_range(PIECE):
            t = piece * PIECE + i
            row = row_of(t, line, steps, length, inner, JOINED, REVERSE)
            inside = between(t, 0, steps)
            here, there = wide & inside, narrow & inside
            drive = load_at(x, row, x_row, channels, here, TYPE)
            step = load_at(dt, row, dt_row, channels, here, TYPE)
            h = advance(h, drive, step, load_at(B, row, B_row, potentials, there, TYPE), inverse, log2_rate, ZOH)
            states = states + (h,)  # noqa: RUF005
        for i in tl.static_range(PIECE - 1, -1, -1):
            t = piece * PIECE + i
            row = row_of(t, line, steps, length, inner, JOINED, REVERSE)
            inside = between(t, 0, steps)
            here, there = wide & inside, narrow & inside
            drive = load_at(x, row, x_row, channels, here, TYPE)
            step = load_at(dt, row, dt_row, channels, here, TYPE)
            given = load_at(dy, row, dy_row, channels, here, TYPE)
            Bn = load_at(B, row, B_row, potentials, there, TYPE)
            Cn = load_at(C, row, C_row, potentials, there, TYPE)
            before, u = states[i], Bn * drive
            e, slope = expm1_and_slope(step * log2_rate)
            above = below + Cn * given
            lost = above * e
            below = above + lost
            # to_rate sums a dh'/da times the adjoint: without a, which may be tiny, in a denominator.
            if ZOH:
                to_rate += above * ((u * inverse - before) * slope + e * before)
                injected = -lost * inverse
                to_step = tl.sum(below * (u - rate * before), axis=0, keep_dims=True)
            else:
                decay = rate * before
                to_rate -= above * (step * (decay + e * decay))
                injected = above * step
                to_step = tl.sum(above * u - below * decay, axis=0, keep_dims=True)
            to_drive = tl.sum(injected * Bn, axis=0, keep_dims=True)
            if SKIP:
                to_drive += skip * given
                to_skip += drive * given
            tl.store(dx + row * d + channels, to_drive, mask=here)
            tl.store(ddt + row * d + channels, to_step, mask=here)
            to_B = tl.sum(injected * drive, axis=1, keep_dims=True)
            to_C = tl.sum(states[i + 1] * given, axis=1, keep_dims=True)
            tl.store(dB + row * n + potentials, to_B, mask=there)
            tl.store(dC + row * n + potentials, to_C, mask=there)
    tl.store(da + place * n * d + at, to_rate * inverse, mask=wide & narrow)
    if SKIP:
        tl.store(dD + place * d + channels, to_skip, mask=wide)
    if segment == 0:
        tl.store(dstart + sequence * n * d + at, below, mask=wide & narrow)
