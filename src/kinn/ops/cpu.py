"""The selective scan on the CPU: the torch operators `kinn::selective_scan` and its backward, over numba kernels.

The operators see flattened grids `(b, m, c)` of one dtype, and the path as integers; nothing is moved in memory. The
forward keeps the states every few steps, from which the backward recomputes the ones between.
"""

from __future__ import annotations

import functools
import sys
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from kinn.ops._threads import share
from kinn.ops.path import Path
from kinn.ops.reference import check_sign

if TYPE_CHECKING:
    from types import ModuleType

    from jaxtyping import Float

# The smallest decay rate that is told from none. Squares of its inverse must stay finite.
_FLOOR = {torch.float32: 1e-15, torch.float64: 1e-100}
_MAX_BLOCKS = 64  # of sequences: bounds the partial sums of the gradient of a
_PART_WORK = 1 << 19  # b m d n: less than this is not worth a handover between threads


def unavailable() -> str | None:
    """Why the compiled kernels cannot run here, or None if they can."""
    return _load()[1]


# What torch.compiler.assume_constant_result sets; calling that would import torch._dynamo, a second at every start.
unavailable._dynamo_marked_constant = True  # pyright: ignore[reportFunctionMemberAccess]


@functools.cache
def _load() -> tuple[ModuleType | None, str | None]:
    try:
        import numba
        from numba.core import event

        if getattr(numba.config, "DISABLE_JIT", False):
            return None, "numba's compiler is switched off by NUMBA_DISABLE_JIT"
        from kinn.ops import _cpu_kernels as kernels
    except Exception as error:  # whatever keeps numba from working, the reference still does
        return None, f"numba cannot be used ({type(error).__name__}: {error})"

    class Announce(event.Listener):
        said = False

        def on_start(self, event):
            if not self.said and event.data["dispatcher"].py_func.__module__ == kernels.__name__:
                type(self).said = True
                print("kinn: compiling the CPU kernels (once; they are cached on disk)", file=sys.stderr, flush=True)

        def on_end(self, event):
            pass

    event.register("numba:compile", Announce())
    return kernels, None


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
    save = torch.is_grad_enabled() and any(
        t is not None and t.requires_grad for t in (x, dt, a, B, C, D, initial_state)
    )
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
    kernels, reason = _load()
    if kernels is None:
        raise RuntimeError(f"kinn::selective_scan: {reason}")
    path = Path(outer, length, inner, joined, reverse)
    y, state, checkpoints = _forward_fake(
        x, dt, a, B, C, D, initial_state, outer, length, inner, joined, reverse, zoh, save
    )
    plan = _plan(kernels, x, a, path, zoh)
    inputs, _alive = _inputs(kernels, x, dt, a, B, C, D, initial_state, checkpoints)
    outputs = kernels.Outputs(y.data_ptr(), state.data_ptr())
    items = plan.blocks * plan.groups
    least = np.zeros((items, 2), np.float32 if x.dtype == torch.float32 else np.float64)
    _run(kernels.forward, plan, inputs, outputs, least)
    if items:
        check_sign(*least.min(axis=0).tolist())
    return y, state, checkpoints


