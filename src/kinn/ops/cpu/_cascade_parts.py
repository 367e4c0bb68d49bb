"""What the cascade's kernels are made of: the records they read, and one chunk of one cell at a time."""

# pyright: reportCallIssue=false

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import literal_unroll

from kinn.ops.cpu._functions import expm1_of_log2, softplus
from kinn.ops.cpu._products import multiply, padded
from kinn.ops.cpu._scan_bands import recompute_band, return_band, scan_band
from kinn.ops.cpu._tiles import LOG2_E, lanes_of, part, sum_lanes
from kinn.ops.cpu._vector import load, pointer, size, smaller, splat, store, where_within, zeros
from kinn.ops.cpu.records import NARROW, TILE, Cells, Rows, Size
from kinn.ops.path import Path


class Plan(NamedTuple):
    """Sizes, and how the work is cut."""

    batch: int
    routes: int
    cells: int
    rank: int
    series: bool
    bounded: bool
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
def path_of(paths, r):
    return Path(paths[r, 0], paths[r, 1], paths[r, 2], paths[r, 3] != 0, paths[r, 4] != 0)


@part
def bound(p, projected, gains, count, pp):
    """Bounded couplings: each row's `B` and `C` times gains below 1, which are kept."""
    for i in range(2 * count):
        first, total = i // 2 * pp + p.rank + i % 2 * p.size.n, projected[0] * 0
        for n in range(first, first + p.size.n):
            total += projected[n] * projected[n]
        gains[i] = 1 / np.sqrt(1 + total / p.size.n)
        for n in range(first, first + p.size.n):
            projected[n] *= gains[i]


@part
def return_bound(p, projected, to_projected, gains, count, pp):
    """Back through `bound`, from the bounded couplings."""
    for i in range(2 * count):
        first, along = i // 2 * pp + p.rank + i % 2 * p.size.n, projected[0] * 0
        for n in range(first, first + p.size.n):
            along += projected[n] * to_projected[n]
        along /= p.size.n
        for n in range(first, first + p.size.n):
            to_projected[n] = gains[i] * (to_projected[n] - along * projected[n])


@part
def form(zero, p, w, cell, x, projected, dt, gains, count):
    """What a cell derives from its drive: the low-rank factor of the steps, `B` and `C` in one row, and the steps."""
    s, itemsize = p.size, x.itemsize
    dp, pp = padded(s.d, TILE), padded(p.rank + 2 * s.n, TILE)
    source, made, steps = pointer(x.ctypes.data, x), pointer(projected.ctypes.data, x), pointer(dt.ctypes.data, x)
    weight = pointer(w.projection_t + cell * s.d * pp * itemsize, x)
    if p.rank + 2 * s.n <= NARROW:
        multiply(zeros(x, NARROW), source, dp, 1, weight, pp, made, pp, count, s.d, NARROW, False)
    else:
        multiply(zero, source, dp, 1, weight, pp, made, pp, count, s.d, pp, False)
    if p.bounded:
        bound(p, projected, gains, count, pp)
    weight = pointer(w.lift_t + cell * p.rank * dp * itemsize, x)
    multiply(zero, made, pp, 1, weight, dp, steps, dp, count, p.rank, dp, False)
    bias, scale = pointer(w.bias + cell * dp * itemsize, x), splat(zero, p.dt_scale)
    for j in range(0, dp, TILE):
        offset = load(bias, j, zero)
        for i in range(j, count * dp + j, dp):
            store(steps, i, softplus(load(steps, i, zero) + offset) * scale)


@part
def cells_of(p, w, cell, x, projected, dt, checkpoints):
    """The scan of one chunk of one cell, over what `form` made."""
    s, itemsize = p.size, x.itemsize
    dp, pp = padded(s.d, TILE), padded(p.rank + 2 * s.n, TILE)
    B = projected.ctypes.data + p.rank * itemsize
    return Cells(
        Rows(x.ctypes.data, 0, dp), Rows(dt.ctypes.data, 0, dp), Rows(B, 0, pp), Rows(B + s.n * itemsize, 0, pp),
        w.a + cell * s.d * s.n * itemsize, w.D + cell * s.d * itemsize, checkpoints,
    )  # fmt: skip


