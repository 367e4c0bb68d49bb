"""Fields of a file on the coarser grids that it can give.

What a coarser grid means depends on where the points lie. Of a periodic domain every second, third or so point is kept.
Of centres of cells that would leave points that are nobody's centres: values are means over the smaller cells in a
larger one. Nodes include both ends of the domain, where Poisson's source and potential vanish: they are sums of sines,
which are evaluated at the new nodes.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kinn.data import OperatorDataset, TrajectoryDataset
from kinn.data.samples import Samples
from kinn.data.stores import TensorStore
from kinn.nn.regridding import Points

if TYPE_CHECKING:
    from jaxtyping import Float

Data = OperatorDataset | TrajectoryDataset
_ZERO = 1e-3  # of the largest value: fields vanish at nodes of the boundary, up to how a file was rounded


def why_not(data: Data, resolution: int, points: Points) -> str | None:
    """Why the data cannot be brought to `resolution` points a side; None if they can."""
    side = data.grid[0]
    if len(data.grid) != 2:
        return f"it has {len(data.grid)} axes, not two"
    if any(other != side for other in data.grid):
        return "the grid is not square"
    if resolution > side:
        return f"{resolution} are more than there are"
    if points != "nodes":
        return f"{side} are no multiple of {resolution}" if side % resolution else None
    if resolution == side or all(_vanishes(field) for field in _first(data)):
        return None
    return "fields do not vanish on all edges of the grid, so that these are not the ends of the domain"


def on_grid(data: Data, resolution: int, points: Points) -> Data:
    """The data at `resolution` points a side, loaded; themselves where that is their own.

    Args:
        data: pairs or trajectories on a square grid.
        resolution: points a side, such that `why_not` has no objection.
        points: where they lie.
    """
    if data.grid[0] == resolution:
        return data

    def coarser(samples: Samples) -> Samples:
        fields = torch.cat([coarsened(batch, resolution, points) for batch in samples.batches(64)])
        return Samples(TensorStore(fields, what="data"))

    metadata = {name: value for name, value in data.metadata.items() if name != "resolution"}
    if isinstance(data, OperatorDataset):
        return OperatorDataset(coarser(data.inputs), coarser(data.outputs), metadata=metadata)
    return TrajectoryDataset(coarser(data.trajectories), time=data.time, metadata=metadata)


def coarsened(x: Float[Tensor, "*batch n n"], resolution: int, points: Points) -> Float[Tensor, "*batch m m"]:
    """Fields on a coarser grid of the same domain.

    Args:
        x: fields on `n` points a side.
        resolution: `m`, at most `n`; a divisor of `n` but for nodes.
        points: "periodic", "centres", or "nodes" of fields that vanish on the boundary.

    Example:
        >>> coarsened(torch.arange(16.0).reshape(4, 4), 2, "centres")
        tensor([[ 2.5000,  4.5000],
                [10.5000, 12.5000]])
    """
    every = x.shape[-1] // resolution
    if points == "periodic":
        return x[..., ::every, ::every].contiguous()
    if points == "centres":
        return x.unflatten(-1, (resolution, every)).unflatten(-3, (resolution, every)).mean((-3, -1))
    matrix = _sine_interpolation(x.shape[-1], resolution)
    return (matrix @ x.double() @ matrix.T).to(x.dtype)


def _sine_interpolation(n: int, m: int) -> Tensor:
    """From values at `n` nodes to those at `m` of the series of `n - 2` sines through them, `(m, n)`."""
    modes = torch.arange(1, n - 1, dtype=torch.float64)

    def sines(points: int) -> Tensor:
        table = torch.sin(math.pi * torch.arange(points, dtype=torch.float64)[:, None] / (points - 1) * modes)
        table[[0, -1]] = 0.0  # where float64 leaves 1e-16
        return table

    return 2 / (n - 1) * sines(m) @ sines(n).T


def _first(data: Data) -> tuple[Tensor, ...]:
    first = data[0]
    return first if isinstance(first, tuple) else (first,)


def _vanishes(field: Float[Tensor, "*batch n n"]) -> bool:
    edges = [field[..., [0, -1], :], field[..., [0, -1]]]
    return all(edge.abs().max() <= _ZERO * field.abs().max() for edge in edges)
