"""Products of small row-major matrices, for a chunk of steps while it is in the near caches.

Columns are padded to whole vectors of `TILE` lanes and rows to fours, so that no product has an edge; what the padding
holds is never read as a result. Few columns may go in one narrower vector, whose rest keeps what it held.
"""

# pyright: reportCallIssue=false

from __future__ import annotations

from kinn.ops.cpu._partial import load_first, store_first
from kinn.ops.cpu._tiles import part
from kinn.ops.cpu._vector import load, splat, store
from kinn.ops.cpu.records import TILE


@part
def padded(size, multiple):
    """`size` rounded up."""
    return (size + multiple - 1) // multiple * multiple


@part
def _eight_rows(zero, left, l0, left_row, left_column, right, right_row, out, o0, out_row, inner, add):
    """One vector of columns of eight rows of a product."""
    l1, l2, l3 = l0 + left_row, l0 + 2 * left_row, l0 + 3 * left_row
    l4, l5, l6, l7 = l0 + 4 * left_row, l0 + 5 * left_row, l0 + 6 * left_row, l0 + 7 * left_row
    a0 = a1 = a2 = a3 = a4 = a5 = a6 = a7 = zero
    if add:
        a0, a1 = load(out, o0, zero), load(out, o0 + out_row, zero)
        a2, a3 = load(out, o0 + 2 * out_row, zero), load(out, o0 + 3 * out_row, zero)
        a4, a5 = load(out, o0 + 4 * out_row, zero), load(out, o0 + 5 * out_row, zero)
        a6, a7 = load(out, o0 + 6 * out_row, zero), load(out, o0 + 7 * out_row, zero)
    for k in range(inner):
        m, x = k * left_column, load(right, k * right_row, zero)
        a0, a1 = a0 + splat(zero, left[l0 + m]) * x, a1 + splat(zero, left[l1 + m]) * x
        a2, a3 = a2 + splat(zero, left[l2 + m]) * x, a3 + splat(zero, left[l3 + m]) * x
        a4, a5 = a4 + splat(zero, left[l4 + m]) * x, a5 + splat(zero, left[l5 + m]) * x
        a6, a7 = a6 + splat(zero, left[l6 + m]) * x, a7 + splat(zero, left[l7 + m]) * x
    store(out, o0, a0)
    store(out, o0 + out_row, a1)
    store(out, o0 + 2 * out_row, a2)
    store(out, o0 + 3 * out_row, a3)
    store(out, o0 + 4 * out_row, a4)
    store(out, o0 + 5 * out_row, a5)
    store(out, o0 + 6 * out_row, a6)
    store(out, o0 + 7 * out_row, a7)


