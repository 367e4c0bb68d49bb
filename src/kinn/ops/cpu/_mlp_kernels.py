"""Numba kernels of the channel MLP, in single precision: norm, matrix, GELU, matrix at every position.

Sequential, nogil; `mlp.py` splits the work. Positions are taken in short chunks that stay in the near caches, so that
the hidden channels never reach memory; the backward forms them again.
"""

# pyright: reportCallIssue=false

from __future__ import annotations

from typing import NamedTuple

from kinn.ops.cpu._functions import gelu_and_slope
from kinn.ops.cpu._products import padded
from kinn.ops.cpu._rows import add_columns, add_product, affine, normalise, read, return_norm, scale, write
from kinn.ops.cpu._tiles import scratch
from kinn.ops.cpu._vector import load, pointer, store, zeros
from kinn.ops.cpu.cache import kernel
from kinn.ops.cpu.records import TILE

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
        read(zero, source, start, count, layer.inputs, values, ip)
        if layer.norm_weight != 0:
            normalise(zero, values, layer.inputs, layer.eps, count, ip, inverse, squares, partial, sums)
            scale(zero, values, layer.norm_weight, layer.norm_bias, values, count, ip)
        affine(zero, values, ip, layer.first_t, layer.first_bias, hidden, hp, count, layer.inputs)
        for i in range(0, count * hp, TILE):
            value, _ = gelu_and_slope(load(hidden, i, zero))
            store(hidden, i, value)
        affine(zero, hidden, hp, layer.second_t, layer.second_bias, out, op, count, layer.hidden)
        write(zero, out, op, start, count, layer.outputs, target)


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
    for block in range(begin, end):
        to_first = sums_of.first + block * padded(layer.hidden, 4) * ip * itemsize
        to_second = sums_of.second + block * padded(layer.outputs, 4) * hp * itemsize
        to_weight = sums_of.norm + 2 * block * ip * itemsize
        to_bias = to_weight + ip * itemsize
        for start in range(layer.rows * block // blocks, layer.rows * (block + 1) // blocks, CHUNK):
            count = min(CHUNK, layer.rows * (block + 1) // blocks - start)
            read(zero, source, start, count, layer.inputs, unit, ip)
            if layer.norm_weight != 0:
                normalise(zero, unit, layer.inputs, layer.eps, count, ip, inverse, squares, partial, sums)
                scale(zero, unit, layer.norm_weight, layer.norm_bias, values, count, ip)
            else:
                values[: count * ip] = unit[: count * ip]
            affine(zero, values, ip, layer.first_t, layer.first_bias, hidden, hp, count, layer.inputs)
            for i in range(0, count * hp, TILE):
                value, derivative = gelu_and_slope(load(hidden, i, zero))
                store(hidden, i, value)
                store(slope, i, derivative)
            read(zero, given, start, count, layer.outputs, to_out, op)
            add_columns(zero, to_out, op, count, sums_of.second_bias + block * op * itemsize)
            add_product(zero, to_out, op, layer.outputs, hidden, hp, count, to_second)
            affine(zero, to_out, op, layer.second, 0, to_hidden, hp, count, layer.outputs)
            for i in range(0, count * hp, TILE):
                store(to_hidden, i, load(to_hidden, i, zero) * load(slope, i, zero))
            add_columns(zero, to_hidden, hp, count, sums_of.first_bias + block * hp * itemsize)
            add_product(zero, to_hidden, hp, layer.hidden, values, ip, count, to_first)
            affine(zero, to_hidden, hp, layer.first, 0, to_values, ip, count, layer.hidden)
            if layer.norm_weight != 0:
                return_norm(
                    zero, to_values, unit, layer.inputs, inverse, layer.norm_weight, count, ip, to_weight, to_bias,
                    squares, partial, sums, others,
                )  # fmt: skip
            write(zero, to_values, ip, start, count, layer.inputs, target)
