"""Numba kernels of the channel MLP, in single precision: norm, matrix, GELU, matrix at every position.

Sequential, nogil; `mlp.py` splits the work. Positions are taken in short chunks that stay in the near caches, so that
the hidden channels never reach memory; the backward forms them again.
"""

# pyright: reportCallIssue=false

from __future__ import annotations

from typing import NamedTuple

from kinn.ops.cpu._products import multiply, padded
from kinn.ops.cpu._tiles import kernel, part, scratch
from kinn.ops.cpu._vector import (
    gelu_and_slope,
    load,
    load_first,
    pointer,
    rsqrt,
    splat,
    store,
    store_first,
    sum_each,
    zeros,
)  # fmt: skip
from kinn.ops.cpu.records import TILE

# The disk cache looks at this file alone; with this line it also sees a change of what the kernels inline.
PARTS_SHA256 = "e0db12ca44d717fc"
CHUNK = 64  # positions


class Layer(NamedTuple):
    """Sizes and parameters by address, rows padded with zeros to whole vectors; 0 where there is none.

    `rows` is the number of positions.
    """

    rows: int
    inputs: int
    hidden: int
    outputs: int
    eps: float
    norm_weight: int  # (inputs,)
    norm_bias: int  # (inputs,)
    first: int  # (hidden, inputs)
    first_t: int  # (inputs, hidden)
    first_bias: int  # (hidden,)
    second: int  # (outputs, hidden)
    second_t: int  # (hidden, outputs)
    second_bias: int  # (outputs,)


class Sums(NamedTuple):
    """Addresses of the parameters' gradients, one of each per block, zero at the start, rows padded to fours."""

    norm: int  # (blocks, 2, inputs): weight, bias
    first: int  # (blocks, hidden, inputs)
    first_bias: int  # (blocks, hidden)
    second: int  # (blocks, outputs, hidden)
    second_bias: int  # (blocks, outputs)


@part
def _read(zero, source, start, count, columns, out, out_row):
    """Rows `start ..` of a contiguous matrix, with zeros in the padding."""
    for i in range(count):
        for j in range(0, columns, TILE):
            value = load_first(source, (start + i) * columns + j, min(TILE, columns - j), zero)
            store(out, i * out_row + j, value)


@part
def _row_sums(zero, values, row, count, partial, sums):
    """Sums over the columns of `count` rows, which are padded to whole tiles."""
    for i in range(0, count, TILE):
        for k in range(TILE):
            total = zero
            for j in range(0, row, TILE):
                total = total + load(values, (i + k) * row + j, zero)
            store(partial, k * TILE, total)
        store(sums, i, sum_each(partial, 0, zero))


@part
def _normalise(zero, layer, x, squares, count, row, partial, sums, inverse):
    """`x` to zero mean and unit variance per row, in place; `inverse` receives one over the deviations."""
    inputs, eps = splat(zero, layer.inputs), splat(zero, layer.eps)
    _row_sums(zero, x, row, count, partial, sums)
    for i in range(count):
        mean = splat(zero, sums[i]) / inputs
        for j in range(0, layer.inputs, TILE):
            value = load(x, i * row + j, zero) - mean
            store_first(x, i * row + j, min(TILE, layer.inputs - j), value)
            value = load(x, i * row + j, zero)
            store(squares, i * row + j, value * value)
    _row_sums(zero, squares, row, count, partial, sums)
    for i in range(0, count, TILE):
        store(inverse, i, rsqrt(load(sums, i, zero) / inputs + eps))
    for i in range(count):
        factor = splat(zero, inverse[i])
        for j in range(0, row, TILE):
            store(x, i * row + j, load(x, i * row + j, zero) * factor)


@part
def _scale(zero, layer, x, out, count, row):
    """The norm's own weight and bias."""
    weight, bias = pointer(layer.norm_weight, x), pointer(layer.norm_bias, x)
    for j in range(0, row, TILE):
        factor, offset = load(weight, j, zero), load(bias, j, zero)
        for i in range(j, j + count * row, row):
            store(out, i, load(x, i, zero) * factor + offset)


