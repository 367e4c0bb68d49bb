"""Numba kernels of a pointwise layer, in single precision: matrix, bias, another field added, GELU.

Sequential, nogil; `mix.py` splits the work. Positions are taken in short chunks that stay in the near caches.
"""

# pyright: reportCallIssue=false

from __future__ import annotations

from typing import NamedTuple

from kinn.ops.cpu._functions import gelu_and_slope
from kinn.ops.cpu._products import padded
from kinn.ops.cpu._rows import add_columns, add_product, affine, read, write
from kinn.ops.cpu._tiles import part, scratch
from kinn.ops.cpu._vector import load, pointer, store, zeros
from kinn.ops.cpu.cache import kernel
from kinn.ops.cpu.records import TILE

CHUNK = 64  # positions


class Layer(NamedTuple):
    """Sizes and parameters by address, rows padded with zeros to whole vectors; 0 where there is none."""

    rows: int
    inputs: int
    outputs: int
    gelu: bool
    matrix: int  # (outputs, inputs)
    matrix_t: int  # (inputs, outputs)
    bias: int  # (outputs,)


class Sums(NamedTuple):
    """Addresses of the parameters' gradients, one of each per block, zero at the start, rows padded to fours."""

    matrix: int  # (blocks, outputs, inputs)
    bias: int  # (blocks, outputs)


@part
def _sum(zero, layer, field, start, count, values, result, other):
    """The matrix times `values`, with the bias and the other field."""
    ip, op = padded(layer.inputs, TILE), padded(layer.outputs, TILE)
    affine(zero, values, ip, layer.matrix_t, layer.bias, result, op, count, layer.inputs)
    read(zero, field, start, count, layer.outputs, other, op)
    for i in range(0, count * op, TILE):
        store(result, i, load(result, i, zero) + load(other, i, zero))


@kernel
def forward(layer, blocks, x, field, y, begin, end, like):
    """Blocks `begin .. end` of the positions."""
    zero = zeros(like, TILE)
    ip, op = padded(layer.inputs, TILE), padded(layer.outputs, TILE)
    source, added, target = pointer(x, like), pointer(field, like), pointer(y, like)
    values, result, other = scratch(CHUNK * ip, like), scratch(CHUNK * op, like), scratch(CHUNK * op, like)
    for start in range(layer.rows * begin // blocks, layer.rows * end // blocks, CHUNK):
        count = min(CHUNK, layer.rows * end // blocks - start)
        read(zero, source, start, count, layer.inputs, values, ip)
        _sum(zero, layer, added, start, count, values, result, other)
        if layer.gelu:
            for i in range(0, count * op, TILE):
                value, _ = gelu_and_slope(load(result, i, zero))
                store(result, i, value)
        write(zero, result, op, start, count, layer.outputs, target)


@kernel
def backward(layer, sums_of, blocks, x, field, dy, dx, dfield, begin, end, like):
    """Gradients of the blocks `begin .. end`."""
    zero, itemsize = zeros(like, TILE), like.itemsize
    ip, op = padded(layer.inputs, TILE), padded(layer.outputs, TILE)
    source, added, given = pointer(x, like), pointer(field, like), pointer(dy, like)
    to_source, to_field = pointer(dx, like), pointer(dfield, like)
    values, to_values = scratch(CHUNK * ip, like), scratch(CHUNK * ip, like)
    result, to_result = scratch(CHUNK * op, like), scratch(CHUNK * op, like)
    for block in range(begin, end):
        to_matrix = sums_of.matrix + block * padded(layer.outputs, 4) * ip * itemsize
        for start in range(layer.rows * block // blocks, layer.rows * (block + 1) // blocks, CHUNK):
            count = min(CHUNK, layer.rows * (block + 1) // blocks - start)
            read(zero, source, start, count, layer.inputs, values, ip)
            if layer.gelu:
                _sum(zero, layer, added, start, count, values, result, to_result)
            read(zero, given, start, count, layer.outputs, to_result, op)
            if layer.gelu:
                for i in range(0, count * op, TILE):
                    _, slope = gelu_and_slope(load(result, i, zero))
                    store(to_result, i, load(to_result, i, zero) * slope)
            write(zero, to_result, op, start, count, layer.outputs, to_field)
            add_columns(zero, to_result, op, count, sums_of.bias + block * op * itemsize)
            add_product(zero, to_result, op, layer.outputs, values, ip, count, to_matrix)
            affine(zero, to_result, op, layer.matrix, 0, to_values, ip, count, layer.outputs)
            write(zero, to_values, ip, start, count, layer.inputs, to_source)
