"""Triton kernels of the cascade: every cell of a route, from its parameters to the sum of the cells' outputs.

A program takes sequences of one route, one after the other, tile of time by tile of time through every cell. Between
cells a tile stays in registers. States are kept every few tiles, a *chunk*; the backward goes through a chunk once to
find the states and drives at its tiles, then back through the tiles. Each program sums the gradients of the parameters
in registers and writes them once.
"""

# pyright: reportArgumentType=false, reportGeneralTypeIssues=false, reportIndexIssue=false, reportOperatorIssue=false
# pyright: reportPossiblyUnboundVariable=false, reportReturnType=false, reportAttributeAccessIssue=false

from __future__ import annotations

import triton
import triton.language as tl

from kinn.ops.triton._cascade_cells import LARGEST_DRIVE, form, held, return_cell, scan
from kinn.ops.triton._cascade_parts import chunks_before, route_of
from kinn.ops.triton._parts import row_of

# numbers that only say where a program begins and ends ask for no kernels of their own
GRIDS = ["codes", "g0", "g1", "g2", "batch", "stride"]


@triton.jit
def _rows(t, line, steps, length, inner, reverse, JOINED: tl.constexpr):
    return row_of(tl.where(reverse != 0, steps - 1 - t, t), line, steps, length, inner, JOINED, False)