@part
def multiply(zero, left, left_row, left_column, right, right_row, out, out_row, rows, inner, columns, add):
    """`out[i, j] = sum_k left[i, k] right[k, j]`, added to what `out` holds if `add`.

    All three are pointers; element `(i, k)` of `left` is `left[i left_row + k left_column]`, so it may be transposed.
    Writes rows and columns up to whole fours and vectors.
    """
    done = 0
    if columns <= TILE:
        # Few columns: eight rows at a time, so that enough sums are under way.
        for i in range(0, rows - 7, 8):
            _eight_rows(zero, left, i * left_row, left_row, left_column, right, right_row, out, i * out_row, out_row,
                        inner, add)  # fmt: skip
            done = i + 8
    for i in range(done, rows, 4):
        l0 = i * left_row
        l1, l2, l3 = l0 + left_row, l0 + 2 * left_row, l0 + 3 * left_row
        o0 = i * out_row
        o1, o2, o3 = o0 + out_row, o0 + 2 * out_row, o0 + 3 * out_row
        j = 0
        while j < columns:
            if columns - j > 2 * TILE:
                v, w = j + TILE, j + 2 * TILE
                a0 = b0 = c0 = a1 = b1 = c1 = a2 = b2 = c2 = a3 = b3 = c3 = zero
                if add:
                    a0, b0, c0 = load(out, o0 + j, zero), load(out, o0 + v, zero), load(out, o0 + w, zero)
                    a1, b1, c1 = load(out, o1 + j, zero), load(out, o1 + v, zero), load(out, o1 + w, zero)
                    a2, b2, c2 = load(out, o2 + j, zero), load(out, o2 + v, zero), load(out, o2 + w, zero)
                    a3, b3, c3 = load(out, o3 + j, zero), load(out, o3 + v, zero), load(out, o3 + w, zero)
                for k in range(inner):
                    m, r = k * left_column, k * right_row
                    x, y, z = load(right, r + j, zero), load(right, r + v, zero), load(right, r + w, zero)
                    f = splat(zero, left[l0 + m])
                    a0, b0, c0 = a0 + f * x, b0 + f * y, c0 + f * z
                    f = splat(zero, left[l1 + m])
                    a1, b1, c1 = a1 + f * x, b1 + f * y, c1 + f * z
                    f = splat(zero, left[l2 + m])
                    a2, b2, c2 = a2 + f * x, b2 + f * y, c2 + f * z
                    f = splat(zero, left[l3 + m])
                    a3, b3, c3 = a3 + f * x, b3 + f * y, c3 + f * z
                store(out, o0 + j, a0)
                store(out, o0 + v, b0)
                store(out, o0 + w, c0)
                store(out, o1 + j, a1)
                store(out, o1 + v, b1)
                store(out, o1 + w, c1)
                store(out, o2 + j, a2)
                store(out, o2 + v, b2)
                store(out, o2 + w, c2)
                store(out, o3 + j, a3)
                store(out, o3 + v, b3)
                store(out, o3 + w, c3)
                j += 3 * TILE
            elif columns - j > TILE:
                v = j + TILE
                a0 = b0 = a1 = b1 = a2 = b2 = a3 = b3 = zero
                if add:
                    a0, b0, a1, b1 = (
                        load(out, o0 + j, zero),
                        load(out, o0 + v, zero),
                        load(out, o1 + j, zero),
                        load(out, o1 + v, zero),
                    )
                    a2, b2, a3, b3 = (
                        load(out, o2 + j, zero),
                        load(out, o2 + v, zero),
                        load(out, o3 + j, zero),
                        load(out, o3 + v, zero),
                    )
                for k in range(inner):
                    m, r = k * left_column, k * right_row
                    x, y = load(right, r + j, zero), load(right, r + v, zero)
                    f = splat(zero, left[l0 + m])
                    a0, b0 = a0 + f * x, b0 + f * y
                    f = splat(zero, left[l1 + m])
                    a1, b1 = a1 + f * x, b1 + f * y
                    f = splat(zero, left[l2 + m])
                    a2, b2 = a2 + f * x, b2 + f * y
                    f = splat(zero, left[l3 + m])
                    a3, b3 = a3 + f * x, b3 + f * y
                store(out, o0 + j, a0)
                store(out, o0 + v, b0)
                store(out, o1 + j, a1)
                store(out, o1 + v, b1)
                store(out, o2 + j, a2)
                store(out, o2 + v, b2)
                store(out, o3 + j, a3)
                store(out, o3 + v, b3)
                j += 2 * TILE
            else:
                a0 = a1 = a2 = a3 = zero
                if add:
                    a0, a1 = load(out, o0 + j, zero), load(out, o1 + j, zero)
                    a2, a3 = load(out, o2 + j, zero), load(out, o3 + j, zero)
                for k in range(inner):
                    m = k * left_column
                    x = load(right, k * right_row + j, zero)
                    a0, a1 = a0 + splat(zero, left[l0 + m]) * x, a1 + splat(zero, left[l1 + m]) * x
                    a2, a3 = a2 + splat(zero, left[l2 + m]) * x, a3 + splat(zero, left[l3 + m]) * x
                store(out, o0 + j, a0)
                store(out, o1 + j, a1)
                store(out, o2 + j, a2)
                store(out, o3 + j, a3)
                j += TILE


@part
def gather(zero, source, offset, row, rows, columns, out, out_row):
    """Bring the rows `rows` of a matrix with stride `row` together, with zeros in the padding."""
    whole = columns // TILE * TILE
    for i, r in enumerate(rows):
        for j in range(0, whole, TILE):
            store(out, i * out_row + j, load(source, offset + r * row + j, zero))
        if whole < columns:
            store(out, i * out_row + whole, load_first(source, offset + r * row + whole, columns - whole, zero))


@part
def scatter(zero, source, source_row, rows, columns, out, offset, row, add):
    """The way back; `add` to what is there."""
    whole = columns // TILE * TILE
    for i, r in enumerate(rows):
        for j in range(0, whole, TILE):
            value, at = load(source, i * source_row + j, zero), offset + r * row + j
            store(out, at, value + load(out, at, zero) if add else value)
        if whole < columns:
            value, at = load(source, i * source_row + whole, zero), offset + r * row + whole
            if add:
                value = value + load_first(out, at, columns - whole, zero)
            store_first(out, at, columns - whole, value)