@part
def _affine(zero, source, row, matrix, bias, out, out_row, count, inner):
    """`out = source matrix + bias`."""
    target = pointer(out.ctypes.data, out)
    multiply(zero, pointer(source.ctypes.data, out), row, 1, pointer(matrix, out), out_row, target, out_row,
             count, inner, out_row, False)  # fmt: skip
    if bias != 0:
        values = pointer(bias, out)
        for j in range(0, out_row, TILE):
            offset = load(values, j, zero)
            for i in range(j, j + count * out_row, out_row):
                store(out, i, load(out, i, zero) + offset)


@kernel
def forward(layer, blocks, x, y, begin, end, like):
    """Blocks `begin .. end` of the positions."""
    zero = zeros(like, TILE)
    ip, hp, op = padded(layer.inputs, TILE), padded(layer.hidden, TILE), padded(layer.outputs, TILE)
    source, target = pointer(x, like), pointer(y, like)
    values, squares, hidden, out = (
        scratch(CHUNK * ip, like), scratch(CHUNK * ip, like), scratch(CHUNK * hp, like), scratch(CHUNK * op, like)
    )  # fmt: skip
    partial, sums, inverse = scratch(TILE * TILE, like), scratch(CHUNK, like), scratch(CHUNK, like)
    for buffer in (values, squares, hidden, out):
        buffer[:] = 0
    for start in range(layer.rows * begin // blocks, layer.rows * end // blocks, CHUNK):
        count = min(CHUNK, layer.rows * end // blocks - start)
        _read(zero, source, start, count, layer.inputs, values, ip)
        if layer.norm_weight != 0:
            _normalise(zero, layer, values, squares, count, ip, partial, sums, inverse)
            _scale(zero, layer, values, values, count, ip)
        _affine(zero, values, ip, layer.first_t, layer.first_bias, hidden, hp, count, layer.inputs)
        for i in range(0, count * hp, TILE):
            value, _ = gelu_and_slope(load(hidden, i, zero))
            store(hidden, i, value)
        _affine(zero, hidden, hp, layer.second_t, layer.second_bias, out, op, count, layer.hidden)
        _write(zero, out, op, start, count, layer.outputs, target)


@part
def _write(zero, source, row, start, count, columns, target):
    for i in range(count):
        for j in range(0, columns, TILE):
            value = load(source, i * row + j, zero)
            store_first(target, (start + i) * columns + j, min(TILE, columns - j), value)


@part
def _add_columns(zero, values, row, count, total):
    """Add the sum over rows to `total`."""
    for j in range(0, row, TILE):
        value = load(total, j, zero)
        for i in range(j, j + count * row, row):
            value = value + load(values, i, zero)
        store(total, j, value)


@kernel
def backward(layer, sums_of, blocks, x, dy, dx, begin, end, like):
    """Gradients of the blocks `begin .. end`."""
    zero, itemsize = zeros(like, TILE), like.itemsize
    ip, hp, op = padded(layer.inputs, TILE), padded(layer.hidden, TILE), padded(layer.outputs, TILE)
    source, given, target = pointer(x, like), pointer(dy, like), pointer(dx, like)
    unit, values, squares, to_values = (
        scratch(CHUNK * ip, like), scratch(CHUNK * ip, like), scratch(CHUNK * ip, like), scratch(CHUNK * ip, like)
    )  # fmt: skip
    hidden, slope, to_hidden, to_out = (
        scratch(CHUNK * hp, like), scratch(CHUNK * hp, like), scratch(CHUNK * hp, like), scratch(CHUNK * op, like)
    )  # fmt: skip
    partial, sums, others, inverse = (
        scratch(TILE * TILE, like), scratch(CHUNK, like), scratch(CHUNK, like), scratch(CHUNK, like)
    )  # fmt: skip
    for buffer in (unit, values, squares, to_values, hidden, slope, to_hidden, to_out):
        buffer[:] = 0
    fraction = splat(zero, 1.0 / layer.inputs)
    for block in range(begin, end):
        to_first = pointer(sums_of.first + block * padded(layer.hidden, 4) * ip * itemsize, like)
        to_first_bias = pointer(sums_of.first_bias + block * hp * itemsize, like)
        to_second = pointer(sums_of.second + block * padded(layer.outputs, 4) * hp * itemsize, like)
        to_second_bias = pointer(sums_of.second_bias + block * op * itemsize, like)
        to_weight = pointer(sums_of.norm + 2 * block * ip * itemsize, like)
        to_bias = pointer(sums_of.norm + (2 * block + 1) * ip * itemsize, like)
        for start in range(layer.rows * block // blocks, layer.rows * (block + 1) // blocks, CHUNK):
            count = min(CHUNK, layer.rows * (block + 1) // blocks - start)
            _read(zero, source, start, count, layer.inputs, unit, ip)
            if layer.norm_weight != 0:
                _normalise(zero, layer, unit, squares, count, ip, partial, sums, inverse)
                _scale(zero, layer, unit, values, count, ip)
            else:
                values[: count * ip] = unit[: count * ip]
            _affine(zero, values, ip, layer.first_t, layer.first_bias, hidden, hp, count, layer.inputs)
            for i in range(0, count * hp, TILE):
                value, derivative = gelu_and_slope(load(hidden, i, zero))
                store(hidden, i, value)
                store(slope, i, derivative)
            _read(zero, given, start, count, layer.outputs, to_out, op)
            _add_columns(zero, to_out, op, count, to_second_bias)
            multiply(zero, pointer(to_out.ctypes.data, like), 1, op, pointer(hidden.ctypes.data, like), hp,
                     to_second, hp, layer.outputs, count, hp, True)  # fmt: skip
            _affine(zero, to_out, op, layer.second, 0, to_hidden, hp, count, layer.outputs)
            for i in range(0, count * hp, TILE):
                store(to_hidden, i, load(to_hidden, i, zero) * load(slope, i, zero))
            _add_columns(zero, to_hidden, hp, count, to_first_bias)
            multiply(zero, pointer(to_hidden.ctypes.data, like), 1, hp, pointer(values.ctypes.data, like), ip,
                     to_first, ip, layer.hidden, count, ip, True)  # fmt: skip
            _affine(zero, to_hidden, hp, layer.first, 0, to_values, ip, count, layer.hidden)
            if layer.norm_weight != 0:
                # With u the unit rows and g = dL/du: dL/dx = (g - mean(g) - u mean(g u)) / deviation
                _add_columns(zero, to_values, ip, count, to_bias)
                weight = pointer(layer.norm_weight, like)
                for j in range(0, ip, TILE):
                    factor, total = load(weight, j, zero), load(to_weight, j, zero)
                    for i in range(j, j + count * ip, ip):
                        value, u = load(to_values, i, zero), load(unit, i, zero)
                        total = total + value * u
                        store(to_values, i, value * factor)
                        store(squares, i, value * factor * u)
                    store(to_weight, j, total)
                _row_sums(zero, to_values, ip, count, partial, sums)
                _row_sums(zero, squares, ip, count, partial, others)
                for i in range(count):
                    mean, along = splat(zero, sums[i]) * fraction, splat(zero, others[i]) * fraction
                    factor = splat(zero, inverse[i])
                    for j in range(0, ip, TILE):
                        value = load(to_values, i * ip + j, zero) - mean - load(unit, i * ip + j, zero) * along
                        store(to_values, i * ip + j, value * factor)
            _write(zero, to_values, ip, start, count, layer.inputs, target)


def blocks_for(rows: int, threads: int) -> int:
    """Blocks of positions: enough to even out the threads' speeds, each worth its own partial sums."""
    return max(1, min(8 * threads, rows // (4 * CHUNK)))
