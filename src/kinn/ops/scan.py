"""Selective scans: sequences and grids of RC nodes driven through their coupling conductance (Eqs. 11, 20-22).

:func:`selective_scan` runs along a sequence, :func:`grid_scan` along one axis of a grid.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kinn.ops.backends import BACKENDS, backend_for
from kinn.ops.cpu import scan_cpu
from kinn.ops.discretize import DISCRETIZATIONS
from kinn.ops.expect import expect_floating, expect_one_of, expect_tensors
from kinn.ops.path import Path
from kinn.ops.reference import scan_reference
from kinn.ops.triton import scan_triton

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float

__all__ = ["grid_scan", "selective_scan"]

_SCANS = {"cpu": scan_cpu, "triton": scan_triton, "reference": scan_reference}


def selective_scan(
    x: Float[Tensor, "b l d"],
    dt: Float[Tensor, "b l d"],
    a: Float[Tensor, "d n"],
    B: Float[Tensor, "b l n"],
    C: Float[Tensor, "b l n"],
    D: Float[Tensor, "d"] | None = None,
    *,
    initial_state: Float[Tensor, "b d n"] | None = None,
    injection: str = "zoh",
    reverse: bool = False,
    return_state: bool = False,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """Scan a sequence: Eqs. (20) and (22), with the output of Eq. (11) summed over potentials.

    With `A = exp(-dt a)`, for every channel `d` and potential `n`::

        h[t] = A[t] h[t-1] + inject[t] B[t] x[t],    y[t] = sum_n C[t] h[t] + D x[t]

    where `inject = (1 - A) / a` ("zoh", exact for a drive that is constant over the step) or `dt` ("euler", Mamba's).

    Args:
        x: drive `(b, l, d)`.
        dt: step lengths `(b, l, d)`, non-negative.
        a: decay rates `(d, n)`, non-negative, in units of `1 / dt`.
        B: injection `(b, l, n)`.
        C: readout `(b, l, n)`.
        D: skip `(d,)`; None for none.
        initial_state: potentials before the first position visited `(b, d, n)`; None for zero.
        injection: "zoh" or "euler".
        reverse: run from the last position to the first.
        return_state: also return the potentials after the last position visited.
        backend: "cpu" (compiled kernels), "triton" (those for NVIDIA GPUs), "reference" (the loop that defines the
            result, twice differentiable) or "auto", the fastest one for the device.

    Returns:
        `y` `(b, l, d)` in the dtype of `x`, or `(y, state)` with `state` `(b, d, n)`. Half precision is computed, and
        its state kept, in float32.

    Raises:
        TypeError: an argument is not a floating-point tensor.
        ValueError: shapes or devices that do not fit, unknown option, negative `dt` or `a` (not looked for on a GPU).

    A constant unit drive charges the node as `1 - exp(-a t)`, whatever the step:

    >>> ones = torch.ones(1, 4, 1)
    >>> y = selective_scan(ones, 0.5 * ones, torch.ones(1, 1), ones, ones)
    >>> torch.allclose(y.flatten(), 1 - torch.exp(-0.5 * torch.arange(1, 5)))
    True
    """
    expect_floating("selective_scan", x=x)
    if x.dim() != 3:
        raise ValueError(f"selective_scan: x must have shape (b, l, d), got {tuple(x.shape)}; grid_scan takes grids")
    return _scan(
        "selective_scan",
        x,
        dt,
        a,
        B,
        C,
        D,
        0,
        "joined",
        "zero",
        initial_state,
        injection,
        reverse,
        return_state,
        backend,
    )


def grid_scan(
    x: Float[Tensor, "b *grid d"],
    dt: Float[Tensor, "b *grid d"],
    a: Float[Tensor, "d n"],
    B: Float[Tensor, "b *grid n"],
    C: Float[Tensor, "b *grid n"],
    D: Float[Tensor, "d"] | None = None,
    *,
    axis: int = -1,
    lines: str = "joined",
    boundary: str = "zero",
    initial_state: Tensor | None = None,
    injection: str = "zoh",
    reverse: bool = False,
    return_state: bool = False,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """Scan a grid of one to three axes along one of them; the equations are those of :func:`selective_scan`.

    Args:
        x: drive `(b, *grid, d)`.
        dt: step lengths `(b, *grid, d)`, non-negative.
        a: decay rates `(d, n)`, non-negative.
        B: injection `(b, *grid, n)`.
        C: readout `(b, *grid, n)`.
        D: skip `(d,)`; None for none.
        axis: grid axis that the scan runs along, counted among grid axes: 0 is the first one after the batch.
        lines: "joined", one raster sequence over the whole grid in which the lines along `axis` follow each other,
            the remaining axes row-major; or "separate", every line a sequence of its own.
        boundary: "zero" starts from rest (or `initial_state`); "periodic" starts each sequence in the state that it
            ends in: `h0 = hL / (1 - prod A)`, with `hL` from a first pass that starts from rest. A loop that loses
            less than `eps^2` of its charge, some 1e-14 in float32, counts as one that loses that much.
        initial_state: potentials before the first position visited: `(b, d, n)` for joined lines,
            `(b, *other axes, d, n)` for separate ones; None for zero.
        injection: "zoh" or "euler".
        reverse: run the same sequences from their last position to their first.
        return_state: also return the potentials after the last position visited, of `initial_state`'s shape.
        backend: "auto", "cpu", "triton" or "reference", as in :func:`selective_scan`.

    Returns:
        `y` `(b, *grid, d)` in the dtype of `x`, or `(y, state)`.

    Raises:
        TypeError: an argument is not a floating-point tensor.
        ValueError: shapes or devices that do not fit, unknown option, negative `dt` or `a`, an `initial_state` together
            with a periodic boundary.

    >>> x = torch.rand(2, 8, 6, 4)
    >>> B = C = torch.rand(2, 8, 6, 3)
    >>> y, state = grid_scan(x, x, torch.ones(4, 3), B, C, axis=0, lines="separate", return_state=True)
    >>> y.shape, state.shape
    (torch.Size([2, 8, 6, 4]), torch.Size([2, 6, 4, 3]))
    """
    expect_floating("grid_scan", x=x)
    grid_axes = x.dim() - 2
    if not 1 <= grid_axes <= 3:
        raise ValueError(f"grid_scan: x must have shape (b, *grid, d) with 1 to 3 grid axes, got {tuple(x.shape)}")
    if not -grid_axes <= axis < grid_axes:
        raise ValueError(
            f"grid_scan: axis must lie in [{-grid_axes}, {grid_axes - 1}] for {grid_axes} grid axes, got {axis}"
        )
    return _scan(
        "grid_scan", x, dt, a, B, C, D, axis % grid_axes, lines, boundary, initial_state, injection, reverse,
        return_state, backend,
    )  # fmt: skip


def _scan(
    where: str, x: Tensor, dt: Tensor, a: Tensor, B: Tensor, C: Tensor, D: Tensor | None, axis: int, lines: str,
    boundary: str, initial_state: Tensor | None, injection: str, reverse: bool, return_state: bool, backend: str,
) -> Tensor | tuple[Tensor, Tensor]:  # fmt: skip
    expect_one_of(where, ("joined", "separate"), lines=lines)
    expect_one_of(where, ("zero", "periodic"), boundary=boundary)
    expect_one_of(where, DISCRETIZATIONS, injection=injection)
    expect_one_of(where, BACKENDS, backend=backend)
    periodic = boundary == "periodic"
    if periodic and initial_state is not None:
        raise ValueError(f"{where}: a periodic boundary determines the initial state; pass initial_state=None")

    b, *grid = x.shape[:-1]
    path = Path.along(grid, axis, joined=lines == "joined", reverse=reverse)
    starts = (b, *(() if path.joined else (*grid[:axis], *grid[axis + 1 :])))
    _check_tensors(where, x, dt, a, B, C, D, initial_state, starts)

    dtype = torch.float32
    for tensor in (x, dt, a, B, C, D, initial_state):
        if tensor is not None:
            dtype = torch.promote_types(dtype, tensor.dtype)
    state_shape = (*starts, *a.shape)
    a = a.to(dtype)
    backend = backend_for(where, backend, x.device)

    def rows(tensor: Tensor) -> Tensor:
        """Flatten the grid; kernels for GPUs widen half precision as they read it."""
        return (tensor if backend == "triton" else tensor.to(dtype)).flatten(1, -2)

    arguments = (rows(x), rows(dt), a, rows(B), rows(C))
    skip = None if D is None else D.to(dtype)
    state = None if initial_state is None else initial_state.to(dtype).reshape(b * path.sequences, *a.shape)

    scan = _SCANS[backend]
    if periodic:
        _, state = scan(*arguments, skip, None, path, injection)
        lost = -torch.expm1(-path.gather(dt.to(dtype).flatten(1, -2)).sum(1).unsqueeze(-1) * a)  # 1 - prod A
        state = state / lost.clamp_min(torch.finfo(dtype).eps ** 2)  # less, and gradients would overflow
    y, state = scan(*arguments, skip, state, path, injection)
    y = y.reshape(x.shape).to(x.dtype)
    return (y, state.reshape(state_shape)) if return_state else y


def _check_tensors(
    where: str, x: Tensor, dt: Tensor, a: Tensor, B: Tensor, C: Tensor, D: Tensor | None, initial_state: Tensor | None,
    starts: tuple[int, ...],
) -> None:  # fmt: skip
    expect_floating(where, a=a)
    if a.dim() != 2 or a.shape[0] != x.shape[-1]:
        raise ValueError(f"{where}: a must have shape (d, n) with d = {x.shape[-1]} as in x, got {tuple(a.shape)}")
    positions, d, n = x.shape[:-1], x.shape[-1], a.shape[1]
    expected: dict[str, tuple[Tensor, Sequence[int]]] = {
        "dt": (dt, x.shape),
        "a": (a, a.shape),
        "B": (B, (*positions, n)),
        "C": (C, (*positions, n)),
    }
    if D is not None:
        expected["D"] = D, (d,)
    if initial_state is not None:
        expected["initial_state"] = initial_state, (*starts, d, n)
    expect_tensors(where, x.device, **expected)
