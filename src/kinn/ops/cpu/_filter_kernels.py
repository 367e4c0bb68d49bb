"""Numba kernels of the filtered activation, in single precision: up by two, activation, down, on 2-D grids.

Sequential, nogil; `filters.py` splits the work. A few channels at a time, the rows of the fine grid are made one by
one, each when the first coarse row wants it, so that only coarse fields reach memory. The backward makes them again.
"""

# pyright: reportCallIssue=false

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from kinn.ops.cpu._functions import gelu_and_slope, leaky_and_slope, sigmoid
from kinn.ops.cpu._partial import load_first, store_first
from kinn.ops.cpu._tiles import part, scratch
from kinn.ops.cpu._vector import element, load, pointer, size, splat, splat_each, store, zeros
from kinn.ops.cpu.cache import kernel
from kinn.ops.cpu.records import TILE, WIDE

SILU, GELU, LEAKY = range(3)
UNROLLED = 6  # taps of a band come in as many


class Band(NamedTuple):
    """A banded matrix: for each of its rows the same number of columns and of weights, `(rows, taps)` by address.

    Where one column after the other is made, `ring` of them are kept: `slots` are the columns modulo that number, those
    of one row all different.
    """

    rows: int
    taps: int  # a multiple of UNROLLED
    ring: int
    columns: int
    slots: int
    weights: int


class Plan(NamedTuple):
    """What is done to images `(height, width, channels)`, and how it is cut.

    Matrices along the first and the second axis: `up`, before the activation, `down` behind it, where it is `filtered`
    at all; and their transposes. `pieces` is how many runs of rows of an image are items of work by themselves.
    """

    activation: int
    below: float  # slope of a leaky ReLU below zero
    height: int
    width: int
    channels: int
    out_height: int
    out_width: int
    pieces: int
    filtered: bool
    integers: np.ndarray  # empty, of the types of the bands' columns and weights
    floats: np.ndarray
    up: tuple[Band, Band]
    down: tuple[Band, Band]
    up_back: tuple[Band, Band]
    down_back: tuple[Band, Band]


@part
def _rows_of(zero, plan, band, row, source, start, width, channels, count, out):
    """A row of the product with a band along the first axis, from an image in memory that begins at `start`."""
    columns, weights = pointer(band.columns, plan.integers), pointer(band.weights, plan.floats)
    for j in range(width):
        total = zero
        for k in range(row * band.taps, (row + 1) * band.taps, UNROLLED):
            for q in range(k, k + UNROLLED):
                at = start + (element(columns, q) * width + j) * channels
                total = total + splat_each(zero, weights, q) * load_first(source, at, count, zero)
        store(out, j * size(zero), total)


@part
def _columns_of(zero, plan, band, source, out, begin):
    """The product with a band along the second axis, of a row in `source`, to `out[begin:]`."""
    columns, weights = pointer(band.columns, plan.integers), pointer(band.weights, plan.floats)
    for j in range(band.rows):
        total = zero
        for k in range(j * band.taps, (j + 1) * band.taps, UNROLLED):
            for q in range(k, k + UNROLLED):
                total = total + splat_each(zero, weights, q) * load(source, element(columns, q) * size(zero), zero)
        store(out, begin + j * size(zero), total)


@part
def _result_of(zero, plan, band, row, fine, width, target, start, channels, count):
    """A row of the result, from the ring of fine rows `(ring, width)`."""
    slots, weights = pointer(band.slots, plan.integers), pointer(band.weights, plan.floats)
    for j in range(width):
        total = zero
        for k in range(row * band.taps, (row + 1) * band.taps, UNROLLED):
            for q in range(k, k + UNROLLED):
                at = (element(slots, q) * width + j) * size(zero)
                total = total + splat_each(zero, weights, q) * load(fine, at, zero)
        store_first(target, start + (row * width + j) * channels, count, total)


@part
def _activate(zero, plan, row, count):
    """The activation of `count` vectors in `row`, in place."""
    below = splat(zero, plan.below)
    for i in range(0, count * size(zero), size(zero)):
        value = load(row, i, zero)
        if plan.activation == SILU:
            value = value * sigmoid(value)
        elif plan.activation == GELU:
            value, _ = gelu_and_slope(value)
        else:
            value, _ = leaky_and_slope(value, below)
        store(row, i, value)


@part
def _return_activation(zero, plan, row, gradient, count):
    """The activation's derivative at `row` times `gradient`, in place there."""
    below, one = splat(zero, plan.below), splat(zero, 1.0)
    for i in range(0, count * size(zero), size(zero)):
        value = load(row, i, zero)
        if plan.activation == SILU:
            open_ = sigmoid(value)
            slope = open_ + value * open_ * (one - open_)
        elif plan.activation == GELU:
            _, slope = gelu_and_slope(value)
        else:
            _, slope = leaky_and_slope(value, below)
        store(gradient, i, load(gradient, i, zero) * slope)


