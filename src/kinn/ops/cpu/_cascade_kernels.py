"""Numba kernels of the cascade: every cell of every route, from its parameters to the sum of all outputs.

Sequential, nogil; `cascade.py` splits the work and hands out memory. Item `i` is block `i // groups` of the batch and
group `i % groups` of the routes. Along a route time advances in short chunks; while a chunk is in the near caches, each
cell in turn forms its steps and couplings from its drive, scans, and drives the next.
"""

# pyright: reportCallIssue=false

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import literal_unroll

from kinn.ops.cpu._functions import expm1_of_log2, softplus
from kinn.ops.cpu._products import gather, multiply, padded, scatter
from kinn.ops.cpu._tiles import (
    LOG2_E,
    extent,
    fill_rows,
    finish_rates,
    kernel,
    kinds_of,
    lanes_of,
    part,
    rates_of,
    recompute_tile,
    return_tile,
    room_for,
    scan_chunk,
    scratch,
    sum_lanes,
)
from kinn.ops.cpu._vector import load, pointer, size, splat, store, zeros
from kinn.ops.cpu.records import TILE, WIDE, Cells, Rows, Size
from kinn.ops.path import Path

# The disk cache looks at this file alone; with this line it also sees a change of what the kernels inline.
PARTS_SHA256 = "e115ff4c4246a361"


class Plan(NamedTuple):
    """Sizes, and how the work is cut."""

    batch: int
    routes: int
    cells: int
    rank: int
    series: bool
    largest_drive: float
    dt_scale: float
    size: Size
    blocks: int
    groups: int


class Parameters(NamedTuple):
    """Addresses of the cells' parameters, one cell after the other along a route, one route after the other.

    Columns are padded with zeros to whole vectors: `d` to `dp`, `rank` to `rp`, `rank + 2 n` to `pp`.
    """

    projection: int  # (cells, rank + 2 n, dp)
    projection_t: int  # (cells, d, pp)
    lift: int  # (cells, d, rp)
    lift_t: int  # (cells, rank, dp)
    bias: int  # (cells, dp)
    a: int  # (cells, d, n)
    D: int  # (cells, d)


class Sums(NamedTuple):
    """Addresses of the parameters' gradients, per block of the batch; rows padded to fours, columns as above.

    All begin as zeros but `da` and `dD`, which are written once.
    """

    projection: int  # (blocks, cells, rank + 2 n, dp)
    lift_t: int  # (blocks, cells, rank, dp)
    bias: int  # (blocks, cells, dp)
    a: int  # (blocks, cells, n, d)
    D: int  # (blocks, cells, d)


@part
def _path(paths, r):
    return Path(paths[r, 0], paths[r, 1], paths[r, 2], paths[r, 3] != 0, paths[r, 4] != 0)


@part
def _form(zero, p, w, cell, x, projected, dt, count):
    """What a cell derives from its drive: the low-rank factor of the steps, `B` and `C` in one row, and the steps."""
    s, itemsize = p.size, x.itemsize
    dp, pp = padded(s.d, TILE), padded(p.rank + 2 * s.n, TILE)
    source, made, steps = pointer(x.ctypes.data, x), pointer(projected.ctypes.data, x), pointer(dt.ctypes.data, x)
    weight = pointer(w.projection_t + cell * s.d * pp * itemsize, x)
    multiply(zero, source, dp, 1, weight, pp, made, pp, count, s.d, pp, False)
    weight = pointer(w.lift_t + cell * p.rank * dp * itemsize, x)
    multiply(zero, made, pp, 1, weight, dp, steps, dp, count, p.rank, dp, False)
    bias, scale = pointer(w.bias + cell * dp * itemsize, x), splat(zero, p.dt_scale)
    for j in range(0, dp, TILE):
        offset = load(bias, j, zero)
        for i in range(j, count * dp + j, dp):
            store(steps, i, softplus(load(steps, i, zero) + offset) * scale)


@part
def _cells(p, w, cell, x, projected, dt, checkpoints):
    """The scan of one chunk of one cell, over what `_form` made."""
    s, itemsize = p.size, x.itemsize
    dp, pp = padded(s.d, TILE), padded(p.rank + 2 * s.n, TILE)
    B = projected.ctypes.data + p.rank * itemsize
    return Cells(
        Rows(x.ctypes.data, 0, dp), Rows(dt.ctypes.data, 0, dp), Rows(B, 0, pp), Rows(B + s.n * itemsize, 0, pp),
        w.a + cell * s.d * s.n * itemsize, w.D + cell * s.d * itemsize, checkpoints,
    )  # fmt: skip


