"""The whole cascade on the CPU: the torch operators `kinn::cascade_scan` and its backward, over numba kernels.

Nothing is stored between forward and backward but the states of the cells every few steps: steps, couplings and the
outputs of all cells but the last are formed again, chunk by chunk, while they are in the near caches.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from kinn.ops.autograd import needs_saving, register_cascade
from kinn.ops.cpu.compiled import FLOOR, address, groups_for, like, load_kernels, rows_of, run_items, work_of
from kinn.ops.cpu.fused import addresses_of, in_vectors, padded
from kinn.ops.cpu.records import TILE, Size, slow_below
from kinn.ops.path import Path
from kinn.ops.reference import LARGEST_DRIVE, check_sign

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float

_MAX_BLOCKS = 32  # of the batch: bounds the partial sums of the parameters' gradients
_CHUNK = 40960  # channels times potentials times steps that are worked on at a time: what a near cache holds


def cascade_fits(batch: int, routes: int, d: int) -> bool:
    """Whether the whole cascade keeps half as many threads busy as its cells one by one would.

    It is cut between batch elements and routes alone, a scan between sequences and tiles of channels.
    """
    if torch.compiler.is_compiling():
        return True
    by_cells = min(torch.get_num_threads(), batch * -(-d // TILE))
    return 2 * min(batch, _MAX_BLOCKS) * routes >= by_cells


def cascade_cpu(
    x: Float[Tensor, "b m d"],
    projection: Float[Tensor, "r k p d"],
    dt_weight: Float[Tensor, "r k d rank"],
    dt_bias: Float[Tensor, "r k d"],
    a: Float[Tensor, "r k d n"],
    D: Float[Tensor, "r k d"],
    paths: Sequence[Path],
    series: bool,
    injection: str,
    bounded: bool,
    dt_scale: float,
) -> Float[Tensor, "b m d"]:
    """Compiled counterpart of scanning cell after cell, over flattened grids and with a zero boundary.

    All tensors float32 or all float64. Differentiable once.
    """
    save = needs_saving(x, projection, dt_weight, dt_bias, a, D)
    flat = [int(value) if isinstance(value, bool) else value for path in paths for value in path]
    y, _ = torch.ops.kinn.cascade_scan(
        x, projection, dt_weight, dt_bias, a, D, flat, series, injection == "zoh", bounded, dt_scale, save
    )
    return y


def _fake(x, projection, dt_weight, dt_bias, a, D, flat, series, zoh, bounded, dt_scale, save):
    kept = _kept_at(x, a, _paths(flat))[-1] if save else 0
    return x.new_empty(x.shape), x.new_empty((kept,))


@torch.library.custom_op(
    "kinn::cascade_scan",
    mutates_args=(),
    device_types="cpu",
    schema="(Tensor x, Tensor projection, Tensor dt_weight, Tensor dt_bias, Tensor a, Tensor D, SymInt[] paths, "
    "bool series, bool zoh, bool bounded, float dt_scale, bool save) -> (Tensor, Tensor)",
)
def _forward(x, projection, dt_weight, dt_bias, a, D, flat, series, zoh, bounded, dt_scale, save):
    kernels, paths = load_kernels("cascade"), _paths(flat)
    check_sign(0.0, a.amin().item() if a.numel() else 0.0)
    _, checkpoints = _fake(x, projection, dt_weight, dt_bias, a, D, flat, series, zoh, bounded, dt_scale, save)
    plan = _plan(kernels, x, dt_weight, a, paths, series, zoh, bounded, dt_scale)
    parameters, _alive = _parameters(kernels, projection, dt_weight, dt_bias, a, D)
    y = x.new_empty(x.shape if plan.groups == 1 else (plan.groups, *x.shape))  # no view of it may leave an operator
    (rows, _x), (out, _y) = rows_of(x), rows_of(y if plan.groups == 1 else y[0])
    run_items(
        kernels.forward,
        plan.blocks * plan.groups,
        work_of(x.numel() * plan.routes * plan.cells, plan.size.n),
        plan, parameters, _table(paths), np.array(_kept_at(x, a, paths)), rows, out, x.numel(),
        checkpoints.data_ptr() if save else 0, like=like(x.dtype),
    )  # fmt: skip
    return y if plan.groups == 1 else y.sum(0), checkpoints


torch.library.register_fake("kinn::cascade_scan", _fake)


@torch.library.custom_op(
    "kinn::cascade_scan_backward",
    mutates_args=(),
    device_types="cpu",
    schema="(Tensor dy, Tensor x, Tensor projection, Tensor dt_weight, Tensor dt_bias, Tensor a, Tensor D, "
    "Tensor checkpoints, SymInt[] paths, bool series, bool zoh, bool bounded, float dt_scale) -> "
    "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def _backward(dy, x, projection, dt_weight, dt_bias, a, D, checkpoints, flat, series, zoh, bounded, dt_scale):
    kernels, paths = load_kernels("cascade"), _paths(flat)
    plan = _plan(kernels, x, dt_weight, a, paths, series, zoh, bounded, dt_scale)
    parameters, _alive = _parameters(kernels, projection, dt_weight, dt_bias, a, D)
    cells = plan.routes * plan.cells
    d, n, width = plan.size.d, plan.size.n, projection.shape[2]
    dx = x.new_empty(plan.groups, *x.shape)
    dp = padded(d)
    sums = (
        x.new_zeros(plan.blocks, cells, padded(width, 4), dp),
        x.new_zeros(plan.blocks, cells, padded(plan.rank, 4), dp),
        x.new_zeros(plan.blocks, cells, dp),
        x.new_empty(plan.blocks, cells, n, d),
        x.new_empty(plan.blocks, cells, d),
    )
    given, _dy = rows_of(dy)
    rows, _x = rows_of(x)
    run_items(
        kernels.backward,
        plan.blocks * plan.groups,
        work_of(x.numel() * plan.routes * plan.cells, plan.size.n),
        plan, parameters, _table(paths), np.array(_kept_at(x, a, paths)), rows, given, rows_of(dx[0])[0],
        x.numel(), checkpoints.data_ptr(), kernels.Sums(*addresses_of(*sums)), like=like(x.dtype),
    )  # fmt: skip
    to_projection, to_lift, to_bias, to_a, to_D = (t.sum(0).unflatten(0, a.shape[:2]) for t in sums)
    return (
        dx[0] if plan.groups == 1 else dx.sum(0),
        to_projection[:, :, :width, :d].contiguous(),
        to_lift[:, :, : plan.rank, :d].transpose(2, 3).contiguous(),
        to_bias[:, :, :d].contiguous(),
        to_a.transpose(2, 3).contiguous(),
        to_D.contiguous(),
    )


@torch.library.register_fake("kinn::cascade_scan_backward")
def _(dy, x, projection, dt_weight, dt_bias, a, D, checkpoints, flat, series, zoh, bounded, dt_scale):
    return tuple(x.new_empty(t.shape) for t in (x, projection, dt_weight, dt_bias, a, D))


register_cascade("cascade_scan")


def _paths(flat: Sequence[int]) -> list[Path]:
    rows = (flat[i : i + 5] for i in range(0, len(flat), 5))
    return [Path(outer, length, inner, bool(joined), bool(reverse)) for outer, length, inner, joined, reverse in rows]


def _table(paths: Sequence[Path]) -> np.ndarray:
    return np.array(paths, np.int64).reshape(-1, 5)


def _steps(d: int, n: int) -> int:
    return max(8, min(64, _CHUNK // max(d * n, 1) // 4 * 4))


def _kept_at(x: Tensor, a: Tensor, paths: Sequence[Path]):
    """Where the states of each route begin, and how many numbers there are in all."""
    _, cells, d, n = a.shape
    ends = [0]
    for path in paths:
        chunks = -(-path.steps // _steps(d, n))
        ends.append(ends[-1] + x.shape[0] * path.sequences * chunks * cells * d * n)
    return ends


def _plan(kernels, x, dt_weight, a, paths, series, zoh, bounded, dt_scale):
    batch, (routes, cells, d, n) = x.shape[0], a.shape
    blocks = min(batch, _MAX_BLOCKS)
    groups = groups_for(blocks, routes, torch.get_num_threads())
    size = Size(d, n, _steps(d, n), zoh, FLOOR[x.dtype], slow_below(min(path.steps for path in paths)))
    rank = dt_weight.shape[-1]
    return kernels.Plan(batch, routes, cells, rank, series, bounded, LARGEST_DRIVE, dt_scale, size, blocks, groups)


def _parameters(kernels, projection, dt_weight, dt_bias, a, D):
    """The parameters in the kernels' layout, and the tensors that keep them alive."""
    addresses, alive = in_vectors(projection, projection.mT, dt_weight, dt_weight.mT, dt_bias)
    a, D = a.contiguous(), D.contiguous()
    return kernels.Parameters(*addresses, address(a), address(D)), (*alive, a, D)