@part
def hold(zero, drive, largest, count):
    """Bound what drives the next cell; NaN stays."""
    most = splat(zero, largest)
    for i in range(0, count, TILE):
        store(drive, i, zero - smaller(most, zero - smaller(most, load(drive, i, zero))))


@part
def return_hold(zero, gradient, drive, largest, count):
    """Back through `hold`: what was held does not move."""
    most = splat(zero, largest)
    for i in range(0, count, TILE):
        store(gradient, i, where_within(load(gradient, i, zero), load(drive, i, zero), most))


@part
def scan(kinds, p, at, out, rows, kept, states, rates, least, ahead):
    """One chunk of one cell."""
    s, (_, inverse, log2_rate) = p.size, rates
    d = 0
    while d < s.d:
        lanes, i = lanes_of(s.d - d, s.n), d * s.n
        for zero in literal_unroll(kinds):
            if size(zero) == lanes:
                scan_band(
                    zero, s, at, Rows(out.ctypes.data, 0, padded(s.d, TILE)), rows, 0, kept, d, None, states[i:],
                    log2_rate[i:], inverse[i:], least[d:], ahead,
                )  # fmt: skip
        d += lanes


@part
def scan_again(
    kinds, p, at, out, given, to_x, to_dt, rows, kept, recompute, back, rates, keep, adjoint, sum_da, sum_dD,
    lane_dB, lane_dC, ahead,
):  # fmt: skip
    """One chunk of one cell: its forward pass again, the way back, or both, tile by tile while in the nearest cache."""
    s, (rate, inverse, log2_rate), (E, J, H, slow, to_skip) = p.size, rates, keep
    dp, d = padded(s.d, TILE), 0
    while d < s.d:
        lanes, i = lanes_of(s.d - d, s.n), d * s.n
        at_rates = rate[i:], inverse[i:], log2_rate[i:]
        first = 0 if recompute and back else i * s.chunk
        at_keep = E[first:], J[first:], H[0 if recompute and back else i * (s.chunk + 1) :], slow[i:], to_skip
        for zero in literal_unroll(kinds):
            if size(zero) == lanes:
                if recompute and back:
                    recompute_band(zero, s, at, None, rows, 0, kept, d, None, at_rates, at_keep, None)
                elif recompute:
                    target = Rows(out.ctypes.data, 0, dp)
                    recompute_band(zero, s, at, target, rows, 0, kept, d, None, at_rates, at_keep, None)
                if back:
                    return_band(
                        zero, s, at, Rows(given.ctypes.data, 0, dp), Rows(to_x.ctypes.data, 0, dp),
                        Rows(to_dt.ctypes.data, 0, dp), rows, 0, d, None, at_rates, at_keep, adjoint[i:],
                        (sum_da[i:], sum_dD[d:], lane_dB, lane_dC), ahead,
                    )  # fmt: skip
        d += lanes


@part
def return_form(
    zero, p, w, sums, block, cell, drive, projected, dt, gains, lane_dB, lane_dC, sums_of, to_dt, to_projected, to_x,
    count,
):  # fmt: skip
    """Back through `form`: from the gradients of `dt`, `B` and `C` to the parameters', and the rest of the drive's."""
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
    if p.rank <= NARROW:
        multiply(zeros(dt, NARROW), to_steps, dp, 1, weight, rp, to_made, pp, count, s.d, NARROW, False)
    else:
        multiply(zero, to_steps, dp, 1, weight, rp, to_made, pp, count, s.d, rp, False)
    for first, lane in ((p.rank, lane_dB), (p.rank + s.n, lane_dC)):
        sum_lanes(zero, lane, sums_of, count * s.n)
        for i in range(count):
            for n in range(s.n):
                to_projected[i * pp + first + n] = sums_of[i * s.n + n]
    if p.bounded:
        return_bound(p, projected, to_projected, gains, count, pp)
    to_weight = pointer(sums.lift_t + ours * padded(p.rank, 4) * dp * itemsize, dt)
    multiply(zero, made, 1, pp, to_steps, dp, to_weight, dp, p.rank, count, dp, True)
    weight = pointer(w.projection + cell * width * dp * itemsize, dt)
    multiply(zero, to_made, pp, 1, weight, dp, to_source, dp, count, width, dp, True)
    to_weight = pointer(sums.projection + ours * padded(width, 4) * dp * itemsize, dt)
    multiply(zero, to_made, 1, pp, source, dp, to_weight, dp, width, count, dp, True)
