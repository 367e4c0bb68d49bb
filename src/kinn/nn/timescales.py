"""What a trained network's circuits do: how long their potentials remember."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from torch import nn

from kinn.nn.block import KirchhoffBlock
from kinn.nn.drives import Met, blocks_of, driven_cells, inputs_in

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from jaxtyping import Float
    from torch import Tensor

    from kinn.nn.cell import KirchhoffCell
    from kinn.nn.routes import Route

__all__ = ["TimeScale", "time_scales"]

_MOST_STEPS = 1 << 14  # positions by channels that stand for all: quantiles need no more

Quantiles = tuple[float, float, float]


class TimeScale(NamedTuple):
    """Steps and time constants of one cell, over its channels, potentials and the positions looked at.

    A time constant `1 / (a dt)` counts grid points along the route: over one, a potential that is no longer driven
    falls to `1/e`. They are points of the block's own grid, which in UKNO and KINN is coarser than the model's input;
    times the spacing of that grid they give a length. The 10 %, 50 % and 90 % quantiles are given.

    Attributes:
        block: the block's name in the model.
        route: the direction of the scan.
        cell: the cell's place in the cascade, from 1.
        step: quantiles of the steps `dt`.
        time_constant: quantiles of the time constants, in points of the block's own grid.
        grid: points of that grid along each axis in the run; None at rest.
    """

    block: str
    route: Route
    cell: int
    step: Quantiles
    time_constant: Quantiles
    grid: tuple[int, ...] | None = None


def time_scales(model: nn.Module, run: Callable[[], object] | None = None) -> list[TimeScale]:
    """The time scales of every cell of every Kirchhoff block in a model.

    Steps follow from the drive: a selective cell holds or forgets according to its input. With `run` they are those of
    the drives that the cells meet in it; without, those of a cell at rest, whose drive is zero.

    Args:
        model: a module with :class:`KirchhoffBlock` in it, or one itself.
        run: calls the model, on any input; its last call counts.

    Raises:
        ValueError: no block in the model, or `run` does not call every one of them.

    Untrained cells have steps between 0.001 and 0.1, and decay rates of 1 to 16:

    >>> for scale in time_scales(KirchhoffBlock(4, routes=1)):
    ...     print(scale.route, scale.cell, scale.time_constant[0] > 0.6, scale.time_constant[2] < 1000)
    Route(axis=1, reverse=False) 1 True True
    Route(axis=1, reverse=False) 2 True True
    """
    blocks = blocks_of("time_scales", model)
    met = {} if run is None else inputs_in("time_scales", run, blocks)
    with torch.no_grad():
        return [scale for name, block in blocks.items() for scale in _of_block(name, block, met.get(name))]


def _of_block(name: str, block: KirchhoffBlock, met: Met | None) -> Iterator[TimeScale]:
    if met is None:
        first, dt_scale, grid = block.norm.weight.new_zeros(1, *block.n_axes * (1,), block.d_inner), 1.0, None
    else:
        first, dt_scale, grid = block.drive(*met), met.dt_scale, tuple(met.x.shape[1:-1])
    for r, (route, cells) in enumerate(zip(block.routes, cast("Any", block.cascades))):
        # at rest every drive is zero, and no scan needed to tell
        driven = ((cell, first) for cell in cells) if met is None else driven_cells(block, r, first, dt_scale)
        for place, (cell, drive) in enumerate(driven, start=1):
            dt = dt_scale * cell.coefficients(drive)[0]
            yield TimeScale(name, route, place, *_quantiles(dt.flatten(0, -2), cell), grid)


def _quantiles(dt: Float[Tensor, "m d"], cell: KirchhoffCell) -> tuple[Quantiles, Quantiles]:
    most = max(1, _MOST_STEPS // dt.shape[-1])
    if len(dt) > most:  # by chance: every n-th position may be one column of the grid
        dt = dt[torch.randperm(len(dt), generator=torch.Generator().manual_seed(0))[:most].to(dt.device)]
    dt = dt.double()
    constants = 1 / (dt.unsqueeze(-1) * cell.A_log.double().exp())
    at = dt.new_tensor((0.1, 0.5, 0.9))
    steps, taus = (cast("Quantiles", tuple(torch.quantile(v.flatten(), at).tolist())) for v in (dt, constants))
    return steps, taus
