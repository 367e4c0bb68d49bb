"""The whole cascade in Triton: the torch operators `kinn::cascade_scan_triton` and its backward.

Nothing is stored between forward and backward but the states of the cells every few steps; steps, couplings and the
outputs of all cells but the last are formed again. Routes write planes of their own, which are summed afterwards.
"""

# Triton types neither launches nor the arguments of kernels.
# pyright: reportArgumentType=false, reportCallIssue=false, reportIndexIssue=false

from __future__ import annotations

import ctypes
import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from kinn.ops.autograd import exporting, needs_saving, register_cascade
from kinn.ops.triton.available import launching
from kinn.ops.triton.scan import lacks_bfloat16, processors_of, with_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float

_TIME = {"forward": 16, "backward": 8}  # steps in a tile, as many as a thread holds of each channel and potential
_THREADS = 256  # to a program: each may then have all the registers that there are for one
_CHUNK = 64  # steps between kept states
_PROGRAMS = 4  # to a multiprocessor, at most: bounds the partial sums of the parameters' gradients
_CELLS, _ROUTES = 4, 7
_SUMS = 4096  # numbers per kind of parameter whose gradients a program sums in registers
_SHORT = 256  # steps, of sequences that are not worth cutting into segments
PRODUCTS = "ieee"  # precision of products over channels; Triton's "tf32x3" uses tensor cores


