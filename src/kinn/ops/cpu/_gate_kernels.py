"""Numba kernels of the gated output, in single precision: norm, gate, output norm, product, matrix, residual.

Sequential, nogil; `branches.py` splits the work. Positions are taken in short chunks that stay in the near caches; the
backward forms the gate again, so that it never reaches memory.
"""

# pyright: reportCallIssue=false

from __future__ import annotations

from typing import NamedTuple

from kinn.ops.cpu._functions import sigmoid
from kinn.ops.cpu._products import padded
from kinn.ops.cpu._rows import add_product, affine, normalise, read, return_norm, scale, write
from kinn.ops.cpu._tiles import part, scratch
from kinn.ops.cpu._vector import load, pointer, splat, store, zeros
from kinn.ops.cpu.cache import kernel
from kinn.ops.cpu.records import TILE

CHUNK = 64  # positions


class Layer(NamedTuple):
    """Sizes and parameters by address, rows padded with zeros to whole vectors; 0 where there is none."""

    rows: int
    outer: int  # channels of x and the result
    inner: int  # channels of y and the gate
    eps: float
    inner_eps: float
    norm_weight: int  # (outer,)
    norm_bias: int  # (outer,)
    gate: int  # (inner, outer)
    gate_t: int  # (outer, inner)
    inner_weight: int  # (inner,)
    inner_bias: int  # (inner,)
    out: int  # (outer, inner)
    out_t: int  # (inner, outer)


class Sums(NamedTuple):
    """Addresses of the parameters' gradients, one of each per block, zero at the start, rows padded to fours."""

    norm: int  # (blocks, 2, outer): weight, bias
    gate: int  # (blocks, inner, outer)
    inner_norm: int  # (blocks, 2, inner)
    out: int  # (blocks, outer, inner)


@part
def _unit_rows(zero, layer, source, start, count, unit, inverse, squares, partial, sums):
    """The normalised rows of `x`."""
    cp = padded(layer.outer, TILE)
    read(zero, source, start, count, layer.outer, unit, cp)
    normalise(zero, unit, layer.outer, layer.eps, count, cp, inverse, squares, partial, sums)


@part
def _inner_rows(zero, layer, source, start, count, unit, values, inverse, squares, partial, sums):
    """The rows of `y`, normalised if asked for: before and after the norm's own weight and bias."""
    dp = padded(layer.inner, TILE)
    read(zero, source, start, count, layer.inner, unit, dp)
    if layer.inner_weight != 0:
        normalise(zero, unit, layer.inner, layer.inner_eps, count, dp, inverse, squares, partial, sums)
        scale(zero, unit, layer.inner_weight, layer.inner_bias, values, count, dp)
    else:
        values[: count * dp] = unit[: count * dp]


