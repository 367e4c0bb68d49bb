"""What the kernels of fused operations are made of: steps that take a chunk of positions, a row of channels each.

Single precision. Rows are padded to whole vectors, with zeros where a sum over channels follows; buffers to `TILE`
rows.
"""

# pyright: reportCallIssue=false

from __future__ import annotations

from kinn.ops.cpu._functions import rsqrt
from kinn.ops.cpu._partial import load_first, store_first
from kinn.ops.cpu._products import multiply
from kinn.ops.cpu._tiles import part
from kinn.ops.cpu._vector import load, pointer, splat, store, sum_each
from kinn.ops.cpu.records import TILE


@part
def read(zero, source, start, count, columns, out, out_row):
    """Rows `start ..` of a contiguous matrix, with zeros in the padding."""
    whole = columns // TILE * TILE
    for i in range(count):
        at = (start + i) * columns
        for j in range(0, whole, TILE):
            store(out, i * out_row + j, load(source, at + j, zero))
        if whole < columns:
            store(out, i * out_row + whole, load_first(source, at + whole, columns - whole, zero))


@part
def write(zero, source, row, start, count, columns, target):
    """The reverse."""
    whole = columns // TILE * TILE
    for i in range(count):
        at = (start + i) * columns
        for j in range(0, whole, TILE):
            store(target, at + j, load(source, i * row + j, zero))
        if whole < columns:
            store_first(target, at + whole, columns - whole, load(source, i * row + whole, zero))


@part
def affine(zero, source, row, matrix, bias, out, out_row, count, inner):
    """`out = source matrix + bias`; `matrix` and `bias` by address, no bias if that is 0."""
    target = pointer(out.ctypes.data, out)
    multiply(zero, pointer(source.ctypes.data, out), row, 1, pointer(matrix, out), out_row, target, out_row,
             count, inner, out_row, False)  # fmt: skip
    if bias != 0:
        values = pointer(bias, out)
        for j in range(0, out_row, TILE):
            offset = load(values, j, zero)
            for i in range(j, j + count * out_row, out_row):
                store(out, i, load(out, i, zero) + offset)


@part
def add_product(zero, left, left_row, left_columns, right, right_row, count, total):
    """Add `left^T right`, summed over `count` rows, to the matrix at the address `total`."""
    multiply(zero, pointer(left.ctypes.data, left), 1, left_row, pointer(right.ctypes.data, left), right_row,
             pointer(total, left), right_row, left_columns, count, right_row, True)  # fmt: skip


@part
def add_columns(zero, values, row, count, total):
    """Add the sum over rows to the row at the address `total`."""
    sums = pointer(total, values)
    for j in range(0, row, TILE):
        value = load(sums, j, zero)
        for i in range(j, j + count * row, row):
            value = value + load(values, i, zero)
        store(sums, j, value)


@part
def _row_sums(zero, values, row, count, partial, sums):
    """Sums over the columns of `count` rows."""
    for i in range(0, count, TILE):
        for k in range(TILE):
            total = zero
            for j in range(0, row, TILE):
                total = total + load(values, (i + k) * row + j, zero)
            store(partial, k * TILE, total)
        store(sums, i, sum_each(partial, 0, zero))


@part
def normalise(zero, x, columns, eps, count, row, inverse, squares, partial, sums):
    """`x` to zero mean and unit variance per row, in place; `inverse` receives one over the deviations.

    `squares` (rows of `x`), `partial` (`TILE` vectors) and `sums` (a number per row) are scratch.
    """
    number, small = splat(zero, columns), splat(zero, eps)
    _row_sums(zero, x, row, count, partial, sums)
    for i in range(count):
        mean = splat(zero, sums[i]) / number
        for j in range(0, columns, TILE):
            value = load(x, i * row + j, zero) - mean
            store_first(x, i * row + j, min(TILE, columns - j), value)
            value = load(x, i * row + j, zero)
            store(squares, i * row + j, value * value)
    _row_sums(zero, squares, row, count, partial, sums)
    for i in range(0, count, TILE):
        store(inverse, i, rsqrt(load(sums, i, zero) / number + small))
    for i in range(count):
        factor = splat(zero, inverse[i])
        for j in range(0, row, TILE):
            store(x, i * row + j, load(x, i * row + j, zero) * factor)


@part
def scale(zero, x, weight, bias, out, count, row):
    """A norm's own weight and bias, by address."""
    factors, offsets = pointer(weight, x), pointer(bias, x)
    for j in range(0, row, TILE):
        factor, offset = load(factors, j, zero), load(offsets, j, zero)
        for i in range(j, j + count * row, row):
            store(out, i, load(x, i, zero) * factor + offset)


@part
def return_norm(
    zero, to_x, unit, columns, inverse, weight, count, row, to_weight, to_bias, squares, partial, sums, others
):
    """Back through `scale` and `normalise`, in place; `unit` are the normalised rows. Adds to the sums by address.

    With u the unit rows and g = dL/du: dL/dx = (g - mean(g) - u mean(g u)) / deviation. `others` is scratch as `sums`.
    """
    add_columns(zero, to_x, row, count, to_bias)
    factors, total_at, fraction = pointer(weight, to_x), pointer(to_weight, to_x), splat(zero, 1.0 / columns)
    for j in range(0, row, TILE):
        factor, total = load(factors, j, zero), load(total_at, j, zero)
        for i in range(j, j + count * row, row):
            value, u = load(to_x, i, zero), load(unit, i, zero)
            total = total + value * u
            store(to_x, i, value * factor)
            store(squares, i, value * factor * u)
        store(total_at, j, total)
    _row_sums(zero, to_x, row, count, partial, sums)
    _row_sums(zero, squares, row, count, partial, others)
    for i in range(count):
        mean, along = splat(zero, sums[i]) * fraction, splat(zero, others[i]) * fraction
        factor = splat(zero, inverse[i])
        for j in range(0, row, TILE):
            value = load(to_x, i * row + j, zero) - mean - load(unit, i * row + j, zero) * along
            store(to_x, i * row + j, value * factor)
