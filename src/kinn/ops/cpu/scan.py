"""The selective scan on the CPU: the torch operators `kinn::selective_scan` and its backward, over numba kernels.

The operators see flattened grids `(b, m, c)` of one dtype, and the path as integers; nothing is moved in memory. The
forward keeps the states every few steps, from which the backward recomputes the ones between.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kinn.ops.autograd import needs_saving, register_scan
from kinn.ops.cpu.compiled import FLOOR, address, groups_for, like, load_kernels, rows_of, run_items, work_of
from kinn.ops.cpu.records import TILE, Cells, Size, slow_below
from kinn.ops.path import Path
from kinn.ops.reference import check_sign

if TYPE_CHECKING:
    from jaxtyping import Float

_MAX_BLOCKS = 64  # of sequences: bounds the partial sums of the gradient of a


def scan_cpu(
    x: Float[Tensor, "b m d"],
    dt: Float[Tensor, "b m d"],
    a: Float[Tensor, "d n"],
    B: Float[Tensor, "b m n"],
    C: Float[Tensor, "b m n"],
    D: Float[Tensor, "d"] | None,
    initial_state: Float[Tensor, "s d n"] | None,
    path: Path,
    injection: str,
) -> tuple[Float[Tensor, "b m d"], Float[Tensor, "s d n"]]:
    """Compiled counterpart of :func:`kinn.ops.reference.scan_reference`: same arguments, result and errors.

    All tensors float32 or all float64. Differentiable once.
    """
    save = needs_saving(x, dt, a, B, C, D, initial_state)
    y, state, _ = torch.ops.kinn.selective_scan(x, dt, a, B, C, D, initial_state, *path, injection == "zoh", save)
    return y, state


@torch.library.custom_op(
    "kinn::selective_scan",
    mutates_args=(),
    device_types="cpu",
    schema="(Tensor x, Tensor dt, Tensor a, Tensor B, Tensor C, Tensor? D, Tensor? initial_state, "
    "SymInt outer, SymInt length, SymInt inner, bool joined, bool reverse, bool zoh, bool save) -> "
    "(Tensor, Tensor, Tensor)",
)
def _forward(x, dt, a, B, C, D, initial_state, outer, length, inner, joined, reverse, zoh, save):
    kernels = load_kernels("scan")
    path = Path(outer, length, inner, joined, reverse)
    y, state, checkpoints = _forward_fake(
        x, dt, a, B, C, D, initial_state, outer, length, inner, joined, reverse, zoh, save
    )
    plan = _plan(kernels, x, a, path, zoh)
    inputs, _alive = _inputs(x, dt, a, B, C, D, checkpoints)
    initial_state = None if initial_state is None else initial_state.contiguous()
    outputs = kernels.Outputs(address(initial_state), rows_of(y)[0], state.data_ptr())
    items = plan.blocks * plan.groups
    least = like(x.dtype, (items, 2))
    run_items(kernels.forward, items, work_of(x.numel(), plan.size.n), plan, inputs, outputs, like=least)
    if items:
        check_sign(*least.min(axis=0).tolist())
    return y, state, checkpoints


@torch.library.register_fake("kinn::selective_scan")
def _forward_fake(x, dt, a, B, C, D, initial_state, outer, length, inner, joined, reverse, zoh, save):
    path = Path(outer, length, inner, joined, reverse)
    (batch, _, d), n = x.shape, a.shape[1]
    sequences = batch * path.sequences
    chunks = -(-path.steps // _steps(n))
    checkpoints = x.new_empty((sequences, chunks, n, d) if save else (0,))
    return x.new_empty(x.shape), x.new_empty((sequences, d, n)), checkpoints


@torch.library.custom_op(
    "kinn::selective_scan_backward",
    mutates_args=(),
    device_types="cpu",
    schema="(Tensor dy, Tensor? dstate, Tensor x, Tensor dt, Tensor a, Tensor B, Tensor C, Tensor? D, "
    "Tensor checkpoints, SymInt outer, SymInt length, SymInt inner, bool joined, bool reverse, bool zoh) -> "
    "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def _backward(dy, dstate, x, dt, a, B, C, D, checkpoints, outer, length, inner, joined, reverse, zoh):
    kernels = load_kernels("scan")
    path = Path(outer, length, inner, joined, reverse)
    plan = _plan(kernels, x, a, path, zoh)
    dx, ddt, _, _, _, _, dinitial_state = _backward_fake(
        dy, dstate, x, dt, a, B, C, D, checkpoints, outer, length, inner, joined, reverse, zoh
    )
    da = x.new_empty(plan.blocks, plan.size.n, plan.size.d)
    dB, dC = B.new_empty(plan.groups, *B.shape), C.new_empty(plan.groups, *C.shape)
    dD = x.new_empty(plan.blocks, 0 if D is None else plan.size.d)
    inputs, _alive = _inputs(x, dt, a, B, C, D, checkpoints)
    given, _dy = rows_of(dy)
    dstate = None if dstate is None else dstate.contiguous()
    gradients = kernels.Gradients(
        given, address(dstate), rows_of(dx)[0], rows_of(ddt)[0],
        *(t.data_ptr() for t in (da, dB, dC, dD, dinitial_state)),
    )  # fmt: skip
    run_items(
        kernels.backward,
        plan.blocks * plan.groups,
        work_of(x.numel(), plan.size.n),
        plan, inputs, gradients, like=like(x.dtype, (0, 0)),
    )  # fmt: skip
    dB, dC = (t[0] if plan.groups == 1 else t.sum(0) for t in (dB, dC))
    return dx, ddt, da.sum(0).t().contiguous(), dB, dC, dD.sum(0), dinitial_state


@torch.library.register_fake("kinn::selective_scan_backward")
def _backward_fake(dy, dstate, x, dt, a, B, C, D, checkpoints, outer, length, inner, joined, reverse, zoh):
    sequences = x.shape[0] * Path(outer, length, inner, joined, reverse).sequences
    dD = x.new_empty(0 if D is None else D.shape[0])
    shapes = (x.shape, dt.shape, a.shape, B.shape, C.shape)
    return (*(x.new_empty(shape) for shape in shapes), dD, x.new_empty((sequences, *a.shape)))


register_scan("selective_scan")


def _steps(n: int) -> int:
    """Steps between kept states: memory for states against scratch that stays in the nearer caches."""
    return max(16, min(64, 512 // max(n, 1)))


def _plan(kernels, x: Tensor, a: Tensor, path: Path, zoh: bool):
    (batch, _, d), n = x.shape, a.shape[1]
    blocks = min(batch * path.sequences, _MAX_BLOCKS)
    groups = groups_for(blocks, -(-d // TILE), torch.get_num_threads())
    size = Size(d, n, _steps(n), zoh, FLOOR[x.dtype], slow_below(path.steps))
    return kernels.Plan(batch, size, path, blocks, groups)


def _inputs(x, dt, a, B, C, D, checkpoints):
    """The kernels' view of the inputs, and the tensors that keep it alive."""
    (x_rows, x), (dt_rows, dt), (B_rows, B), (C_rows, C) = map(rows_of, (x, dt, B, C))
    a, D = a.contiguous(), None if D is None else D.contiguous()
    cells = Cells(x_rows, dt_rows, B_rows, C_rows, address(a), address(D), address(checkpoints))
    return cells, (x, dt, B, C, a, D)
