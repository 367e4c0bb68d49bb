"""One cell of the cascade on a tile of time in Triton: what it forms from its drive, its scan, and both backwards.

States `(blocks, potentials, channels)` are gone through block by block, each with a thread for every potential and
channel. Steps after a sequence's end have no drive and no gradient: they add nothing, whatever their length.
"""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportGeneralTypeIssues=false
# pyright: reportIndexIssue=false, reportOperatorIssue=false, reportPossiblyUnboundVariable=false, reportReturnType=false

from __future__ import annotations

import triton
import triton.language as tl

from kinn.ops.reference import LARGEST_DRIVE as _LARGEST_DRIVE
from kinn.ops.triton._cascade_parts import (
    block_of,
    couplings_of,
    lift_at,
    over_channels,
    over_columns,
    over_time,
    states_after,
    states_before,
    steps_of,
    weights_at,
    with_block,
)
from kinn.ops.triton._parts import LOG2_E, expm1_and_slope, expm1_of_log2, rates_of

LARGEST_DRIVE = tl.constexpr(_LARGEST_DRIVE)


@triton.jit
def held(out):
    """What drives the next cell: a cell's output, bounded; NaN stays."""
    return tl.where(out > LARGEST_DRIVE, LARGEST_DRIVE, tl.where(out < -LARGEST_DRIVE, -LARGEST_DRIVE, out))


@triton.jit
def form(
    drive, projection, lift, bias, cell, channels, d, n, rank, dt_scale,
    POTENTIALS: tl.constexpr, BLOCK_R: tl.constexpr, PRODUCTS: tl.constexpr,
):  # fmt: skip
    """What a cell derives from its drive: the steps' low-rank factor, the steps, `B` and `C`."""
    TYPE: tl.constexpr = drive.dtype
    columns, potentials = tl.arange(0, BLOCK_R)[:, None], tl.arange(0, POTENTIALS)[:, None]
    rows = projection + cell * (rank + 2 * n) * d
    low = over_channels(drive, weights_at(rows, 0, columns, rank, channels, d, TYPE), PRODUCTS)
    B = over_channels(drive, weights_at(rows, rank, potentials, n, channels, d, TYPE), PRODUCTS)
    C = over_channels(drive, weights_at(rows, rank + n, potentials, n, channels, d, TYPE), PRODUCTS)
    up = lift_at(lift + cell * d * rank, columns, rank, channels, d, TYPE)
    offset = tl.load(bias + cell * d + channels, mask=channels < d, other=0.0)
    return low, steps_of(low, up, offset, dt_scale, PRODUCTS), B, C


@triton.jit
def scan(drive, step, B, C, h, a, skip, channels, d, n, ZOH: tl.constexpr, BLOCKS: tl.constexpr, BLOCK_N: tl.constexpr):
    """A tile of one cell: its output `(time, channels)`, and the states after it."""
    x, dt = drive[:, None, :], step[:, None, :]
    potentials = tl.arange(0, BLOCK_N)[:, None]
    read = tl.zeros((drive.shape[0], BLOCK_N, drive.shape[1]), drive.dtype)
    for i in range(BLOCKS):
        _, inverse, log2_rate = rates_of(a, channels, i * BLOCK_N + potentials, d, n)
        e = expm1_of_log2(dt * log2_rate[None, :, :])
        u = couplings_of(B, i, BLOCKS) * x
        if ZOH:
            w = -e * (u * inverse[None, :, :])
        else:
            w = dt * u
        states, last = states_after(e, w, block_of(h, i))
        read += couplings_of(C, i, BLOCKS) * states
        h = with_block(h, i, last)
    return tl.sum(read, axis=1) + skip * drive, h


