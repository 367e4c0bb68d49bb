"""Fields on other grids than the one in training: interpolation there and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor

from kinn.ops.expect import expect_floating, expect_one_of, expect_positive
from kinn.ops.resampling import kaiser_beta

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jaxtyping import Float

__all__ = ["Points", "on_training_grid", "regrid"]

Points = Literal["centres", "nodes", "periodic"]
_HALF_WIDTH = 4  # of the kernel, in spacings
_BETA = kaiser_beta(60.0)  # waves of four points and more are kept to 0.2 %
_WHOLE = 0.01  # a number of points is whole to within this: ratios are typed with a few digits


def regrid(x: Float[Tensor, "*batch *grid"], size: Sequence[int], *, points: Points) -> Float[Tensor, "*batch *size"]:
    """Interpolate fields to other points of the same domain.

    A windowed sinc over the eight nearest points, bent so that constants and slopes are exact; beyond an edge the field
    goes on with its last slope. Like data sets that are made for a coarser grid, a coarser field is samples of the
    finer one: it is not smoothed first.

    Args:
        x: fields, whose last axes are the grid.
        size: points along each of these axes.
        points: where they lie: at the "centres" of equal cells, at "nodes" that include both ends, or "periodic",
            at equal distances from one end, the field being periodic.

    Raises:
        TypeError: if `x` is not a floating-point tensor.
        ValueError: if `x` has fewer axes than `size`, an axis has no point, or `points` is none of these.

    >>> regrid(torch.tensor([[0.0, 1.0, 2.0]]), [5], points="nodes").round(decimals=6)
    tensor([[0.0000, 0.5000, 1.0000, 1.5000, 2.0000]])
    """
    expect_floating("regrid", x=x)
    expect_one_of("regrid", get_args(Points), points=points)
    if len(size) > x.dim() or min((*size, *x.shape[x.dim() - len(size) :]), default=1) < 1:
        raise ValueError(f"regrid: cannot bring fields of shape {tuple(x.shape)} to a grid of {tuple(size)} points")
    for axis, wanted in zip(range(-len(size), 0), size):
        if wanted != x.shape[axis]:
            matrix = _matrix(x.shape[axis], wanted, points).to(x.device, x.dtype)
            x = (x.movedim(axis, -1) @ matrix.T).movedim(-1, axis)
    return x


def on_training_grid(
    network: Callable[[Tensor], Tensor],
    x: Float[Tensor, "b i *grid"],
    dt_scale: float,
    *,
    periodic: bool,
    points: Points | None = None,
) -> Float[Tensor, "b o *grid"]:
    """Apply a network that is tied to the grid of its training to fields on another.

    The fields are brought to that grid, and the network's answer back (:func:`regrid`). What the training's grid
    cannot hold is lost on the way.

    Args:
        network: maps `(b, i, *grid)` to `(b, o, *grid)`.
        x: fields on a grid of any spacing.
        dt_scale: their spacing over that in training; 1 applies the network to `x` as it is.
        periodic: the domain closes on itself.
        points: where the points of another domain lie, "centres" or "nodes"; None takes centres of cells if that makes
            their number in training whole, nodes with both ends if that does.

    Raises:
        ValueError: if `dt_scale` is not positive, or makes no whole number of points; if `points` are told and are
            neither of these, or the domain is periodic.
    """
    able: tuple[Points, ...] = ("periodic",) if periodic else ("centres", "nodes")
    if points is not None:
        expect_one_of("on_training_grid", able, points=points)
    if dt_scale == 1:
        return network(x)
    expect_positive("on_training_grid", dt_scale=dt_scale)
    grid = x.shape[2:]
    for where in able if points is None else (points,):
        if whole := points_at(grid, dt_scale, where):
            return regrid(network(regrid(x, whole, points=where)), grid, points=where)
    shown = " x ".join(map(str, grid))
    n = grid[0]
    near = [f"{max(round(n * dt_scale), 1) / n:.6g}" + ("" if periodic else " (centres of cells)")]
    if not periodic and n > 1:
        near.append(f"{max(round((n - 1) * dt_scale), 1) / (n - 1):.6g} (nodes with both ends)")
    raise ValueError(
        f"a grid of {shown} points at {dt_scale:g} times the spacing in training has no counterpart there; near it has "
        f"{' and '.join(near)}"
    )


def points_at(grid: Sequence[int], dt_scale: float, points: Points) -> tuple[int, ...] | None:
    """The grid of training whose spacing is that of `grid` over `dt_scale`, if there is one."""
    own = 1 if points == "nodes" else 0  # nodes are one more than intervals
    size = [(n - own) * dt_scale + own for n in grid]
    whole = tuple(round(n) for n in size)
    return whole if all(abs(n - m) < _WHOLE and m >= 1 for n, m in zip(size, whole)) else None


def _matrix(n: int, wanted: int, points: Points) -> Tensor:
    """Interpolation from `n` points to `wanted` as a matrix `(wanted, n)`."""
    at = torch.arange(wanted, dtype=torch.float64)
    if points == "centres":
        at = (at + 0.5) * (n / wanted) - 0.5
    else:
        at = at * ((n - 1) / max(wanted - 1, 1) if points == "nodes" else n / wanted)
    if n == 1:
        return torch.ones_like(at)[:, None]
    first = at.floor() - (_HALF_WIDTH - 1)
    taps = first[:, None] + torch.arange(2 * _HALF_WIDTH, dtype=torch.float64)  # the nearest points of each
    weights = _weights(taps - at[:, None])
    matrix = torch.zeros(wanted, n, dtype=torch.float64)
    index = taps.long()
    if points == "periodic":
        return matrix.scatter_add(1, index % n, weights)
    inside = index.clamp(0, n - 1)
    beyond = (index - inside) * weights  # along the last slope: f[end] + distance (f[end] - f[next])
    matrix = matrix.scatter_add(1, inside, weights)
    for end, neighbour in ((0, 1), (n - 1, n - 2)):
        slope = torch.where(inside == end, beyond, 0).sum(1)
        sign = end - neighbour
        matrix[:, end] += sign * slope
        matrix[:, neighbour] -= sign * slope
    return matrix


def _weights(t: Tensor) -> Tensor:
    """Windowed sinc at distances `t (m, taps)` in spacings, changed least to make constants and slopes exact."""
    window = torch.i0(_BETA * (1 - (t / _HALF_WIDTH) ** 2).clamp(min=0).sqrt()) / torch.i0(t.new_tensor(_BETA))
    weights = torch.sinc(t) * window
    powers = torch.stack((torch.ones_like(t), t), 1)
    lacking = t.new_tensor([1.0, 0.0]) - (powers * weights[:, None]).sum(2)
    bend = torch.linalg.solve((powers * window[:, None]) @ powers.mT, lacking)
    return weights + window * (bend[:, None] @ powers)[:, 0]
