"""The cascaded operator: `K` selective cells in a row along every route over a grid (Eqs. 4, 23, 24)."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from kinn.ops.backends import BACKENDS, backend_for
from kinn.ops.cpu import cascade_cpu, cascade_fits
from kinn.ops.discretize import DISCRETIZATIONS
from kinn.ops.expect import expect_floating, expect_one_of, expect_positive, expect_tensors
from kinn.ops.path import Path
from kinn.ops.reference import LARGEST_DRIVE, bounded
from kinn.ops.scan import grid_scan
from kinn.ops.triton import cascade_fits_triton, cascade_triton

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float

__all__ = ["cascade_scan"]


def cascade_scan(
    x: Float[Tensor, "b *grid d"],
    projection: Float[Tensor, "r k rank+2n d"],
    dt_weight: Float[Tensor, "r k d rank"],
    dt_bias: Float[Tensor, "r k d"],
    a: Float[Tensor, "r k d n"],
    D: Float[Tensor, "r k d"],
    *,
    routes: Sequence[tuple[int, bool]],
    wiring: str = "series",
    injection: str = "zoh",
    couplings: str = "free",
    dt_scale: float = 1.0,
    lines: str = "joined",
    boundary: str = "zero",
    backend: str = "auto",
) -> Float[Tensor, "b *grid d"]:
    """Run `k` selective cells per route, and sum the outputs of all cells of all routes: Eqs. (4), (21)-(24).

    Cell `k` of route `r` forms its steps and couplings from its drive `u`, and scans along the route as
    :func:`grid_scan` does::

        low, B, C = split(u projection[r, k]^T, (rank, n, n))
        dt = dt_scale softplus(low dt_weight[r, k]^T + dt_bias[r, k])
        y_k = grid_scan(u, dt, a[r, k], B, C, D[r, k])

    Its drive is the output of the cell before it ("series", the first one is driven by `x`) or `x` ("parallel"). A cell
    is cubic in its drive; so that a few in series stay finite in single precision, each drives the next by no more than
    2^32, far above what a trained cascade hands on, and nothing is learned beyond that. With "bounded" couplings a cell
    is linear in large drives instead: `B / sqrt(1 + mean(B^2))` takes the place of `B`, means over the potentials, and
    likewise for `C`.

    Args:
        x: drive `(b, *grid, d)`, on one to three grid axes.
        projection: to the steps' low-rank factor, the injection and the readout, `(r, k, rank + 2 n, d)`.
        dt_weight: from the low-rank factor to the steps `(r, k, d, rank)`.
        dt_bias: of the steps `(r, k, d)`.
        a: decay rates `(r, k, d, n)`, non-negative.
        D: skips `(r, k, d)`.
        routes: per route, the grid axis that it runs along (0 is the first one after the batch) and whether it runs in
            reverse.
        wiring: "series" or "parallel".
        injection: "zoh" or "euler".
        couplings: "free" or "bounded".
        dt_scale: positive factor on every step.
        lines: "joined" or "separate", as in :func:`grid_scan`.
        boundary: "zero" or "periodic", as in :func:`grid_scan`.
        backend: "auto", "cpu", "triton" or "reference", as in :func:`selective_scan`.

    Returns:
        `(b, *grid, d)` in the dtype of `x`, computed in float32 (float64 if an argument is) under any autocast state.

    The compiled backend of the CPU takes all cells of a route through a short piece of the route while it is in the
    processor's caches: what cells form and hand on is never stored. It needs a zero boundary, and batch elements and
    routes enough for half of the threads. That of a GPU does so in registers, for free couplings, up to 256 channels, a
    zero boundary, and sequences that are short or enough for half of the GPU. Otherwise the cells are scanned one after
    the other, each by compiled kernels.

    Raises:
        TypeError: an argument is not a floating-point tensor.
        ValueError: shapes or devices that do not fit, unknown option, negative `a`, a `dt_scale` that is not positive.

    >>> y = cascade_scan(
    ...     torch.rand(2, 8, 6, 4), torch.rand(2, 3, 5, 4), torch.rand(2, 3, 4, 1), torch.rand(2, 3, 4),
    ...     torch.ones(2, 3, 4, 2), torch.ones(2, 3, 4), routes=[(1, False), (0, False)],
    ... )
    >>> y.shape
    torch.Size([2, 8, 6, 4])
    """
    where = "cascade_scan"
    expect_one_of(where, ("series", "parallel"), wiring=wiring)
    expect_one_of(where, DISCRETIZATIONS, injection=injection)
    expect_one_of(where, ("free", "bounded"), couplings=couplings)
    expect_one_of(where, ("joined", "separate"), lines=lines)
    expect_one_of(where, ("zero", "periodic"), boundary=boundary)
    expect_one_of(where, BACKENDS, backend=backend)
    expect_positive(where, dt_scale=dt_scale)
    _check_tensors(x, projection, dt_weight, dt_bias, a, D, routes)

    dtype = torch.float32
    for tensor in (x, projection, dt_weight, dt_bias, a, D):
        dtype = torch.promote_types(dtype, tensor.dtype)
    projection, dt_weight, dt_bias, a, D = (t.to(dtype) for t in (projection, dt_weight, dt_bias, a, D))
    backend = backend_for(where, backend, x.device)
    joined = lines == "joined"
    if (
        backend == "triton"
        and couplings == "free"
        and cascade_fits_triton(x, dt_weight, a, [axis for axis, _ in routes], joined, boundary == "periodic")
    ):
        y = cascade_triton(
            x, projection, dt_weight, dt_bias, a, D, routes, joined, wiring == "series", injection, float(dt_scale)
        )
    elif (
        backend != "cpu"
        or boundary == "periodic"
        or 0 in (*a.shape[2:], dt_weight.shape[-1])  # its kernels form no empty products
        or not cascade_fits(x.shape[0], len(routes), x.shape[-1])
    ):
        meta = x.device.type == "meta"  # knows no autocast, and is nobody's backend by name
        with nullcontext() if meta else torch.autocast(x.device.type, enabled=False):
            y = _by_cells(
                x.to(dtype), projection, dt_weight, dt_bias, a, D, routes, wiring, couplings, dt_scale,
                injection=injection, lines=lines, boundary=boundary, backend="auto" if meta else backend,
            )  # fmt: skip
    else:
        grid = x.shape[1:-1]
        paths = [Path.along(grid, axis, joined=joined, reverse=reverse) for axis, reverse in routes]
        drive = x.to(dtype).flatten(1, -2)
        y = cascade_cpu(
            drive, projection, dt_weight, dt_bias, a, D, paths, wiring == "series", injection, couplings == "bounded",
            float(dt_scale),
        )  # fmt: skip
    return y.view(x.shape).to(x.dtype)


def _by_cells(
    x: Tensor, projection: Tensor, dt_weight: Tensor, dt_bias: Tensor, a: Tensor, D: Tensor,
    routes: Sequence[tuple[int, bool]], wiring: str, couplings: str, dt_scale: float, **options: Any,
) -> Tensor:  # fmt: skip
    """The definition: one cell after the other, one route after the other."""
    rank, n = dt_weight.shape[-1], a.shape[-1]
    total = torch.zeros_like(x)
    for r, (axis, reverse) in enumerate(routes):
        drive = x
        for k in range(a.shape[1]):
            low, B, C = F.linear(drive, projection[r, k]).split((rank, n, n), dim=-1)
            if couplings == "bounded":
                B, C = bounded(B), bounded(C)
            dt = F.softplus(F.linear(low, dt_weight[r, k], dt_bias[r, k])) * dt_scale
            y = grid_scan(drive, dt, a[r, k], B, C, D[r, k], axis=axis, reverse=reverse, **options)
            assert isinstance(y, Tensor), "no state was asked for"
            total = total + y
            drive = y.clamp(-LARGEST_DRIVE, LARGEST_DRIVE) if wiring == "series" else drive
    return total


def _check_tensors(
    x: Tensor, projection: Tensor, dt_weight: Tensor, dt_bias: Tensor, a: Tensor, D: Tensor,
    routes: Sequence[tuple[int, bool]],
) -> None:  # fmt: skip
    where = "cascade_scan"
    expect_floating(where, x=x, dt_weight=dt_weight, a=a)
    axes, d = x.dim() - 2, x.shape[-1]
    if not 1 <= axes <= 3:
        raise ValueError(f"{where}: x must have shape (b, *grid, d) with 1 to 3 grid axes, got {tuple(x.shape)}")
    if not routes or not all(0 <= axis < axes for axis, _ in routes):
        raise ValueError(f"{where}: routes must be pairs (axis, reverse) with axes in 0 .. {axes - 1}, got {routes}")
    if a.dim() != 4 or a.shape[0] != len(routes) or a.shape[1] < 1 or a.shape[2] != d:
        raise ValueError(
            f"{where}: a must have shape (r, k, d, n) with r = {len(routes)} as in routes, d = {d} as in x and k at "
            f"least 1, got {tuple(a.shape)}"
        )
    if dt_weight.dim() != 4:
        raise ValueError(f"{where}: dt_weight must have shape (r, k, d, rank), got {tuple(dt_weight.shape)}")
    r, k, _, n = a.shape
    rank = dt_weight.shape[-1]
    expect_tensors(
        where, x.device,
        projection=(projection, (r, k, rank + 2 * n, d)), dt_weight=(dt_weight, (r, k, d, rank)),
        dt_bias=(dt_bias, (r, k, d)), a=(a, a.shape), D=(D, (r, k, d)),
    )  # fmt: skip