@triton.jit(do_not_specialize=GRIDS)
def forward(
    x, projection, lift, bias, a, D, y, kept,
    x_batch, x_row, plane, codes, g0, g1, g2, batch, stride, d, n, rank, scale, scale_rest,
    ROUTES: tl.constexpr, CELLS: tl.constexpr, JOINED: tl.constexpr, SERIES: tl.constexpr, ZOH: tl.constexpr,
    KEEP: tl.constexpr, TIME: tl.constexpr, TILES: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCKS: tl.constexpr, BLOCK_R: tl.constexpr, PRODUCTS: tl.constexpr, TYPE: tl.constexpr,
):  # fmt: skip
    """`y` `(routes, b, m, d)`, and where asked the cells' states at the start of every chunk.

    `kept` is `(chunks, cells, n, d)`, the chunks of a route's sequences one after the other, route after route.
    """
    program = tl.program_id(0)
    route = program % ROUTES
    steps, lines, length, inner, reverse = route_of(codes, route, g0, g1, g2, JOINED)
    channels = tl.arange(0, BLOCK_D)[None, :]
    potentials = tl.arange(0, BLOCKS)[:, None, None] * BLOCK_N + tl.arange(0, BLOCK_N)[None, :, None]
    at, stored = potentials * d + channels[None, :, :], (potentials < n) & (channels < d)[None, :, :]
    tiles = (steps + TIME - 1) // TIME
    own = (tiles + TILES - 1) // TILES
    dt_scale = tl.cast(scale, TYPE) + tl.cast(scale_rest, TYPE)  # numbers come in single precision
    y += tl.cast(route, tl.int64) * plane
    kept += chunks_before(codes, route, g0, g1, g2, batch, TIME * TILES, ROUTES, JOINED) * CELLS * n * d
    for sequence in range(program // ROUTES, batch * lines, stride):
        b, line = tl.cast(sequence // lines, tl.int64), sequence % lines
        source, target = x + b * x_batch, y + b * (g0 * g1 * g2) * d
        keep = kept + tl.cast(sequence, tl.int64) * own * CELLS * n * d
        h = (tl.zeros((BLOCKS, BLOCK_N, BLOCK_D), TYPE),)
        for _spare in tl.static_range(1, CELLS):
            h = h + (tl.zeros((BLOCKS, BLOCK_N, BLOCK_D), TYPE),)  # noqa: RUF005
        for tile in range(tiles):
            if KEEP and tile % TILES == 0:
                for k in tl.static_range(CELLS):
                    tl.store(keep + tl.cast(tile // TILES * CELLS + k, tl.int64) * n * d + at, h[k], mask=stored)
            t = tile * TIME + tl.arange(0, TIME)[:, None]
            inside = t < steps
            row, here = _rows(t, line, steps, length, inner, reverse, JOINED), inside & (channels < d)
            drive = tl.load(source + row * x_row + channels, mask=here, other=0.0).to(TYPE)
            total = tl.zeros((TIME, BLOCK_D), TYPE)
            for k in tl.static_range(CELLS):
                cell = route * CELLS + k
                _low, step, B, C = form(
                    drive, projection, lift, bias, cell, channels, d, n, rank, dt_scale, BLOCKS * BLOCK_N,
                    BLOCK_R, PRODUCTS,
                )  # fmt: skip
                skip = tl.load(D + cell * d + channels, mask=channels < d, other=0.0)
                out, last = scan(drive, step, B, C, h[k], a + cell * d * n, skip, channels, d, n, ZOH, BLOCKS, BLOCK_N)
                total += out
                if SERIES:
                    drive = held(out)
                if k == 0:
                    after = (last,)
                else:
                    after = after + (last,)  # noqa: RUF005
            h = after
            tl.store(target + row * d + channels, total, mask=here)


@triton.jit(do_not_specialize=GRIDS)
def backward(
    dy, x, projection, lift, bias, a, D, kept, states, drives, dx, dprojection, dlift, dbias, da, dD,
    dy_batch, dy_row, x_batch, x_row, plane, codes, g0, g1, g2, batch, stride, d, n, rank, scale, scale_rest,
    ROUTES: tl.constexpr, CELLS: tl.constexpr, JOINED: tl.constexpr, SERIES: tl.constexpr, ZOH: tl.constexpr,
    TIME: tl.constexpr, TILES: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCKS: tl.constexpr, BLOCK_R: tl.constexpr, PRODUCTS: tl.constexpr, TYPE: tl.constexpr,
):  # fmt: skip
    """Every gradient, from the states `kept`.

    Written: `dx` `(routes, b, m, d)` and, `(programs, cells, ...)`, `dprojection` `(rank + 2 n, d)`, `dlift`
    `(rank, d)`, `dbias` `(d)`, `da` `(n, d)` and `dD` `(d)`. A program's own scratch holds, for one chunk, the `states`
    before its tiles `(tiles, cells, n, d)` and the `drives` of all cells but the first `(tiles, cells - 1, time, d)`.
    """
    program = tl.program_id(0)
    route = program % ROUTES
    steps, lines, length, inner, reverse = route_of(codes, route, g0, g1, g2, JOINED)
    channels, columns = tl.arange(0, BLOCK_D)[None, :], tl.arange(0, BLOCK_R)[:, None]
    potentials = tl.arange(0, BLOCKS)[:, None, None] * BLOCK_N + tl.arange(0, BLOCK_N)[None, :, None]
    at, stored = potentials * d + channels[None, :, :], (potentials < n) & (channels < d)[None, :, :]
    times, wide = tl.arange(0, TIME)[:, None], channels < d
    tiles = (steps + TIME - 1) // TIME
    own = (tiles + TILES - 1) // TILES
    dt_scale = tl.cast(scale, TYPE) + tl.cast(scale_rest, TYPE)  # numbers come in single precision
    dx += tl.cast(route, tl.int64) * plane
    kept += chunks_before(codes, route, g0, g1, g2, batch, TIME * TILES, ROUTES, JOINED) * CELLS * n * d
    states += tl.cast(program, tl.int64) * TILES * CELLS * n * d
    drives += tl.cast(program, tl.int64) * TILES * (CELLS - 1) * TIME * d
    flat = tl.zeros((1, BLOCK_D), TYPE)
    thin = tl.zeros((BLOCK_R, BLOCK_D), TYPE)
    full = tl.zeros((BLOCKS, BLOCK_N, BLOCK_D), TYPE)
    # Per cell: sums for the projections to the low-rank factor, B and C, for the lift, the bias, the rates, the skip.
    sums = ((thin, full, full, thin, flat, full, flat),)
    for _spare in tl.static_range(1, CELLS):
        sums = sums + ((thin, full, full, thin, flat, full, flat),)  # noqa: RUF005
    for sequence in range(program // ROUTES, batch * lines, stride):
        b, line = tl.cast(sequence // lines, tl.int64), sequence % lines
        source, given_y, target = x + b * x_batch, dy + b * dy_batch, dx + b * (g0 * g1 * g2) * d
        keep = kept + tl.cast(sequence, tl.int64) * own * CELLS * n * d
        entering = (full,)
        for _spare in tl.static_range(1, CELLS):
            entering = entering + (full,)  # noqa: RUF005
        for back in range(own):
            chunk = own - 1 - back
            count = tl.minimum(TILES, tiles - chunk * TILES)
            begin = keep + tl.cast(chunk, tl.int64) * CELLS * n * d
            h = (tl.load(begin + at, mask=stored, other=0.0),)
            for k in tl.static_range(1, CELLS):
                h = h + (tl.load(begin + k * n * d + at, mask=stored, other=0.0),)  # noqa: RUF005
            for tile in range(count):
                t = (chunk * TILES + tile) * TIME + times
                inside = t < steps
                row = _rows(t, line, steps, length, inner, reverse, JOINED)
                drive = tl.load(source + row * x_row + channels, mask=inside & wide, other=0.0).to(TYPE)
                for k in tl.static_range(CELLS):
                    cell = route * CELLS + k
                    tl.store(states + (tile * CELLS + k) * n * d + at, h[k], mask=stored)
                    if k > 0:
                        place = drives + (tile * (CELLS - 1) + k - 1) * TIME * d + times * d
                        tl.store(place + channels, drive, mask=wide & (times < TIME))
                    _low, step, B, C = form(
                        drive, projection, lift, bias, cell, channels, d, n, rank, dt_scale, BLOCKS * BLOCK_N,
                        BLOCK_R, PRODUCTS,
                    )  # fmt: skip
                    skip = tl.load(D + cell * d + channels, mask=wide, other=0.0)
                    out, last = scan(
                        drive, step, B, C, h[k], a + cell * d * n, skip, channels, d, n, ZOH, BLOCKS, BLOCK_N
                    )
                    if SERIES:
                        drive = held(out)
                    if k == 0:
                        after = (last,)
                    else:
                        after = after + (last,)  # noqa: RUF005
                h = after
            tl.debug_barrier()  # what one thread of the program stored, others load
            for ahead in range(count):
                tile = count - 1 - ahead
                t = (chunk * TILES + tile) * TIME + times
                inside = t < steps
                row = _rows(t, line, steps, length, inner, reverse, JOINED)
                given = tl.load(given_y + row * dy_row + channels, mask=inside & wide, other=0.0).to(TYPE)
                total, to_drive = tl.zeros((TIME, BLOCK_D), TYPE), tl.zeros((TIME, BLOCK_D), TYPE)
                for k in tl.static_range(CELLS - 1, -1, -1):
                    if k > 0:
                        place = drives + (tile * (CELLS - 1) + k - 1) * TIME * d + times * d
                        drive = tl.load(place + channels, mask=wide & (times < TIME), other=0.0)
                    else:
                        drive = tl.load(source + row * x_row + channels, mask=inside & wide, other=0.0).to(TYPE)
                    before = tl.load(states + (tile * CELLS + k) * n * d + at, mask=stored, other=0.0)
                    to_y = given
                    if SERIES:
                        to_y += to_drive
                    to_drive, left, grown = return_cell(
                        to_y, drive, before, entering[k], sums[k], projection, lift, bias, a, D,
                        route * CELLS + k, channels, d, n, rank, dt_scale, ZOH, BLOCKS, BLOCK_N, BLOCK_R, PRODUCTS,
                    )  # fmt: skip
                    if not SERIES:
                        total += to_drive
                    elif k > 0:
                        to_drive = tl.where(tl.abs(drive) < LARGEST_DRIVE, to_drive, 0.0)
                    if k == CELLS - 1:
                        leaving, more = (left,), (grown,)
                    else:
                        leaving, more = (left,) + leaving, (grown,) + more  # noqa: RUF005
                entering, sums = leaving, more
                if SERIES:
                    total = to_drive
                tl.store(target + row * d + channels, total, mask=inside & wide)
            tl.debug_barrier()  # before the next chunk takes the scratch
    for k in tl.static_range(CELLS):
        to_low, to_B, to_C, to_lift, to_bias, to_rate, to_skip = sums[k]
        cell = tl.cast(program, tl.int64) * CELLS + k
        rows = dprojection + cell * (rank + 2 * n) * d
        tl.store(rows + columns * d + channels, to_low, mask=(columns < rank) & wide)
        tl.store(rows + rank * d + at, to_B, mask=stored)
        tl.store(rows + (rank + n) * d + at, to_C, mask=stored)
        tl.store(dlift + cell * rank * d + columns * d + channels, to_lift, mask=(columns < rank) & wide)
        tl.store(dbias + cell * d + channels, to_bias, mask=wide)
        tl.store(da + cell * n * d + at, to_rate, mask=stored)
        tl.store(dD + cell * d + channels, to_skip, mask=wide)
