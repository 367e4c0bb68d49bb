"""Numba kernels of the evolution branch on 2-D grids, in single precision: norm, matrix, separable convolution, SiLU.

Sequential, nogil; `branches.py` splits the work. A band of grid rows is walked through row by row: the last few rows of
what the filters read stay in a ring in the near caches, and so, on the way back, do those of its gradient.
"""

# pyright: reportCallIssue=false

from __future__ import annotations

from typing import NamedTuple

from kinn.ops.cpu._functions import sigmoid
from kinn.ops.cpu._products import padded
from kinn.ops.cpu._rows import add_columns, add_product, affine, normalise, read, return_norm, scale, write
from kinn.ops.cpu._tiles import part, scratch
from kinn.ops.cpu._vector import load, pointer, splat, store, zeros
from kinn.ops.cpu.cache import kernel
from kinn.ops.cpu.records import TILE


class Layer(NamedTuple):
    """Sizes and parameters by address, rows padded with zeros to whole vectors; 0 where there is none."""

    batch: int
    height: int
    width: int
    outer: int  # channels of x
    inner: int  # channels of the result
    taps: int  # of the filters along each axis, odd
    periodic: bool
    bands: int  # that an image is cut into
    eps: float
    norm_weight: int  # (outer,)
    norm_bias: int  # (outer,)
    matrix: int  # (inner, outer)
    matrix_t: int  # (outer, inner)
    filters: int  # (taps, taps, inner)
    filter_bias: int  # (inner,)
    mix: int  # (inner, inner)
    mix_t: int  # (inner, inner)
    mix_bias: int  # (inner,)


class Sums(NamedTuple):
    """Addresses of the parameters' gradients, one of each per block, zero at the start, rows padded to fours."""

    norm: int  # (blocks, 2, outer): weight, bias
    matrix: int  # (blocks, inner, outer)
    filters: int  # (blocks, taps, taps, inner)
    filter_bias: int  # (blocks, inner)
    mix: int  # (blocks, inner, inner)
    mix_bias: int  # (blocks, inner)


@part
def _row_room(layer):
    """Numbers that a row of a ring takes: half a filter on both sides, and what products write beyond the end."""
    return (layer.width + layer.taps + 3) * padded(layer.inner, TILE)


@part
def _close(layer, row):
    """Fill the margins: zeros, or the opposite side."""
    dp, pad = padded(layer.inner, TILE), layer.taps // 2
    right = (layer.width + pad) * dp
    if layer.periodic:
        for i in range(pad * dp):
            row[i] = row[layer.width * dp + i]
            row[right + i] = row[pad * dp + i]
    else:
        row[: pad * dp] = 0
        row[right : right + pad * dp] = 0


@part
def _normal_row(zero, layer, source, at, unit, values, inverse, squares, partial, sums):
    """A grid row of `x`, normalised, before and after the norm's own weight and bias."""
    cp = padded(layer.outer, TILE)
    read(zero, source, at, layer.width, layer.outer, unit, cp)
    normalise(zero, unit, layer.outer, layer.eps, layer.width, cp, inverse, squares, partial, sums)
    scale(zero, unit, layer.norm_weight, layer.norm_bias, values, layer.width, cp)