@triton.jit
def return_cell(
    given, drive, h, entering, sums, projection, lift, bias, a, D,
    cell, channels, d, n, rank, dt_scale, ZOH: tl.constexpr, BLOCKS: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_R: tl.constexpr, PRODUCTS: tl.constexpr,
):  # fmt: skip
    """A tile of one cell backwards: the gradient of its drive, the adjoint before the tile, the sums grown."""
    TYPE: tl.constexpr = drive.dtype
    sum_low, sum_B, sum_C, sum_lift, sum_bias, sum_rate, sum_skip = sums
    low, step, B, C = form(
        drive, projection, lift, bias, cell, channels, d, n, rank, dt_scale, BLOCKS * BLOCK_N, BLOCK_R, PRODUCTS
    )
    rows = projection + cell * (rank + 2 * n) * d
    skip = tl.load(D + cell * d + channels, mask=channels < d, other=0.0)
    x, dt, dy = drive[:, None, :], step[:, None, :], given[:, None, :]
    own = tl.arange(0, BLOCK_N)[:, None]
    to_dt = tl.zeros((drive.shape[0], BLOCK_N, drive.shape[1]), TYPE)
    to_x = tl.zeros((drive.shape[0], BLOCK_N, drive.shape[1]), TYPE)
    for i in range(BLOCKS):
        potentials = i * BLOCK_N + own
        rate, inverse, log2_rate = rates_of(a + cell * d * n, channels, potentials, d, n)
        rate, tau = rate[None, :, :], inverse[None, :, :]
        e, slope = expm1_and_slope(dt * log2_rate[None, :, :])
        Bi, Ci = couplings_of(B, i, BLOCKS), couplings_of(C, i, BLOCKS)
        u = Bi * x
        if ZOH:
            w = -e * (u * tau)
        else:
            w = dt * u
        before, _ = states_before(e, w, block_of(h, i), False)
        gain = Ci * dy
        below, left = states_before(e, gain + gain * e, block_of(entering, i), True)
        entering = with_block(entering, i, left)
        above = below + gain
        lost = above * e
        below = above + lost
        # The gradient of a rate, times the rate: see the kernel of the single scan.
        if ZOH:
            to_rate = above * ((u * tau - before) * slope + e * before)
            injected = -lost * tau
            to_dt += below * (u - rate * before)
        else:
            decay = rate * before
            to_rate = -above * (dt * (decay + e * decay))
            injected = above * dt
            to_dt += above * u - below * decay
        to_B = tl.sum(injected * x, axis=2)
        to_C = tl.sum((before + e * before + w) * dy, axis=2)
        to_x += injected * Bi
        to_x += to_B[:, :, None] * weights_at(rows, rank, potentials, n, channels, d, TYPE)[None, :, :]
        to_x += to_C[:, :, None] * weights_at(rows, rank + n, potentials, n, channels, d, TYPE)[None, :, :]
        sum_rate = with_block(sum_rate, i, block_of(sum_rate, i) + tl.sum(to_rate, axis=0) * inverse)
        sum_B = with_block(sum_B, i, block_of(sum_B, i) + tl.sum(to_B[:, :, None] * x, axis=0))
        sum_C = with_block(sum_C, i, block_of(sum_C, i) + tl.sum(to_C[:, :, None] * x, axis=0))
    # softplus' = 1 - exp(-softplus)
    to_z = tl.sum(to_dt, axis=1) * expm1_of_log2(step * (-LOG2_E / dt_scale)) * -dt_scale
    columns = tl.arange(0, BLOCK_R)[:, None]
    to_low = over_channels(to_z, lift_at(lift + cell * d * rank, columns, rank, channels, d, TYPE), PRODUCTS)
    to_drive = tl.sum(to_x, axis=1) + skip * given
    to_drive += over_columns(to_low, weights_at(rows, 0, columns, rank, channels, d, TYPE), PRODUCTS)
    grown = (
        sum_low + over_time(to_low, drive, PRODUCTS), sum_B, sum_C, sum_lift + over_time(low, to_z, PRODUCTS),
        sum_bias + tl.sum(to_z, axis=0, keep_dims=True), sum_rate,
        sum_skip + tl.sum(given * drive, axis=0, keep_dims=True),
    )  # fmt: skip
    return to_drive, entering, grown