@part
def _fine_row(zero, plan, r, source, start, count, coarse, row):
    """A row of the image that begins at `start`, at twice the resolution."""
    _rows_of(zero, plan, plan.up[0], r, source, start, plan.width, plan.channels, count, coarse)
    _columns_of(zero, plan, plan.up[1], coarse, row, 0)


@part
def _image(zero, plan, source, start, target, to, first, last, count, like):
    """Rows `first .. last` of a result, in `count` channels, from those of the image that begin at `start`."""
    lanes, width, channels = size(zero), plan.width, plan.channels
    coarse, row = scratch(width * lanes, like), scratch(2 * width * lanes, like)
    if not plan.filtered:
        for i in range(first, last):
            _fine_row(zero, plan, i, source, start, count, coarse, row)
            _activate(zero, plan, row, 2 * width)
            for j in range(2 * width):
                store_first(target, to + (2 * i * width + j) * channels, count, load(row, j * lanes, zero))
        return
    band = plan.down[0]
    wanted, slots = pointer(band.columns, plan.integers), pointer(band.slots, plan.integers)
    kept, held = scratch(band.ring * plan.out_width * lanes, like), np.full(band.ring, -1)
    for i in range(first, last):
        for k in range(i * band.taps, (i + 1) * band.taps):
            r, slot = element(wanted, k), element(slots, k)
            if held[slot] != r:
                held[slot] = r
                _fine_row(zero, plan, r, source, start, count, coarse, row)
                _activate(zero, plan, row, 2 * width)
                _columns_of(zero, plan, plan.down[1], row, kept, slot * plan.out_width * lanes)
        _result_of(zero, plan, band, i, kept, plan.out_width, target, to, channels, count)


@part
def _return_image(zero, plan, source, start, given, to, target, first, last, count, like):
    """Rows `first .. last` of the gradient, in `count` channels, of the image whose result's gradient is at `to`."""
    lanes, width, channels = size(zero), plan.width, plan.channels
    coarse, row = scratch(width * lanes, like), scratch(2 * width * lanes, like)
    back, gradient = scratch(plan.out_width * lanes, like), scratch(2 * width * lanes, like)
    band = plan.up_back[0]
    wanted, slots = pointer(band.columns, plan.integers), pointer(band.slots, plan.integers)
    kept, held = scratch(band.ring * width * lanes, like), np.full(band.ring, -1)
    for i in range(first, last):
        for k in range(i * band.taps, (i + 1) * band.taps):
            r, slot = element(wanted, k), element(slots, k)
            if held[slot] != r:
                held[slot] = r
                _fine_row(zero, plan, r, source, start, count, coarse, row)
                if plan.filtered:
                    _rows_of(zero, plan, plan.down_back[0], r, given, to, plan.out_width, channels, count, back)
                    _columns_of(zero, plan, plan.down_back[1], back, gradient, 0)
                else:
                    for j in range(2 * width):
                        at = to + (2 * r * width + j) * channels
                        store(gradient, j * lanes, load_first(given, at, count, zero))
                _return_activation(zero, plan, row, gradient, 2 * width)
                _columns_of(zero, plan, plan.up_back[1], gradient, kept, slot * width * lanes)
        _result_of(zero, plan, band, i, kept, width, target, start, channels, count)


@part
def _item(plan, item):
    """Where an item's channels begin in the image and in the result, how many they are, and its piece of rows."""
    groups, (rest, piece) = -(-plan.channels // WIDE), divmod(item, plan.pieces)
    image, channel = rest // groups, rest % groups * WIDE
    start = image * plan.height * plan.width * plan.channels + channel
    to = image * plan.out_height * plan.out_width * plan.channels + channel
    return start, to, min(WIDE, plan.channels - channel), piece


@kernel
def forward(plan, x, y, begin, end, like):
    """Items `begin .. end`: of every image some channels, of these some rows of the result."""
    wide, tile = zeros(like, WIDE), zeros(like, TILE)
    source, target = pointer(x, like), pointer(y, like)
    for item in range(begin, end):
        start, to, count, piece = _item(plan, item)
        first, last = plan.out_height * piece // plan.pieces, plan.out_height * (piece + 1) // plan.pieces
        if count > TILE:
            _image(wide, plan, source, start, target, to, first, last, count, like)
        else:
            _image(tile, plan, source, start, target, to, first, last, count, like)


@kernel
def backward(plan, x, dy, dx, begin, end, like):
    """Gradients of the items `begin .. end`."""
    wide, tile = zeros(like, WIDE), zeros(like, TILE)
    source, given, target = pointer(x, like), pointer(dy, like), pointer(dx, like)
    for item in range(begin, end):
        start, to, count, piece = _item(plan, item)
        first, last = plan.height * piece // plan.pieces, plan.height * (piece + 1) // plan.pieces
        if count > TILE:
            _return_image(wide, plan, source, start, given, to, target, first, last, count, like)
        else:
            _return_image(tile, plan, source, start, given, to, target, first, last, count, like)