@kernel
def forward(layer, blocks, x, y, out, begin, end, like):
    """Blocks `begin .. end` of the positions."""
    zero = zeros(like, TILE)
    cp, dp = padded(layer.outer, TILE), padded(layer.inner, TILE)
    source, inner, target = pointer(x, like), pointer(y, like), pointer(out, like)
    unit, values, result = scratch(CHUNK * cp, like), scratch(CHUNK * cp, like), scratch(CHUNK * cp, like)
    gate, product, squares = scratch(CHUNK * dp, like), scratch(CHUNK * dp, like), scratch(CHUNK * (cp + dp), like)
    partial, sums, inverse = scratch(TILE * TILE, like), scratch(CHUNK, like), scratch(CHUNK, like)
    for buffer in (unit, values, result, gate, product, squares):
        buffer[:] = 0
    for start in range(layer.rows * begin // blocks, layer.rows * end // blocks, CHUNK):
        count = min(CHUNK, layer.rows * end // blocks - start)
        _unit_rows(zero, layer, source, start, count, unit, inverse, squares, partial, sums)
        scale(zero, unit, layer.norm_weight, layer.norm_bias, values, count, cp)
        affine(zero, values, cp, layer.gate_t, 0, gate, dp, count, layer.outer)
        _inner_rows(zero, layer, inner, start, count, product, product, inverse, squares, partial, sums)
        for i in range(0, count * dp, TILE):
            z = load(gate, i, zero)
            store(product, i, load(product, i, zero) * (z * sigmoid(z)))
        affine(zero, product, dp, layer.out_t, 0, result, cp, count, layer.inner)
        read(zero, source, start, count, layer.outer, values, cp)
        for i in range(0, count * cp, TILE):
            store(result, i, load(result, i, zero) + load(values, i, zero))
        write(zero, result, cp, start, count, layer.outer, target)


@kernel
def backward(layer, sums_of, blocks, x, y, dout, dx, dy, begin, end, like):
    """Gradients of the blocks `begin .. end`."""
    zero, one, itemsize = zeros(like, TILE), splat(zeros(like, TILE), 1.0), like.itemsize
    c, d = layer.outer, layer.inner
    cp, dp = padded(c, TILE), padded(d, TILE)
    source, inner, given = pointer(x, like), pointer(y, like), pointer(dout, like)
    to_source, to_inner = pointer(dx, like), pointer(dy, like)
    unit, values, to_values, to_out = (
        scratch(CHUNK * cp, like), scratch(CHUNK * cp, like), scratch(CHUNK * cp, like), scratch(CHUNK * cp, like)
    )  # fmt: skip
    gate, inner_unit, inner_values, product, to_product = (
        scratch(CHUNK * dp, like), scratch(CHUNK * dp, like), scratch(CHUNK * dp, like), scratch(CHUNK * dp, like),
        scratch(CHUNK * dp, like),
    )  # fmt: skip
    squares, partial = scratch(CHUNK * (cp + dp), like), scratch(TILE * TILE, like)
    sums, others, inverse, inner_inverse = (
        scratch(CHUNK, like), scratch(CHUNK, like), scratch(CHUNK, like), scratch(CHUNK, like)
    )  # fmt: skip
    for buffer in (unit, values, to_values, to_out, gate, inner_unit, inner_values, product, to_product, squares):
        buffer[:] = 0
    for block in range(begin, end):
        to_gate = sums_of.gate + block * padded(d, 4) * cp * itemsize
        to_matrix = sums_of.out + block * padded(c, 4) * dp * itemsize
        to_norm, to_inner_norm = (
            sums_of.norm + 2 * block * cp * itemsize,
            sums_of.inner_norm + 2 * block * dp * itemsize,
        )
        for start in range(layer.rows * block // blocks, layer.rows * (block + 1) // blocks, CHUNK):
            count = min(CHUNK, layer.rows * (block + 1) // blocks - start)
            _unit_rows(zero, layer, source, start, count, unit, inverse, squares, partial, sums)
            scale(zero, unit, layer.norm_weight, layer.norm_bias, values, count, cp)
            affine(zero, values, cp, layer.gate_t, 0, gate, dp, count, c)
            _inner_rows(
                zero, layer, inner, start, count, inner_unit, inner_values, inner_inverse, squares, partial, sums
            )
            read(zero, given, start, count, c, to_out, cp)
            affine(zero, to_out, cp, layer.out, 0, to_product, dp, count, c)
            # From the product's gradient to those of its factors: `gate` receives that of the gate, `to_product` of y.
            for i in range(0, count * dp, TILE):
                z, v, g = load(gate, i, zero), load(inner_values, i, zero), load(to_product, i, zero)
                open_ = sigmoid(z)
                silu = z * open_
                store(product, i, v * silu)
                store(to_product, i, g * silu)
                store(gate, i, g * v * (open_ + silu * (one - open_)))
            add_product(zero, to_out, cp, c, product, dp, count, to_matrix)
            add_product(zero, gate, dp, d, values, cp, count, to_gate)
            affine(zero, gate, dp, layer.gate, 0, to_values, cp, count, d)
            return_norm(
                zero, to_values, unit, c, inverse, layer.norm_weight, count, cp, to_norm, to_norm + cp * itemsize,
                squares, partial, sums, others,
            )  # fmt: skip
            for i in range(0, count * cp, TILE):
                store(to_values, i, load(to_values, i, zero) + load(to_out, i, zero))
            write(zero, to_values, cp, start, count, c, to_source)
            if layer.inner_weight != 0:
                return_norm(
                    zero, to_product, inner_unit, d, inner_inverse, layer.inner_weight, count, dp, to_inner_norm,
                    to_inner_norm + dp * itemsize, squares, partial, sums, others,
                )  # fmt: skip
            write(zero, to_product, dp, start, count, d, to_inner)
