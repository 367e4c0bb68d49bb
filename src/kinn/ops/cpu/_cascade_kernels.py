"""Numba kernels of the cascade: every cell of every route, from its parameters to the sum of all outputs.

Sequential, nogil; `cascade.py` splits the work and hands out memory. Item `i` is block `i // groups` of the batch and
group `i % groups` of the routes. Along a route time advances in short chunks; while a chunk is in the near caches, each
cell in turn forms its steps and couplings from its drive, scans, and drives the next.
"""

# pyright: reportCallIssue=false

from __future__ import annotations

import numpy as np

from kinn.ops.cpu._cascade_parts import (
    Parameters,
    Plan,
    Sums,
    cells_of,
    form,
    hold,
    path_of,
    return_form,
    return_hold,
    scan,
    scan_again,
)
from kinn.ops.cpu._products import gather, padded, scatter
from kinn.ops.cpu._tiles import chunk_of, extent, finish_rates, kinds_of, rates_of, room_for, scratch
from kinn.ops.cpu._vector import load, pointer, store, zeros
from kinn.ops.cpu.cache import kernel
from kinn.ops.cpu.records import TILE, WIDE, Rows

__all__ = ["Parameters", "Plan", "Sums", "backward", "forward"]


@kernel
def forward(p, w, paths, kept_at, x, y, y_group, checkpoints, begin, end, like):
    """`y` of the items `begin .. end`; `kept_at` holds, per route, where its states begin in `checkpoints`."""
    s = p.size
    dp, pp, most = padded(s.d, TILE), padded(p.rank + 2 * s.n, TILE), padded(s.chunk, 4)
    zero, kinds = zeros(like, TILE), kinds_of(like)
    rows, later, local = np.empty(s.chunk, np.int64), np.empty(s.chunk, np.int64), np.arange(s.chunk)
    drive, projected, dt = scratch(most * dp, like), scratch(most * pp, like), scratch(most * dp, like)
    out, gains = scratch(most * dp, like), scratch(2 * s.chunk, like)
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
        grids = x, Rows(y.address + group * y_group * like.itemsize, y.batch, y.row)
        r_first = p.routes * group // p.groups
        for r in range(r_first, p.routes * (group + 1) // p.groups):
            path = path_of(paths, r)
            lines, steps = extent(path)
            chunks = (steps + s.chunk - 1) // s.chunk
            for k in range(p.cells):
                a = pointer(w.a + (r * p.cells + k) * s.d * s.n * like.itemsize, like)
                rates_of(a, s, 0, s.d, (rate[k * room :], inverse[k * room :], log2_rate[k * room :]))
            for sequence in range(p.batch * block // p.blocks * lines, p.batch * (block + 1) // p.blocks * lines):
                states[:] = 0
                for c in range(chunks):
                    count, b = chunk_of(rows, path, s.chunk, p.batch, sequence, c)
                    count_later, b_later = chunk_of(
                        later, path, s.chunk, p.batch, sequence + (c + 1) // chunks, (c + 1) % chunks
                    )
                    gather(zero, source, b * x.batch, x.row, rows[:count], s.d, drive, dp)
                    for k in range(p.cells):
                        cell, own = r * p.cells + k, k * room
                        form(zero, p, w, cell, drive, projected, dt, gains, count)
                        kept = kept_at[r] + ((sequence * chunks + c) * p.cells + k) * s.n * s.d
                        rates = rate[own:], inverse[own:], log2_rate[own:]
                        at = cells_of(p, w, cell, drive, projected, dt, checkpoints)
                        soon = grids, pointer(later.ctypes.data, later), count_later if k == 0 else 0, b_later
                        scan(kinds, p, at, out, local[:count], kept, states[own:], rates, least, soon)
                        offset = group * y_group + b * y.batch
                        scatter(zero, out, dp, rows[:count], s.d, target, offset, y.row, r > r_first or k > 0)
                        if p.series and k < p.cells - 1:
                            hold(zero, out, p.largest_drive, count * dp)
                        if p.series:
                            drive, out = out, drive


@kernel
def backward(p, w, paths, kept_at, x, dy, dx, dx_group, checkpoints, sums, begin, end, like):
    """Gradients of the items `begin .. end`."""
    s, itemsize = p.size, like.itemsize
    width = p.rank + 2 * s.n
    dp, pp, most = padded(s.d, TILE), padded(width, TILE), padded(s.chunk, 4)
    zero, kinds = zeros(like, TILE), kinds_of(like)
    rows, later, local = np.empty(s.chunk, np.int64), np.empty(s.chunk, np.int64), np.arange(s.chunk)
    wide, narrow, room = most * dp, most * pp, room_for(s, s.d)
    # Per cell: its drive, what it forms, and what the way back needs of its scan.
    drives, projections, dts = (
        scratch(p.cells * wide, like), scratch(p.cells * narrow, like), scratch(p.cells * wide, like)
    )  # fmt: skip
    E, J = scratch(p.cells * room * s.chunk, like), scratch(p.cells * room * s.chunk, like)
    H, slow = scratch(p.cells * room * (s.chunk + 1), like), np.empty(p.cells * room, np.bool_)
    to_skip = scratch(s.d + WIDE, like)
    given, to_y, to_x, to_dt = scratch(wide, like), scratch(wide, like), scratch(wide, like), scratch(wide, like)
    to_projected, gains = scratch(narrow, like), scratch(p.cells * 2 * s.chunk, like)
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
        grids = x, dy, Rows(dx.address + group * dx_group * itemsize, dx.batch, dx.row)
        r_first = p.routes * group // p.groups
        for r in range(r_first, p.routes * (group + 1) // p.groups):
            path = path_of(paths, r)
            lines, steps = extent(path)
            chunks = (steps + s.chunk - 1) // s.chunk
            sum_da[:] = 0
            sum_dD[:] = 0
            for k in range(p.cells):
                a = pointer(w.a + (r * p.cells + k) * s.d * s.n * itemsize, like)
                rates_of(a, s, 0, s.d, (rate[k * room :], inverse[k * room :], log2_rate[k * room :]))
            for sequence in range(p.batch * block // p.blocks * lines, p.batch * (block + 1) // p.blocks * lines):
                adjoint[:] = 0
                for c in range(chunks - 1, -1, -1):
                    count, b = chunk_of(rows, path, s.chunk, p.batch, sequence, c)
                    count_later, b_later = chunk_of(
                        later, path, s.chunk, p.batch, sequence + (c == 0), (c - 1) % chunks
                    )
                    soon = grids, pointer(later.ctypes.data, later), count_later, b_later
                    none = grids, pointer(later.ctypes.data, later), 0, b_later
                    gather(zero, source, b * x.batch, x.row, rows[:count], s.d, drives, dp)
                    gather(zero, given_y, b * dy.batch, dy.row, rows[:count], s.d, to_y, dp)
                    for k in range(p.cells - 1 if p.series else 0):  # they drive each other, up to the last
                        cell, own = r * p.cells + k, k * room
                        drive, projected, dt = drives[k * wide :], projections[k * narrow :], dts[k * wide :]
                        form(zero, p, w, cell, drive, projected, dt, gains[2 * k * s.chunk :], count)
                        at = cells_of(p, w, cell, drive, projected, dt, checkpoints)
                        kept = kept_at[r] + ((sequence * chunks + c) * p.cells + k) * s.n * s.d
                        out = drives[(k + 1) * wide :]
                        scan_again(
                            kinds, p, at, out, given, to_x, to_dt, local[:count], kept, True, False,
                            (rate[own:], inverse[own:], log2_rate[own:]),
                            (E[own * s.chunk :], J[own * s.chunk :], H[own * (s.chunk + 1) :], slow[own:], to_skip),
                            adjoint[own:], sum_da[own:], sum_dD[k * (s.d + WIDE) :], lane_dB, lane_dC, none,
                        )  # fmt: skip
                        hold(zero, out, p.largest_drive, count * dp)
                    for k in range(p.cells - 1, -1, -1):
                        cell, own = r * p.cells + k, k * room
                        drive = drives[k * wide if p.series else 0 :]
                        projected, dt = projections[k * narrow :], dts[k * wide :]
                        fresh = k == p.cells - 1 or not p.series
                        if fresh:
                            form(zero, p, w, cell, drive, projected, dt, gains[2 * k * s.chunk :], count)
                        at = cells_of(p, w, cell, drive, projected, dt, checkpoints)
                        kept = kept_at[r] + ((sequence * chunks + c) * p.cells + k) * s.n * s.d
                        if not fresh:
                            return_hold(zero, to_x, drives[(k + 1) * wide :], p.largest_drive, count * dp)
                        for i in range(0, count * dp, TILE):
                            value = load(to_y, i, zero)
                            store(given, i, value if fresh else value + load(to_x, i, zero))
                        lane_dB[:] = 0
                        lane_dC[:] = 0
                        scan_again(
                            kinds, p, at, given, given, to_x, to_dt, local[:count], kept, fresh, True,
                            (rate[own:], inverse[own:], log2_rate[own:]),
                            (E[own * s.chunk :], J[own * s.chunk :], H[own * (s.chunk + 1) :], slow[own:], to_skip),
                            adjoint[own:], sum_da[own:], sum_dD[k * (s.d + WIDE) :], lane_dB, lane_dC,
                            soon if k == p.cells - 1 else none,
                        )  # fmt: skip
                        return_form(
                            zero, p, w, sums, block, cell, drive, projected, dt, gains[2 * k * s.chunk :],
                            lane_dB, lane_dC, sums_of, to_dt, to_projected, to_x, count,
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
