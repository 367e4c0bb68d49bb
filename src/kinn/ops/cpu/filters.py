"""The filtered activation on the CPU: the torch operators `kinn::filtered_activation` and its backward."""

from __future__ import annotations

import functools

import numpy as np
import torch

from kinn.ops.cpu.compiled import like, load_kernels, run_items
from kinn.ops.cpu.fused import addresses_of, register
from kinn.ops.cpu.records import WIDE
from kinn.ops.resampling import BEHIND, filter_matrix, filtered_reference, resampled

_INTEGERS = np.empty(0, np.int64)
_LIKE = like(torch.float32)
_LEAST_ROWS = 8  # of a piece: the fine rows at its ends are made twice


def _shape(x, activation, slope, rate, half_width, periodic):
    return (x.shape[0], *(resampled(2 * n, BEHIND[rate]) for n in x.shape[1:3]), x.shape[3])


def _forward(x, activation, slope, rate, half_width, periodic):
    """Compiled counterpart of :func:`kinn.ops.resampling.filtered_reference`."""
    kernels = load_kernels("filter")
    x, y = x.contiguous(), x.new_empty(_shape(x, activation, slope, rate, half_width, periodic))
    plan, items, work, _alive = _plan(kernels, x, y, y.shape[1], activation, slope, rate, half_width, periodic)
    run_items(kernels.forward, items, work, plan, *addresses_of(x, y), like=_LIKE)
    return y


def _backward(dy, x, activation, slope, rate, half_width, periodic):
    kernels = load_kernels("filter")
    x, dy = x.contiguous(), dy.contiguous()
    dx = torch.empty_like(x)
    plan, items, work, _alive = _plan(kernels, x, dy, x.shape[1], activation, slope, rate, half_width, periodic)
    run_items(kernels.backward, items, work, plan, *addresses_of(x, dy, dx), like=_LIKE)
    return (dx,)


filtered_cpu = register(
    "filtered_activation",
    "Tensor x, str activation, float slope, float rate, int half_width, bool periodic",
    shape=_shape,
    forward=_forward,
    backward=_backward,
    reference=filtered_reference,
)


def _plan(kernels, x, result, written, activation, slope, rate, half_width, periodic):
    """The kernels' plan, how many items of work it has, what they are worth, and what keeps the addresses alive.

    `result` is the result or its gradient; items write as many rows of an image as `written`.
    """
    b, h, w, c = x.shape
    groups = b * -(-c // WIDE)
    wanted = -(-torch.get_num_threads() // max(groups, 1))
    pieces = max(1, min(wanted, written // _LEAST_ROWS))
    kinds = {"silu": kernels.SILU, "gelu": kernels.GELU, "leaky_relu": kernels.LEAKY}
    # Held until the kernels are done: threads that meet a new size together get bands that the cache does not keep.
    rows, columns = (_bands(n, BEHIND[rate], half_width, periodic) for n in (h, w))
    plan = kernels.Plan(
        kinds[activation], slope, h, w, c, result.shape[1], result.shape[2], pieces, rate != 2, _INTEGERS, _LIKE,
        *((of_rows, of_columns) for (of_rows, _), (of_columns, _) in zip(rows, columns)),
    )  # fmt: skip
    return plan, groups * pieces, 64 * x.numel(), (rows, columns)


@functools.lru_cache(maxsize=256)
def _bands(n, kind, half_width, periodic):
    """Bands along an axis of `n` points, up and down, and their transposes, each with what keeps it alive."""
    up, down = filter_matrix(n, "up", half_width, periodic), filter_matrix(2 * n, kind, half_width, periodic)
    return tuple(_band(matrix) for matrix in (up, down, up.T, down.T))


def _band(matrix):
    """The entries of a banded matrix, and what keeps them alive; rows with fewer than others repeat one, unweighted."""
    kernels = load_kernels("filter")
    there = matrix != 0
    taps = max(1, there.sum(1).max(initial=0))
    columns = np.argsort(~there, axis=1, kind="stable")[:, :taps]
    lacking = ~np.take_along_axis(there, columns, 1)
    weights = np.where(lacking, 0, np.take_along_axis(matrix, columns, 1))
    columns = np.where(lacking, columns[:, :1], columns)
    more = ((0, 0), (0, -taps % kernels.UNROLLED))
    columns, weights = np.pad(columns, more, mode="edge"), np.pad(weights, more)
    ring = next(r for r in range(taps, 2 * matrix.shape[1] + taps) if _apart(columns, r))
    kinds = (columns, np.int64), (columns % ring, np.int64), (weights, np.float32)
    alive = [np.ascontiguousarray(*pair) for pair in kinds]
    return kernels.Band(*columns.shape, ring, *(a.ctypes.data for a in alive)), alive


def _apart(columns, ring):
    """Whether the columns of every row stay different modulo `ring`."""
    columns, slots = np.sort(columns, 1), np.sort(columns % ring, 1)
    return bool((np.diff(columns, axis=1) != 0).sum() == (np.diff(slots, axis=1) != 0).sum())