def cascade_fits_triton(
    x: Tensor, dt_weight: Tensor, a: Tensor, axes: Sequence[int], joined: bool, periodic: bool
) -> bool:
    """Whether the fused cascade takes these sizes, and keeps half of the GPU busy or has short sequences only.

    Cell by cell, a long sequence is cut into segments that run side by side; a cascade cannot be cut, as the steps of a
    cell follow from the output of the one before.
    """
    (routes, cells, d, n), rank = a.shape, dt_weight.shape[-1]
    if periodic or routes > _ROUTES or cells > _CELLS or d > _THREADS or 0 in (n, rank, *x.shape[1:]):
        return False
    if cells * _channels(d) * _power_of_two(max(n, rank)) > _SUMS:
        return False
    grid = x.shape[1:-1]
    m = math.prod(grid)
    if joined:
        return m <= _SHORT or exporting() or 2 * x.shape[0] * routes >= processors_of(x)
    lengths = [grid[axis] for axis in axes]
    return max(lengths) <= _SHORT or exporting() or 2 * x.shape[0] * sum(m // t for t in lengths) >= processors_of(x)


def cascade_triton(
    x: Float[Tensor, "b *grid d"],
    projection: Float[Tensor, "r k p d"],
    dt_weight: Float[Tensor, "r k d rank"],
    dt_bias: Float[Tensor, "r k d"],
    a: Float[Tensor, "r k d n"],
    D: Float[Tensor, "r k d"],
    routes: Sequence[tuple[int, bool]],
    joined: bool,
    series: bool,
    injection: str,
    dt_scale: float,
) -> Float[Tensor, "b m d"]:
    """GPU counterpart of scanning cell after cell, with a zero boundary.

    The parameters all float32 or all float64, which is computed in; `x` of any floating-point type, `y` of the same.
    Differentiable once.
    """
    given = x.dtype
    if lacks_bfloat16(x):
        x = x.to(a.dtype)
    save = needs_saving(x, projection, dt_weight, dt_bias, a, D)
    grid, codes = list(x.shape[1:-1]), [2 * axis + reverse for axis, reverse in routes]
    y, _ = torch.ops.kinn.cascade_scan_triton(
        x.flatten(1, -2), projection, dt_weight, dt_bias, a, D, grid, codes, joined, series, injection == "zoh",
        dt_scale, save,
    )  # fmt: skip
    return y if y.dtype == given else y.to(given)


@torch.library.custom_op(
    "kinn::cascade_scan_triton",
    mutates_args=(),
    device_types=("cuda", "cpu"),
    schema="(Tensor x, Tensor projection, Tensor dt_weight, Tensor dt_bias, Tensor a, Tensor D, SymInt[] grid, "
    "int[] routes, bool joined, bool series, bool zoh, float dt_scale, bool save) -> (Tensor, Tensor)",
)
def _forward(x, projection, dt_weight, dt_bias, a, D, grid, routes, joined, series, zoh, dt_scale, save):
    from kinn.ops.triton import _cascade_kernels

    y, kept = _forward_fake(x, projection, dt_weight, dt_bias, a, D, grid, routes, joined, series, zoh, dt_scale, save)
    plan = _plan(x, grid, routes, joined)
    x = with_rows(x)
    parameters = [t.contiguous() for t in (projection, dt_weight, dt_bias, a, D)]
    planes = y if len(routes) == 1 else a.new_empty(len(routes), *x.shape)
    options = cascade_options(*a.shape[1:], dt_weight.shape[-1], a.dtype, "forward")
    with launching("cascade", x):
        if plan.programs:
            _cascade_kernels.forward[(plan.programs,)](
                x, *parameters, planes, kept, *x.stride()[:2], x.numel(), *_sizes(plan, x, dt_weight, a, dt_scale),
                ROUTES=len(routes), JOINED=joined, SERIES=series, ZOH=zoh, KEEP=save, **options,
            )  # fmt: skip
    return y if len(routes) == 1 else torch.sum(planes, 0, dtype=a.dtype).to(x.dtype), kept


@torch.library.register_fake("kinn::cascade_scan_triton")
def _forward_fake(x, projection, dt_weight, dt_bias, a, D, grid, routes, joined, series, zoh, dt_scale, save):
    _, cells, d, n = a.shape
    kept = (_chunks(x.shape[0], grid, routes, joined), cells, n, d) if save else (0,)
    return x.new_empty(x.shape), a.new_empty(kept)


@torch.library.custom_op(
    "kinn::cascade_scan_triton_backward",
    mutates_args=(),
    device_types=("cuda", "cpu"),
    schema="(Tensor dy, Tensor x, Tensor projection, Tensor dt_weight, Tensor dt_bias, Tensor a, Tensor D, "
    "Tensor kept, SymInt[] grid, int[] routes, bool joined, bool series, bool zoh, float dt_scale) -> "
    "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def _backward(dy, x, projection, dt_weight, dt_bias, a, D, kept, grid, routes, joined, series, zoh, dt_scale):
    from kinn.ops.triton import _cascade_kernels

    plan = _plan(x, grid, routes, joined)
    (_, cells, d, n), rank, programs = a.shape, dt_weight.shape[-1], plan.programs
    dy, x = with_rows(dy), with_rows(x)
    parameters = [t.contiguous() for t in (projection, dt_weight, dt_bias, a, D)]
    options = cascade_options(cells, d, n, rank, a.dtype, "backward")
    dx = x.new_empty(x.shape) if len(routes) == 1 else a.new_empty(len(routes), *x.shape)
    states = a.new_empty(programs, options["TILES"], cells, n, d)
    drives = a.new_empty(programs, options["TILES"], cells - 1, options["TIME"], d)
    shapes = ((rank + 2 * n, d), (rank, d), (d,), (n, d), (d,))
    sums = [a.new_empty(programs, cells, *shape) for shape in shapes]
    with launching("cascade backward", x):
        if programs:
            _cascade_kernels.backward[(programs,)](
                dy, x, *parameters, kept, states, drives, dx, *sums, *dy.stride()[:2], *x.stride()[:2], x.numel(),
                *_sizes(plan, x, dt_weight, a, dt_scale),
                ROUTES=len(routes), JOINED=joined, SERIES=series, ZOH=zoh, **options,
            )  # fmt: skip
    dprojection, dlift, dbias, da, dD = (t.unflatten(0, (plan.stride, len(routes))).sum(0) for t in sums)
    dx = dx if len(routes) == 1 else dx.sum(0).to(x.dtype)
    return dx, dprojection, dlift.mT.contiguous(), dbias, da.mT.contiguous(), dD


@torch.library.register_fake("kinn::cascade_scan_triton_backward")
def _(dy, x, projection, dt_weight, dt_bias, a, D, kept, grid, routes, joined, series, zoh, dt_scale):
    return tuple(t.new_empty(t.shape) for t in (x, projection, dt_weight, dt_bias, a, D))


register_cascade("cascade_scan_triton")


def cascade_options(cells: int, d: int, n: int, rank: int, dtype: torch.dtype, which: str) -> dict:
    """What the "forward" or "backward" kernel is compiled for by sizes."""
    import triton.language as tl

    channels, potentials = _channels(d), _power_of_two(n)
    block = min(potentials, _THREADS // channels)
    time = _TIME[which] if dtype == torch.float32 else _TIME[which] // 2
    return {
        "CELLS": cells,
        "TIME": time,
        "TILES": _CHUNK // time,
        "BLOCK_D": channels,
        "BLOCK_N": block,
        "BLOCKS": potentials // block,
        "BLOCK_R": _power_of_two(rank),
        "PRODUCTS": PRODUCTS,
        "TYPE": tl.float64 if dtype == torch.float64 else tl.float32,
        "num_warps": max(1, channels * block // 32),
        "num_stages": 1,
        "maxnreg": 255,  # said, since the assembler likes to halve them and spill
        "enable_fp_fusion": True,  # said, so that no version of Triton warns that its default is about to change
    }


class _Plan(NamedTuple):
    """How the work is cut: program `p` takes the sequences `p // routes` and every `stride`-th after it of a route."""

    codes: int
    grid: tuple[int, ...]
    stride: int
    programs: int


def _plan(x: Tensor, grid: Sequence[int], routes: Sequence[int], joined: bool) -> _Plan:
    batch, m = x.shape[0], math.prod(grid)
    most = batch * (1 if joined else max(m // grid[code // 2] for code in routes))
    stride = min(most, -(-_PROGRAMS * processors_of(x) // len(routes)))
    ahead = (1,) * (3 - len(grid))
    codes = sum((code + 2 * len(ahead)) << (4 * r) for r, code in enumerate(routes))
    return _Plan(codes, (*ahead, *grid), stride, stride * len(routes))


def _chunks(batch: int, grid: Sequence[int], routes: Sequence[int], joined: bool) -> int:
    """Chunks of all sequences of all routes."""
    m = math.prod(grid)
    lengths = [m if joined else grid[code // 2] for code in routes]
    return batch * sum(m // length * -(-length // _CHUNK) for length in lengths)


def _sizes(plan: _Plan, x: Tensor, dt_weight: Tensor, a: Tensor, dt_scale: float):
    d, n = a.shape[2:]
    scale = ctypes.c_float(dt_scale).value
    ways = plan.codes, *plan.grid, x.shape[0], plan.stride
    return *ways, d, n, dt_weight.shape[-1], scale, dt_scale - scale


def _channels(d: int) -> int:
    return max(8, _power_of_two(d))  # what a product on a GPU takes


def _power_of_two(size: int) -> int:
    return 1 << max(size - 1, 0).bit_length()