@part
def _hold(drive, largest, count):
    """Bound what drives the next cell."""
    for i in range(count):
        if drive[i] > largest:
            drive[i] = largest
        elif drive[i] < -largest:
            drive[i] = -largest


@part
def _return_hold(gradient, drive, largest, count):
    """Back through `_hold`: what was held does not move."""
    for i in range(count):
        if abs(drive[i]) >= largest:
            gradient[i] = 0


@kernel
def forward(p, w, paths, kept_at, x, y, y_group, checkpoints, begin, end, like):
    """`y` of the items `begin .. end`; `kept_at` holds, per route, where its states begin in `checkpoints`."""
    s = p.size
    dp, pp, most = padded(s.d, TILE), padded(p.rank + 2 * s.n, TILE), padded(s.chunk, 4)
    zero, kinds = zeros(like, TILE), kinds_of(like)
    rows, local = np.empty(s.chunk, np.int64), np.arange(s.chunk)
    drive, projected, dt = scratch(most * dp, like), scratch(most * pp, like), scratch(most * dp, like)
    out = scratch(most * dp, like)
    for buffer in (drive, projected, dt, out):
        buffer[:] = 0
    room = room_for(s, s.d)
    rate, inverse, log2_rate = (
        scratch(p.cells * room, like), scratch(p.cells * room, like), scratch(p.cells * room, like)
    )  # fmt: skip
    states, least = scratch(p.cells * room, like), np.zeros(s.d + WIDE, like.dtype)
    source, target = pointer(x.address, like), pointer(y.address, like)
    for item in range(begin, end):
        block, group = item // p.groups, item % p.groups
        r_first = p.routes * group // p.groups
        for r in range(r_first, p.routes * (group + 1) // p.groups):
            path = _path(paths, r)
            lines, steps = extent(path)
            chunks = (steps + s.chunk - 1) // s.chunk
            for k in range(p.cells):
                a = pointer(w.a + (r * p.cells + k) * s.d * s.n * like.itemsize, like)
                rates_of(a, s, 0, s.d, (rate[k * room :], inverse[k * room :], log2_rate[k * room :]))
            for sequence in range(p.batch * block // p.blocks * lines, p.batch * (block + 1) // p.blocks * lines):
                b = sequence // lines
                states[:] = 0
                for c in range(chunks):
                    count = min(s.chunk, steps - c * s.chunk)
                    fill_rows(rows, path, sequence - b * lines, steps, c * s.chunk, count)
                    gather(zero, source, b * x.batch, x.row, rows[:count], s.d, drive, dp)
                    for k in range(p.cells):
                        cell, own = r * p.cells + k, k * room
                        _form(zero, p, w, cell, drive, projected, dt, count)
                        kept = kept_at[r] + ((sequence * chunks + c) * p.cells + k) * s.n * s.d
                        rates = rate[own:], inverse[own:], log2_rate[own:]
                        at = _cells(p, w, cell, drive, projected, dt, checkpoints)
                        scan_chunk(
                            kinds, s, at, Rows(out.ctypes.data, 0, dp), local[:count], 0, kept, 0, s.d, states[own:],
                            rates, least,
                        )  # fmt: skip
                        offset = group * y_group + b * y.batch
                        scatter(zero, out, dp, rows[:count], s.d, target, offset, y.row, r > r_first or k > 0)
                        if p.series:
                            _hold(out, p.largest_drive, count * dp)
                            drive, out = out, drive


@kernel
def backward(p, w, paths, kept_at, x, dy, dx, dx_group, checkpoints, sums, begin, end, like):
    """Gradients of the items `begin .. end`."""
    s, itemsize = p.size, like.itemsize
    width = p.rank + 2 * s.n
    dp, pp, most = padded(s.d, TILE), padded(width, TILE), padded(s.chunk, 4)
    zero, kinds = zeros(like, TILE), kinds_of(like)
    rows, local = np.empty(s.chunk, np.int64), np.arange(s.chunk)
    wide, narrow, room = most * dp, most * pp, room_for(s, s.d)
    # Per cell: its drive, what it forms, and what the way back needs of its scan.
    drives, projections, dts = (
        scratch(p.cells * wide, like), scratch(p.cells * narrow, like), scratch(p.cells * wide, like)
    )  # fmt: skip
    E, J = scratch(p.cells * room * s.chunk, like), scratch(p.cells * room * s.chunk, like)
    H, slow = scratch(p.cells * room * (s.chunk + 1), like), np.empty(p.cells * room, np.bool_)
    given, to_y, to_x, to_dt = scratch(wide, like), scratch(wide, like), scratch(wide, like), scratch(wide, like)
    to_projected = scratch(narrow, like)
    for buffer in (drives, projections, dts, given, to_y, to_x, to_dt, to_projected):
        buffer[:] = 0
    groups = padded(s.chunk * s.n, TILE)
    lane_dB, lane_dC, sums_of = scratch(groups * TILE, like), scratch(groups * TILE, like), scratch(groups, like)
    rate, inverse, log2_rate = (
        scratch(p.cells * room, like), scratch(p.cells * room, like), scratch(p.cells * room, like)
    )  # fmt: skip
    adjoint, sum_da = scratch(p.cells * room, like), scratch(p.cells * room, like)
    sum_dD = np.empty(p.cells * (s.d + WIDE), like.dtype)
    source, given_y, target = pointer(x.address, like), pointer(dy.address, like), pointer(dx.address, like)
    for item in range(begin, end):
        block, group = item // p.groups, item % p.groups
        r_first = p.routes * group // p.groups
        for r in range(r_first, p.routes * (group + 1) // p.groups):
            path = _path(paths, r)
            lines, steps = extent(path)
            chunks = (steps + s.chunk - 1) // s.chunk
            sum_da[:] = 0
            sum_dD[:] = 0
            for k in range(p.cells):
                a = pointer(w.a + (r * p.cells + k) * s.d * s.n * itemsize, like)
                rates_of(a, s, 0, s.d, (rate[k * room :], inverse[k * room :], log2_rate[k * room :]))
            for sequence in range(p.batch * block // p.blocks * lines, p.batch * (block + 1) // p.blocks * lines):
                b = sequence // lines
                adjoint[:] = 0
                for c in range(chunks - 1, -1, -1):
                    count = min(s.chunk, steps - c * s.chunk)
                    fill_rows(rows, path, sequence - b * lines, steps, c * s.chunk, count)
                    gather(zero, source, b * x.batch, x.row, rows[:count], s.d, drives, dp)
                    gather(zero, given_y, b * dy.batch, dy.row, rows[:count], s.d, to_y, dp)
                    for k in range(p.cells - 1 if p.series else 0):  # they drive each other, up to the last
                        cell, own = r * p.cells + k, k * room
                        drive, projected, dt = drives[k * wide :], projections[k * narrow :], dts[k * wide :]
                        _form(zero, p, w, cell, drive, projected, dt, count)
                        at = _cells(p, w, cell, drive, projected, dt, checkpoints)
                        kept = kept_at[r] + ((sequence * chunks + c) * p.cells + k) * s.n * s.d
                        out = drives[(k + 1) * wide :]
                        _pass(
                            kinds, p, at, out, given, to_x, to_dt, local[:count], kept, True, False,
                            (rate[own:], inverse[own:], log2_rate[own:]),
                            (E[own * s.chunk :], J[own * s.chunk :], H[own * (s.chunk + 1) :], slow[own:]),
                            adjoint[own:], sum_da[own:], sum_dD[k * (s.d + WIDE) :], lane_dB, lane_dC,
                        )  # fmt: skip
                        _hold(out, p.largest_drive, count * dp)
                    for k in range(p.cells - 1, -1, -1):
                        cell, own = r * p.cells + k, k * room
                        drive = drives[k * wide if p.series else 0 :]
                        projected, dt = projections[k * narrow :], dts[k * wide :]
                        fresh = k == p.cells - 1 or not p.series
                        if fresh:
                            _form(zero, p, w, cell, drive, projected, dt, count)
                        at = _cells(p, w, cell, drive, projected, dt, checkpoints)
                        kept = kept_at[r] + ((sequence * chunks + c) * p.cells + k) * s.n * s.d
                        if not fresh:
                            _return_hold(to_x, drives[(k + 1) * wide :], p.largest_drive, count * dp)
                        for i in range(0, count * dp, TILE):
                            value = load(to_y, i, zero)
                            store(given, i, value if fresh else value + load(to_x, i, zero))
                        lane_dB[:] = 0
                        lane_dC[:] = 0
                        _pass(
                            kinds, p, at, given, given, to_x, to_dt, local[:count], kept, fresh, True,
                            (rate[own:], inverse[own:], log2_rate[own:]),
                            (E[own * s.chunk :], J[own * s.chunk :], H[own * (s.chunk + 1) :], slow[own:]),
                            adjoint[own:], sum_da[own:], sum_dD[k * (s.d + WIDE) :], lane_dB, lane_dC,
                        )  # fmt: skip
                        _return_form(
                            zero, p, w, sums, block, cell, drive, projected, dt, lane_dB, lane_dC, sums_of, to_dt,
                            to_projected, to_x, count,
                        )  # fmt: skip
                        if k == 0 or not p.series:
                            offset = group * dx_group + b * dx.batch
                            seen = r > r_first or (k < p.cells - 1 and not p.series)
                            scatter(zero, to_x, dp, rows[:count], s.d, target, offset, dx.row, seen)
            for k in range(p.cells):
                cell = (block * p.routes + r) * p.cells + k
                da = pointer(sums.a + cell * s.n * s.d * itemsize, like)
                finish_rates(s, 0, s.d, inverse[k * room :], sum_da[k * room :], da)
                dD = pointer(sums.D + cell * s.d * itemsize, like)
                for d in range(s.d):
                    dD[d] = sum_dD[k * (s.d + WIDE) + d]


@part
def _pass(
    kinds, p, at, out, given, to_x, to_dt, rows, kept, recompute, back, rates, keep, adjoint, sum_da, sum_dD,
    lane_dB, lane_dC,
):  # fmt: skip
    """One chunk of one cell: its forward pass again, the way back, or both, tile by tile while in the nearest cache."""
    s, (rate, inverse, log2_rate), (E, J, H, slow) = p.size, rates, keep
    dp, d = padded(s.d, TILE), 0
    while d < s.d:
        lanes, i = lanes_of(s.d - d, s.n), d * s.n
        at_rates = rate[i:], inverse[i:], log2_rate[i:]
        first = 0 if recompute and back else i * s.chunk
        at_keep = E[first:], J[first:], H[0 if recompute and back else i * (s.chunk + 1) :], slow[i:]
        for zero in literal_unroll(kinds):
            if size(zero) == lanes:
                if recompute and back:
                    recompute_tile(zero, s, at, None, rows, 0, kept, d, at_rates, at_keep)
                elif recompute:
                    recompute_tile(zero, s, at, Rows(out.ctypes.data, 0, dp), rows, 0, kept, d, at_rates, at_keep)
                if back:
                    return_tile(
                        zero, s, at, Rows(given.ctypes.data, 0, dp), Rows(to_x.ctypes.data, 0, dp),
                        Rows(to_dt.ctypes.data, 0, dp), rows, 0, d, at_rates, at_keep, adjoint[i:], sum_da[i:],
                        sum_dD[d:], lane_dB, lane_dC,
                    )  # fmt: skip
        d += lanes


@part
def _return_form(
    zero, p, w, sums, block, cell, drive, projected, dt, lane_dB, lane_dC, sums_of, to_dt, to_projected, to_x, count
):
    """Back through `_form`: from the gradients of `dt`, `B` and `C` to the parameters', and the rest of the drive's."""
    s, itemsize = p.size, drive.itemsize
    width = p.rank + 2 * s.n
    dp, pp, rp = padded(s.d, TILE), padded(width, TILE), padded(p.rank, TILE)
    ours = block * p.routes * p.cells + cell
    steps, to_steps = pointer(dt.ctypes.data, dt), pointer(to_dt.ctypes.data, dt)
    source, made = pointer(drive.ctypes.data, dt), pointer(projected.ctypes.data, dt)
    to_source, to_made = pointer(to_x.ctypes.data, dt), pointer(to_projected.ctypes.data, dt)
    # softplus' = 1 - exp(-softplus)
    scale, log2 = splat(zero, -p.dt_scale), splat(zero, -LOG2_E / p.dt_scale)
    to_bias = pointer(sums.bias + ours * dp * itemsize, dt)
    for j in range(0, dp, TILE):
        total = load(to_bias, j, zero)
        for i in range(j, count * dp + j, dp):
            value = load(to_steps, i, zero) * scale * expm1_of_log2(load(steps, i, zero) * log2)
            store(to_steps, i, value)
            total = total + value
        store(to_bias, j, total)
    weight = pointer(w.lift + cell * s.d * rp * itemsize, dt)
    multiply(zero, to_steps, dp, 1, weight, rp, to_made, pp, count, s.d, rp, False)
    for first, lane in ((p.rank, lane_dB), (p.rank + s.n, lane_dC)):
        sum_lanes(zero, lane, sums_of, count * s.n)
        for i in range(count):
            for n in range(s.n):
                to_projected[i * pp + first + n] = sums_of[i * s.n + n]
    to_weight = pointer(sums.lift_t + ours * padded(p.rank, 4) * dp * itemsize, dt)
    multiply(zero, made, 1, pp, to_steps, dp, to_weight, dp, p.rank, count, dp, True)
    weight = pointer(w.projection + cell * width * dp * itemsize, dt)
    multiply(zero, to_made, pp, 1, weight, dp, to_source, dp, count, width, dp, True)
    to_weight = pointer(sums.projection + ours * padded(width, 4) * dp * itemsize, dt)
    multiply(zero, to_made, 1, pp, source, dp, to_weight, dp, width, count, dp, True)
