"""What the cascade's Triton kernels are made of: routes, products, scans within a tile of time.

A tile of the drive is `(time, channels)`, one of states `(time, potentials, channels)`. Lanes and warps are spread
along channels and potentials, so that a thread holds all of a tile's times and scans them by itself.
"""

# pyright: reportArgumentType=false, reportAssignmentType=false, reportAttributeAccessIssue=false
# pyright: reportGeneralTypeIssues=false, reportIndexIssue=false, reportOperatorIssue=false
# pyright: reportPossiblyUnboundVariable=false, reportReturnType=false

from __future__ import annotations

import triton
import triton.language as tl

from kinn.ops.triton._parts import LOG2_E, reduced


@triton.jit
def route_of(codes, route, g0, g1, g2, JOINED: tl.constexpr):
    """`(steps, lines, length, inner, reverse)` of a route: four bits of `codes` each, `2 axis + reverse`."""
    code = (codes >> (route * 4)) & 15
    axis, reverse = code // 2, code % 2
    length = tl.where(axis == 0, g0, tl.where(axis == 1, g1, g2))
    inner = tl.where(axis == 0, g1 * g2, tl.where(axis == 1, g2, 1))
    whole = g0 * g1 * g2
    if JOINED:
        steps, lines = whole, whole // whole
    else:
        steps, lines = length, whole // length
    return steps, lines, length, inner, reverse


