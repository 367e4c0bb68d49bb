"""The selective scan in Triton: the torch operators `kinn::selective_scan_triton` and its backward.

The operators see flattened grids `(b, m, c)`, in half precision too, and the path as integers; nothing is moved in
memory. The forward keeps the state every few steps, from which the backward recomputes the ones between.
"""

# Triton types neither launches nor the arguments of kernels.
# pyright: reportArgumentType=false, reportCallIssue=false, reportIndexIssue=false

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from kinn.ops.autograd import needs_saving, register_scan
from kinn.ops.path import Path
from kinn.ops.triton.available import launching

if TYPE_CHECKING:
    from jaxtyping import Float

_TILE = {torch.float32: 256, torch.float64: 128}  # channels times potentials of a warp: several per lane
_PIECE = {"forward": 4, "backward": 8}  # steps unrolled: loads under way at a time, and states in registers
_BUSY, _FULL = 8, 16  # warps per multiprocessor: enough to do without segments; to aim for with them
_LONG = 256  # steps from which on a sequence is cut: below, the passes between cost more than they save
_AHEAD = 4  # segments whose ends are loaded at a time
_INTERPRETER_PROCESSORS = 1


def scan_triton(
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
    """GPU counterpart of :func:`kinn.ops.reference.scan_reference`: same arguments, and result.

    `a` (float32 or float64), `D` and `initial_state` have the type that is computed in; the others any floating-point
    type, `y` that of `x`. Differentiable once. A negative `dt` or `a` is not looked for: that would wait for the GPU.
    """
    given = x.dtype
    if lacks_bfloat16(x, dt, B, C):
        x, dt, B, C = (t.to(a.dtype) for t in (x, dt, B, C))
    save = needs_saving(x, dt, a, B, C, D, initial_state)
    scan = torch.ops.kinn.selective_scan_triton
    y, state, _ = scan(x, dt, a, B, C, D, initial_state, *path, injection == "zoh", save)
    return y if y.dtype == given else y.to(given), state


@torch.library.custom_op(
    "kinn::selective_scan_triton",
    mutates_args=(),
    device_types=("cuda", "cpu"),
    schema="(Tensor x, Tensor dt, Tensor a, Tensor B, Tensor C, Tensor? D, Tensor? initial_state, "
    "SymInt outer, SymInt length, SymInt inner, bool joined, bool reverse, bool zoh, bool save) -> "
    "(Tensor, Tensor, Tensor)",
)
def _forward(x, dt, a, B, C, D, initial_state, outer, length, inner, joined, reverse, zoh, save):
    from kinn.ops.triton import _kernels

    path = Path(outer, length, inner, joined, reverse)
    y, state, kept = _forward_fake(x, dt, a, B, C, D, initial_state, outer, length, inner, joined, reverse, zoh, save)
    plan = _plan(x, a, path)
    x, dt, B, C = map(with_rows, (x, dt, B, C))
    a, D = a.contiguous(), None if D is None else D.contiguous()
    start = None if initial_state is None else initial_state.transpose(1, 2).contiguous()
    last = a.new_empty(plan.sequences, plan.n, plan.d)
    options = kernel_options(plan.d, plan.n, path, a.dtype, "forward")
    with launching("scan", x):
        if plan.programs and plan.segments > 1:
            start = _enter(plan, path, x, dt, a, B, C, x, start, options, ZOH=zoh, ADJOINT=False)
        if plan.programs:
            _kernels.forward[(plan.programs,)](
                x, dt, a, B, C, a if D is None else D, a if start is None else start, y, last, kept,
                *_strides(x, dt, B, C, y), plan.d, plan.n, *plan.ways(path), plan.segments, plan.chunks, plan.run,
                ZOH=zoh, START=start is not None, KEEP=save, SKIP=D is not None, **options,
            )  # fmt: skip
    return y, state.copy_(last.transpose(1, 2)), kept


@torch.library.register_fake("kinn::selective_scan_triton")
def _forward_fake(x, dt, a, B, C, D, initial_state, outer, length, inner, joined, reverse, zoh, save):
    path = Path(outer, length, inner, joined, reverse)
    (batch, _, d), n = x.shape, a.shape[1]
    sequences = batch * path.sequences
    kept = a.new_empty((sequences, -(-path.steps // chunk_steps(n)), n, d) if save else (0,))
    return x.new_empty(x.shape), a.new_empty((sequences, d, n)), kept


@torch.library.custom_op(
    "kinn::selective_scan_triton_backward",
    mutates_args=(),
    device_types=("cuda", "cpu"),
    schema="(Tensor dy, Tensor? dstate, Tensor x, Tensor dt, Tensor a, Tensor B, Tensor C, Tensor? D, "
    "Tensor kept, SymInt outer, SymInt length, SymInt inner, bool joined, bool reverse, bool zoh) -> "
    "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def _backward(dy, dstate, x, dt, a, B, C, D, kept, outer, length, inner, joined, reverse, zoh):
    from kinn.ops.triton import _kernels

    path = Path(outer, length, inner, joined, reverse)
    dx, ddt, _, _, _, _, dinitial_state = _backward_fake(
        dy, dstate, x, dt, a, B, C, D, kept, outer, length, inner, joined, reverse, zoh
    )
    plan = _plan(x, a, path)
    n, d, places = plan.n, plan.d, plan.sequences * plan.segments
    dy, x, dt, B, C = map(with_rows, (dy, x, dt, B, C))
    a, D = a.contiguous(), None if D is None else D.contiguous()
    # Sums over the tiles are taken in the type that is computed in; of one tile there is nothing to sum.
    dB, dC = (t.new_empty((plan.tiles, *t.shape), dtype=t.dtype if plan.tiles == 1 else a.dtype) for t in (B, C))
    da, dD = a.new_empty(places, n, d), a.new_empty(places, 0 if D is None else d)
    dstart = a.new_empty(plan.sequences, n, d)
    start = None if dstate is None else dstate.transpose(1, 2).contiguous()
    options = kernel_options(plan.d, plan.n, path, a.dtype, "backward")
    with launching("scan backward", x):
        if plan.programs and plan.segments > 1:
            start = _enter(plan, path, x, dt, a, B, C, dy, start, options, ZOH=zoh, ADJOINT=True)
        if plan.programs:
            _kernels.backward[(plan.programs,)](
                dy, x, dt, a, B, C, a if D is None else D, kept, a if start is None else start,
                dx, ddt, da, dB, dC, dD, dstart, *_strides(dy, x, dt, B, C), x.shape[1], B.numel(),
                d, n, *plan.ways(path), plan.segments, plan.chunks, plan.run,
                ZOH=zoh, START=start is not None, SKIP=D is not None, **options,
            )  # fmt: skip
    dB, dC = ((t[0] if len(t) == 1 else t.sum(0)).to(like.dtype) for t, like in ((dB, B), (dC, C)))
    dinitial_state.copy_(dstart.transpose(1, 2))
    return dx, ddt, da.sum(0).t().contiguous(), dB, dC, dD.sum(0), dinitial_state


@torch.library.register_fake("kinn::selective_scan_triton_backward")
def _backward_fake(dy, dstate, x, dt, a, B, C, D, kept, outer, length, inner, joined, reverse, zoh):
    sequences = x.shape[0] * Path(outer, length, inner, joined, reverse).sequences
    dD = a.new_empty(0 if D is None else D.shape[0])
    return (*(t.new_empty(t.shape) for t in (x, dt, a, B, C)), dD, a.new_empty((sequences, *a.shape)))


register_scan("selective_scan_triton")


def chunk_steps(n: int) -> int:
    """Steps between kept states: memory for states against steps computed again."""
    return 16 if n <= 16 else 32


def block_sizes(d: int, n: int, dtype: torch.dtype) -> tuple[int, int]:
    """Channels and potentials of a tile, powers of two: the most channels that leave few lanes outside of `d`."""
    potentials = 1 << max(n - 1, 0).bit_length()
    channels = max(1, min(32, _TILE[dtype] // potentials, 1 << max(d - 1, 0).bit_length()))
    while channels > 8 and -(-d // channels) * channels > 1.25 * d:
        channels //= 2
    return channels, potentials


def kernel_options(d: int, n: int, path: Path, dtype: torch.dtype, which: str) -> dict:
    """What the kernels of the "forward" or "backward" are compiled for, beside the arguments that are there or not."""
    import triton.language as tl

    channels, potentials = block_sizes(d, n, dtype)
    light = channels * potentials <= 64  # a step of such a tile is few bytes: more of them under way
    return {
        "JOINED": path.joined,
        "REVERSE": path.reverse,
        "CHUNK": chunk_steps(n),
        "PIECE": _PIECE["backward" if light else which],
        "BLOCK_D": channels,
        "BLOCK_N": potentials,
        "TYPE": tl.float64 if dtype == torch.float64 else tl.float32,
        "num_warps": max(1, min(8, channels * potentials // (2 * _TILE[dtype]))),
        "enable_fp_fusion": True,  # said, so that no version of Triton warns that its default is about to change
    }


class _Plan(NamedTuple):
    """Sizes, and how the work is cut: `programs` of one tile of one segment, which is a `run` of chunks."""

    d: int
    n: int
    sequences: int
    tiles: int
    chunks: int
    segments: int
    run: int
    programs: int

    def ways(self, path: Path) -> tuple[int, ...]:
        return path.steps, path.length, path.inner, path.sequences, self.tiles


def lacks_bfloat16(*tensors: Tensor) -> bool:
    """Whether some are of bfloat16 on a GPU that cannot convert it, of a compute capability below 8.0."""
    return any(t.dtype == torch.bfloat16 and t.is_cuda and _is_old(t.device.index) for t in tensors)


def _is_old(index: int) -> bool:
    return torch.cuda.get_device_capability(index) < (8, 0)


def processors_of(x: Tensor) -> int:
    """Multiprocessors of the device that a tensor is on."""
    return _processors(x.device.index) if x.is_cuda else _INTERPRETER_PROCESSORS


def _processors(index: int) -> int:
    return torch.cuda.get_device_properties(index).multi_processor_count


for _function in (_is_old, _processors):  # as in available.py
    _function._dynamo_marked_constant = True  # pyright: ignore[reportFunctionMemberAccess]


def _plan(x: Tensor, a: Tensor, path: Path) -> _Plan:
    (batch, _, d), n = x.shape, a.shape[1]
    sequences, chunks = batch * path.sequences, -(-path.steps // chunk_steps(n))
    tiles = -(-d // block_sizes(d, n, a.dtype)[0])
    processors = processors_of(x)
    segments = 1
    if path.steps >= _LONG and 0 < sequences * tiles < _BUSY * processors:
        segments = max(1, min(chunks, -(-_FULL * processors // (sequences * tiles))))
    run = -(-chunks // segments)
    segments = max(1, -(-chunks // run) if run else 1)
    return _Plan(d, n, sequences, tiles, chunks, segments, run, sequences * tiles * segments)


def _enter(plan: _Plan, path: Path, x, dt, a, B, C, dy, start, options: dict, **ways: bool) -> Tensor:
    """The states, or adjoints, that enter the segments: `(sequences, segments, n, d)`."""
    from kinn.ops.triton import _kernels

    ends = a.new_empty(plan.sequences, plan.segments, plan.n, plan.d)
    total = a.new_empty(plan.sequences, plan.segments, plan.d)
    piece = kernel_options(plan.d, plan.n, path, a.dtype, "forward")["PIECE"]
    _kernels.local_ends[(plan.programs,)](
        x, dt, a, B, C, dy, ends, total, *_strides(x, dt, B, C, dy), plan.d, plan.n, *plan.ways(path), plan.segments,
        plan.run, **ways, **{**options, "PIECE": piece},
    )  # fmt: skip
    shape = {k: options[k] for k in ("BLOCK_D", "BLOCK_N", "TYPE", "num_warps", "enable_fp_fusion")}
    _kernels.carry[(plan.sequences * plan.tiles,)](
        a, a if start is None else start, ends, total, plan.d, plan.n, plan.tiles, plan.segments,
        START=start is not None, ADJOINT=ways["ADJOINT"], AHEAD=_AHEAD, **shape,
    )  # fmt: skip
    return ends


def with_rows(tensor: Tensor) -> Tensor:
    """A `(b, m, c)` tensor with unit stride in `c`, which is all that kernels take for granted."""
    return tensor if tensor.stride(-1) == 1 or tensor.shape[-1] == 1 else tensor.contiguous()


def _strides(*tensors: Tensor) -> list[int]:
    return [stride for tensor in tensors for stride in tensor.stride()[:2]]