@torch.library.register_fake("kinn::selective_scan")
def _forward_fake(x, dt, a, B, C, D, initial_state, outer, length, inner, joined, reverse, zoh, save):
    path = Path(outer, length, inner, joined, reverse)
    (batch, _, d), n = x.shape, a.shape[1]
    sequences = batch * path.sequences
    chunks = -(-path.steps // _chunk(n))
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
    kernels, _ = _load()
    assert kernels is not None, "the forward has run"
    path = Path(outer, length, inner, joined, reverse)
    plan = _plan(kernels, x, a, path, zoh)
    dx, ddt, _, _, _, _, dinitial_state = _backward_fake(
        dy, dstate, x, dt, a, B, C, D, checkpoints, outer, length, inner, joined, reverse, zoh
    )
    da = x.new_empty(plan.blocks, plan.n, plan.d)
    dB, dC = B.new_empty(plan.groups, *B.shape), C.new_empty(plan.groups, *C.shape)
    dD = x.new_empty(plan.blocks, 0 if D is None else plan.d)
    inputs, _alive = _inputs(kernels, x, dt, a, B, C, D, None, checkpoints)
    given, _dy = _rows(kernels, dy)
    dstate = None if dstate is None else dstate.contiguous()
    gradients = kernels.Gradients(
        given, _address(dstate), *(t.data_ptr() for t in (dx, ddt, da, dB, dC, dD, dinitial_state))
    )
    _run(
        kernels.backward,
        plan,
        inputs,
        gradients,
        np.empty((0, 0), np.float32 if x.dtype == torch.float32 else np.float64),
    )
    dB, dC = (t[0] if plan.groups == 1 else t.sum(0) for t in (dB, dC))
    return dx, ddt, da.sum(0).t().contiguous(), dB, dC, dD.sum(0), dinitial_state


@torch.library.register_fake("kinn::selective_scan_backward")
def _backward_fake(dy, dstate, x, dt, a, B, C, D, checkpoints, outer, length, inner, joined, reverse, zoh):
    sequences = x.shape[0] * Path(outer, length, inner, joined, reverse).sequences
    dD = x.new_empty(0 if D is None else D.shape[0])
    shapes = (x.shape, dt.shape, a.shape, B.shape, C.shape)
    return (*(x.new_empty(shape) for shape in shapes), dD, x.new_empty((sequences, *a.shape)))


def _save_context(ctx, inputs, output):
    x, dt, a, B, C, D, initial_state, *ctx.options, save = inputs
    assert save, "the forward was told that no gradient is needed"
    ctx.with_initial_state = initial_state is not None
    ctx.save_for_backward(x, dt, a, B, C, D, output[2])
    ctx.set_materialize_grads(False)


def _gradients(ctx, dy, dstate, _):
    x, dt, a, B, C, D, checkpoints = ctx.saved_tensors
    dy = torch.zeros_like(x) if dy is None else dy
    *most, dD, dinitial_state = torch.ops.kinn.selective_scan_backward(
        dy, dstate, x, dt, a, B, C, D, checkpoints, *ctx.options
    )
    return (
        *most, None if D is None else dD, dinitial_state if ctx.with_initial_state else None,
        None, None, None, None, None, None, None,
    )  # fmt: skip


def _refuse_second_order(ctx, *gradients):
    raise RuntimeError(
        'the compiled selective scan is differentiable once; use backend="reference" for second derivatives'
    )


torch.library.register_autograd("kinn::selective_scan", _gradients, setup_context=_save_context)
torch.library.register_autograd("kinn::selective_scan_backward", _refuse_second_order)


def _chunk(n: int) -> int:
    """Steps between kept states: memory for states against scratch that stays in the nearer caches."""
    return max(16, min(64, 512 // max(n, 1)))


def _plan(kernels, x: Tensor, a: Tensor, path: Path, zoh: bool):
    (batch, _, d), n = x.shape, a.shape[1]
    blocks = min(batch * path.sequences, _MAX_BLOCKS)
    groups = _groups(blocks, -(-d // kernels.TILE), torch.get_num_threads())
    return kernels.Plan(batch, d, n, *path, zoh, _FLOOR[x.dtype], _chunk(n), blocks, groups)


def _groups(blocks: int, tiles: int, threads: int) -> int:
    """Groups of channel tiles to cut each block into: the fewest that keep the threads four fifths busy."""
    candidates = range(1, min(tiles, threads) + 1)
    busy = {}
    for groups in candidates:
        rounds = -(-blocks * groups // threads) * -(-tiles // groups)
        busy[groups] = blocks * tiles / (threads * rounds) if rounds else 1.0
        if busy[groups] >= 0.8:
            return groups
    return max(busy, key=busy.__getitem__, default=1)


def _run(kernel, plan, inputs, outputs, array) -> None:
    items, threads = plan.blocks * plan.groups, torch.get_num_threads()
    work = plan.batch * plan.outer * plan.length * plan.inner * plan.d * plan.n
    # More parts than threads even out what else the machine does; whole rounds of them leave no thread idle.
    parts = min(items, work // _PART_WORK, 16 * threads)
    parts -= parts % threads if parts > threads else 0
    if threads == 1 or parts <= 1:
        kernel(plan, inputs, outputs, 0, items, array)
    else:
        share(lambda i: kernel(plan, inputs, outputs, items * i // parts, items * (i + 1) // parts, array), parts)


def _inputs(kernels, x, dt, a, B, C, D, initial_state, checkpoints):
    """The kernels' view of the inputs, and the tensors that keep it alive."""
    rows, alive = zip(*(_rows(kernels, t) for t in (x, dt, B, C)))
    a, D, initial_state = (None if t is None else t.contiguous() for t in (a, D, initial_state))
    addresses = (_address(t) for t in (a, D, initial_state, checkpoints))
    return kernels.Inputs(*rows, *addresses), (*alive, a, D, initial_state)


def _rows(kernels, tensor: Tensor):
    if tensor.stride(-1) != 1 and tensor.shape[-1] != 1:
        tensor = tensor.contiguous()
    return kernels.Rows(tensor.data_ptr(), tensor.stride(0), tensor.stride(1)), tensor


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None or tensor.numel() == 0 else tensor.data_ptr()