@triton.jit
def chunks_before(codes, route, g0, g1, g2, batch, size, ROUTES: tl.constexpr, JOINED: tl.constexpr):
    """Chunks of `size` steps of all sequences of the routes before this one."""
    count = tl.cast(0, tl.int64)
    for r in tl.static_range(ROUTES):
        steps, lines, _, _, _ = route_of(codes, r, g0, g1, g2, JOINED)
        count += tl.where(r < route, batch * lines * ((steps + size - 1) // size), 0)
    return count


@triton.jit
def softplus(z):
    """`log(1 + exp(z))` to full relative precision, also where it is tiny: `log1p(w) = 2 atanh(w / (2 + w))`."""
    _, r, s, p = reduced(-tl.abs(z) * LOG2_E)
    w = s + s * (p + r)
    q = w / (2 + w)
    square = q * q
    if z.dtype == tl.float32:
        terms: tl.constexpr = 8
    else:
        terms: tl.constexpr = 17
    series = square * 0 + 1 / (2 * terms + 1)
    for i in tl.static_range(terms):
        series = series * square + 1 / (2 * (terms - i) - 1)
    return tl.where(z < 0, q * series * 2, z + q * series * 2)


@triton.jit
def over_channels(values, weights, PRODUCTS: tl.constexpr):
    """Sums over channels of `(time, channels)` times `(columns, channels)`: `(time, columns)`."""
    # A dot on ordinary cores holds whole rows of its factors in registers: not for many channels. Fewer than 16 terms
    # to a sum are refused by Triton before 3.8, here and below.
    if weights.shape[0] < 8 or weights.shape[1] < 16 or weights.shape[1] > 64:
        return tl.sum(values[:, None, :] * weights[None, :, :], axis=2)
    else:
        return tl.dot(values, tl.trans(weights), input_precision=PRODUCTS, out_dtype=values.dtype)


@triton.jit
def over_columns(values, weights, PRODUCTS: tl.constexpr):
    """Sums over columns of `(time, columns)` times `(columns, channels)`: `(time, channels)`."""
    if weights.shape[0] < 16:
        return tl.sum(values[:, :, None] * weights[None, :, :], axis=1)
    else:
        return tl.dot(values, weights, input_precision=PRODUCTS, out_dtype=values.dtype)


@triton.jit
def over_time(values, drive, PRODUCTS: tl.constexpr):
    """Sums over time of `(time, columns)` times `(time, channels)`: `(columns, channels)`."""
    if values.shape[0] < 16 or values.shape[1] < 8:
        return tl.sum(values[:, :, None] * drive[:, None, :], axis=0)
    else:
        return tl.dot(tl.trans(values), drive, input_precision=PRODUCTS, out_dtype=values.dtype)


@triton.jit
def weights_at(weights, first, columns, count, channels, d, TYPE: tl.constexpr):
    """Rows `first + columns` of a `(., d)` matrix, zero outside of it."""
    mask = (columns < count) & (channels < d)
    return tl.load(weights + (first + columns) * d + channels, mask=mask, other=0.0).to(TYPE)


@triton.jit
def lift_at(lift, columns, rank, channels, d, TYPE: tl.constexpr):
    """From the low-rank factor to the steps `(columns, channels)`, of a cell's `(d, rank)`."""
    mask = (columns < rank) & (channels < d)
    return tl.load(lift + channels * rank + columns, mask=mask, other=0.0).to(TYPE)


@triton.jit
def steps_of(low, up, bias, dt_scale, PRODUCTS: tl.constexpr):
    """Step lengths `(time, channels)`."""
    return softplus(over_columns(low, up, PRODUCTS) + bias) * dt_scale


@triton.jit
def block_of(states, i):
    """Block `i` of states `(blocks, potentials, channels)`."""
    blocks = tl.arange(0, states.shape[0])[:, None, None]
    return tl.sum(tl.where(blocks == i, states, 0.0), axis=0)


@triton.jit
def with_block(states, i, block):
    """The same with block `i` replaced."""
    blocks = tl.arange(0, states.shape[0])[:, None, None]
    return tl.where(blocks == i, block[None, :, :], states)


@triton.jit
def couplings_of(couplings, i, BLOCKS: tl.constexpr):
    """Of couplings `(time, blocks * potentials)` the ones of block `i`, `(time, potentials, 1)`."""
    each: tl.constexpr = couplings.shape[1] // BLOCKS
    split = tl.reshape(couplings, (couplings.shape[0], BLOCKS, each))
    blocks = tl.arange(0, BLOCKS)[None, :, None]
    return tl.sum(tl.where(blocks == i, split, 0.0), axis=1)[:, :, None]


@triton.jit
def then(e1, w1, e2, w2):
    """`h -> h + e h + w` twice. `1 + e` is never formed: of a slow decay little would be left in it."""
    return e1 + e2 + e1 * e2, w2 + (w1 + e2 * w1)


@triton.jit
def then_before(e1, w1, before_e1, before_w1, e2, w2, before_e2, before_w2):
    """As `then`, and the same for all steps but the last one."""
    return (
        e1 + e2 + e1 * e2, w2 + (w1 + e2 * w1),
        e1 + before_e2 + e1 * before_e2, before_w2 + (w1 + before_e2 * w1),
    )  # fmt: skip


@triton.jit
def states_after(e, w, h):
    """States after each step of a tile, and the last of them, from `h` before it."""
    times = tl.arange(0, e.shape[0])[:, None, None]
    entering = tl.zeros_like(e) + h[None, :, :]
    _, states = tl.associative_scan((e, tl.where(times == 0, w + (entering + e * entering), w)), 0, then)
    return states, tl.sum(tl.where(times == e.shape[0] - 1, states, 0.0), axis=0)


@triton.jit
def states_before(e, w, h, REVERSE: tl.constexpr):
    """States before each step of a tile, and the one after it, from `h` before it; in reverse, with time reversed."""
    times = tl.arange(0, e.shape[0])[:, None, None]
    if REVERSE:
        start, end = times == e.shape[0] - 1, times == 0
    else:
        start, end = times == 0, times == e.shape[0] - 1
    none = tl.zeros_like(e)
    entering = none + h[None, :, :]
    _, _, _, before = tl.associative_scan(
        (e, tl.where(start, w + (entering + e * entering), w), none, tl.where(start, entering, none)),
        0, then_before, reverse=REVERSE,
    )  # fmt: skip
    return before, tl.sum(tl.where(end, w + (before + e * before), none), axis=0)
