"""What the scan's Triton kernels are made of: rates, exponentials, where a step lies, one step.

A *tile* is a block `(potentials, channels)` of the state: lanes of a warp lie along channels, so that rows of the drive
are read whole and the potentials of a channel are summed mostly within a thread.
"""

# pyright: reportArgumentType=false, reportAssignmentType=false, reportGeneralTypeIssues=false, reportIndexIssue=false
# pyright: reportOperatorIssue=false, reportReturnType=false

from __future__ import annotations

import triton
import triton.language as tl

LN2 = tl.constexpr(0.6931471805599453)
LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def reduced(exponent):
    """`(k, r, s, p)`: `exponent = k + r / ln 2`, `|r| <= ln 2 / 2`, `s = 2^k`, `p = exp(r) - 1 - r`; `r` keeps NaN."""
    if exponent.dtype == tl.float32:
        least: tl.constexpr = -126.0
    else:
        least: tl.constexpr = -1022.0
    exponent = tl.where(exponent < least, least, exponent)
    k = tl.floor(exponent + 0.5)
    r = (exponent - k) * LN2
    # Taylor's series, truncated below half a unit in the last place of r.
    if exponent.dtype == tl.float32:
        s = ((k.to(tl.int32) + 127) << 23).to(tl.float32, bitcast=True)
        q = r * (1 / 5040) + 1 / 720
    else:
        s = ((k.to(tl.int64) + 1023) << 52).to(tl.float64, bitcast=True)
        q = r * (1 / 6227020800) + 1 / 479001600
        q = q * r + 1 / 39916800
        q = q * r + 1 / 3628800
        q = q * r + 1 / 362880
        q = q * r + 1 / 40320
        q = q * r + 1 / 5040
        q = q * r + 1 / 720
    q = q * r + 1 / 120
    q = q * r + 1 / 24
    q = q * r + 1 / 6
    q = q * r + 1 / 2
    return k, r, s, r * (r * q)


@triton.jit
def expm1_of_log2(exponent):
    """`2^exponent - 1` for `exponent <= 0`, to full relative precision also near 0."""
    _, r, s, p = reduced(exponent)
    return s * (p + r) + (s - 1)


@triton.jit
def expm1_and_slope(exponent):
    """`(E, E + z exp(-z))` with `E = expm1(-z)`, `z = -exponent ln 2`, both to full relative precision near 0.

    The second is what the derivative of the injection `-E / a` with respect to `a` needs.
    """
    k, r, s, p = reduced(exponent)
    g = p + r
    # exp(-z) = s (1 + g) and z = -r - k ln 2, multiplied out so that for k = 0 the leading terms are gone.
    near = p * (1 - r) - r * r
    return s * g + (s - 1), s * (k * -LN2 * (1 + g) + near) + (s - 1)


@triton.jit
def rates_of(a, channels, potentials, d, n):
    """`(a, 1/a, -a log2(e))` of a tile, 1 outside of it."""
    rate = tl.load(a + channels * n + potentials, mask=(channels < d) & (potentials < n), other=1.0)
    # Floored so that 1/a is finite: below the floor a step cannot be told from one without decay. NaN stays.
    if rate.dtype == tl.float32:
        rate = tl.where(rate < 1e-15, 1e-15, rate)
    else:
        rate = tl.where(rate < 1e-100, 1e-100, rate)
    return rate, 1 / rate, rate * -LOG2_E


@triton.jit
def row_of(t, line, steps, length, inner, JOINED: tl.constexpr, REVERSE: tl.constexpr):
    """Grid index of step `t` of a sequence."""
    if REVERSE:
        t = steps - 1 - t
    if JOINED:
        line = t // length
        t = t - line * length
    outer = line // inner
    return tl.cast((outer * length + t) * inner + (line - outer * inner), tl.int64)


@triton.jit
def between(t, first, last):
    """Whether `first <= t < last`, as a `(1, 1)` mask: the interpreter makes integers of masks spread from scalars."""
    t = t + tl.zeros((1, 1), tl.int32)
    return (t >= first) & (t < last)


@triton.jit
def load_at(source, row, stride, columns, mask, TYPE: tl.constexpr):
    """Part of one row, zero where masked, in the type that is computed in."""
    return tl.load(source + row * stride + columns, mask=mask, other=0.0).to(TYPE)


@triton.jit
def advance(h, drive, step, B, inverse, log2_rate, ZOH: tl.constexpr):
    """The state one step later."""
    e = expm1_of_log2(step * log2_rate)
    if ZOH:
        return h + e * (h - B * drive * inverse)
    else:
        return h + e * h + B * (step * drive)