@part
def _fill_row(zero, layer, source, image, i, row, scratches):
    """What the filters read of grid row `i`, which may lie beyond the grid."""
    unit, values, inverse, squares, partial, sums = scratches
    cp, dp = padded(layer.outer, TILE), padded(layer.inner, TILE)
    if layer.periodic or 0 <= i < layer.height:
        at = (image * layer.height + i % layer.height) * layer.width
        _normal_row(zero, layer, source, at, unit, values, inverse, squares, partial, sums)
        affine(zero, values, cp, layer.matrix_t, 0, row[layer.taps // 2 * dp :], dp, layer.width, layer.outer)
        _close(layer, row)
    else:
        row[:] = 0


@part
def _filter(zero, layer, ring, first, bias, back, out):
    """Every channel's filter over the ring's rows from grid row `first` on; turned by 180 degrees on the way `back`."""
    dp, taps, room = padded(layer.inner, TILE), layer.taps, _row_room(layer)
    filters, offsets = pointer(layer.filters, out), pointer(bias, out)
    for v in range(0, dp, TILE):
        offset = load(offsets, v, zero) if bias != 0 else zero
        for j in range(layer.width):
            value = offset
            for k in range(taps):
                row = (first + k) % taps * room + j * dp + v
                weight = ((taps - 1 - k) * taps + taps - 1 if back else k * taps) * dp + v
                step = -dp if back else dp
                for m in range(taps):
                    value = value + load(ring, row + m * dp, zero) * load(filters, weight + m * step, zero)
            store(out, j * dp + v, value)


@part
def _add_filters(zero, layer, ring, first, given, total):
    """Add the gradient of the filters from one row of the gradient of what they gave."""
    dp, taps, room = padded(layer.inner, TILE), layer.taps, _row_room(layer)
    sums = pointer(total, given)
    for v in range(0, dp, TILE):
        for k in range(taps):
            for m in range(taps):
                row = (first + k) % taps * room + m * dp + v
                even, odd = load(sums, (k * taps + m) * dp + v, zero), zero
                for j in range(0, layer.width - 1, 2):
                    even = even + load(ring, row + j * dp, zero) * load(given, j * dp + v, zero)
                    odd = odd + load(ring, row + (j + 1) * dp, zero) * load(given, (j + 1) * dp + v, zero)
                if layer.width % 2:
                    j = layer.width - 1
                    even = even + load(ring, row + j * dp, zero) * load(given, j * dp + v, zero)
                store(sums, (k * taps + m) * dp + v, even + odd)


@part
def _scratches(layer, like):
    """Room for one row of `x` and its norm."""
    rows, cp = padded(layer.width, TILE), padded(layer.outer, TILE)
    unit, values, squares = scratch(rows * cp, like), scratch(rows * cp, like), scratch(rows * cp, like)
    unit[:] = 0
    values[:] = 0
    squares[:] = 0
    return unit, values, scratch(rows, like), squares, scratch(TILE * TILE, like), scratch(rows, like)


@kernel
def forward(layer, x, y, begin, end, like):
    """Bands `begin .. end` of all images'."""
    zero, room = zeros(like, TILE), _row_room(layer)
    dp, pad, rows = padded(layer.inner, TILE), layer.taps // 2, padded(layer.width, TILE)
    source, target, scratches = pointer(x, like), pointer(y, like), _scratches(layer, like)
    ring, filtered, out = scratch(layer.taps * room, like), scratch(rows * dp, like), scratch(rows * dp, like)
    filtered[:] = 0
    for item in range(begin, end):
        image, band = item // layer.bands, item % layer.bands
        first = layer.height * band // layer.bands
        filled = first - pad
        for i in range(first, layer.height * (band + 1) // layer.bands):
            while filled <= i + pad:
                slot = filled % layer.taps * room
                _fill_row(zero, layer, source, image, filled, ring[slot : slot + room], scratches)
                filled += 1
            _filter(zero, layer, ring, i - pad, layer.filter_bias, False, filtered)
            affine(zero, filtered, dp, layer.mix_t, layer.mix_bias, out, dp, layer.width, layer.inner)
            for j in range(0, layer.width * dp, TILE):
                value = load(out, j, zero)
                store(out, j, value * sigmoid(value))
            write(zero, out, dp, (image * layer.height + i) * layer.width, layer.width, layer.inner, target)


@kernel
def backward(layer, sums_of, blocks, x, dy, dx, begin, end, like):
    """Gradients of the blocks `begin .. end` of the bands of all images."""
    zero, one, room, itemsize = zeros(like, TILE), splat(zeros(like, TILE), 1.0), _row_room(layer), like.itemsize
    c, d, taps, pad = layer.outer, layer.inner, layer.taps, layer.taps // 2
    cp, dp, rows = padded(c, TILE), padded(d, TILE), padded(layer.width, TILE)
    source, given, target, scratches = pointer(x, like), pointer(dy, like), pointer(dx, like), _scratches(layer, like)
    unit, values, inverse, squares, partial, sums = scratches
    others, to_values = scratch(rows, like), scratch(rows * cp, like)
    ring, to_ring = scratch(taps * room, like), scratch(taps * room, like)
    filtered, mixed, to_mixed, to_read = (
        scratch(rows * dp, like), scratch(rows * dp, like), scratch(rows * dp, like), scratch(rows * dp, like)
    )  # fmt: skip
    for buffer in (filtered, mixed, to_mixed, to_read, to_values):
        buffer[:] = 0
    items = layer.batch * layer.bands
    for block in range(begin, end):
        to_norm = sums_of.norm + 2 * block * cp * itemsize
        to_matrix = sums_of.matrix + block * padded(d, 4) * cp * itemsize
        to_filters = sums_of.filters + block * taps * taps * dp * itemsize
        to_mix = sums_of.mix + block * padded(d, 4) * dp * itemsize
        for item in range(items * block // blocks, items * (block + 1) // blocks):
            image, band = item // layer.bands, item % layer.bands
            first, stop = layer.height * band // layer.bands, layer.height * (band + 1) // layer.bands
            filled = first - 2 * pad
            for i in range(first - pad, stop + pad):
                while filled <= i + pad:
                    slot = filled % taps * room
                    _fill_row(zero, layer, source, image, filled, ring[slot : slot + room], scratches)
                    filled += 1
                slot = i % taps * room
                row = to_ring[slot : slot + room]
                if layer.periodic or 0 <= i < layer.height:
                    at = (image * layer.height + i % layer.height) * layer.width
                    _filter(zero, layer, ring, i - pad, layer.filter_bias, False, filtered)
                    affine(zero, filtered, dp, layer.mix_t, layer.mix_bias, mixed, dp, layer.width, d)
                    read(zero, given, at, layer.width, d, to_mixed, dp)
                    for j in range(0, layer.width * dp, TILE):
                        value = load(mixed, j, zero)
                        open_ = sigmoid(value)
                        store(to_mixed, j, load(to_mixed, j, zero) * (open_ + value * open_ * (one - open_)))
                    affine(zero, to_mixed, dp, layer.mix, 0, row[pad * dp :], dp, layer.width, d)
                    _close(layer, row)
                    if first <= i < stop:
                        add_columns(zero, to_mixed, dp, layer.width, sums_of.mix_bias + block * dp * itemsize)
                        add_product(zero, to_mixed, dp, d, filtered, dp, layer.width, to_mix)
                        to_filtered = row[pad * dp :]
                        add_columns(zero, to_filtered, dp, layer.width, sums_of.filter_bias + block * dp * itemsize)
                        _add_filters(zero, layer, ring, i - pad, to_filtered, to_filters)
                else:
                    row[:] = 0
                done = i - pad
                if done >= first:
                    at = (image * layer.height + done) * layer.width
                    _filter(zero, layer, to_ring, done - pad, 0, True, to_read)
                    _normal_row(zero, layer, source, at, unit, values, inverse, squares, partial, sums)
                    add_product(zero, to_read, dp, d, values, cp, layer.width, to_matrix)
                    affine(zero, to_read, dp, layer.matrix, 0, to_values, cp, layer.width, d)
                    return_norm(
                        zero, to_values, unit, c, inverse, layer.norm_weight, layer.width, cp, to_norm,
                        to_norm + cp * itemsize, squares, partial, sums, others,
                    )  # fmt: skip
                    write(zero, to_values, cp, at, layer.width, c, target)
