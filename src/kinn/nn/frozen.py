"""From a trained network to its circuit: selective cells, frozen at one position, are RC nodes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import nn

from kinn.circuit import Bank, Cascade, RCNode
from kinn.nn.drives import blocks_of, driven_cells, inputs_in

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jaxtyping import Float
    from torch import Tensor

    from kinn.nn.cell import KirchhoffCell

__all__ = ["circuit_of"]


def circuit_of(
    model: nn.Module,
    run: Callable[[], object],
    *,
    channel: int,
    block: str | None = None,
    route: int = 0,
    position: Sequence[int] | None = None,
    sample: int = 0,
) -> Cascade:
    """The circuit that one channel of a block is along one route, around one position of one sample.

    Steps, injections and readouts of selective cells follow from their drives, in which the channels are mixed. Held at
    what they are at the position, they leave linear cells that keep the channels apart: a circuit from
    `block.drive(...)[..., channel]` to the sum of all orders `Y_1 + ... + Y_K` in that channel, Eq. (24). Every cell is
    a bank of RC nodes. Cells in series are a dense cascade of these, parallel cells one bank.

    The circuit's unit of time is a grid point along the route, on the block's own grid in the run: where its tables say
    s, read points. `Cascade.simulate_cells` with steps of 1 is the scan with the frozen coefficients, to rounding;
    injection "euler" becomes the injection rate that has its effect over a whole step. All capacitances are 1.

    Args:
        model: a module with :class:`KirchhoffBlock` in it, or one itself.
        run: calls the model, on any input; its last call counts.
        channel: inner channel of the block, 0 to `d_inner - 1`.
        block: its name in the model, as in :func:`time_scales`; None for the first.
        route: which of the block's routes, from 0.
        position: on the block's grid, one index for each axis; None for the middle.
        sample: which element of the run's batch.

    Raises:
        ValueError: no such block, route, channel, position or sample; `run` does not call the block; a cell whose step
            or decay rate is not positive and finite there.

    >>> from kinn.nn import KirchhoffBlock
    >>> block, x = KirchhoffBlock(4, d_state=3, routes=1), torch.rand(1, 8, 8, 4)
    >>> circuit = circuit_of(block, lambda: block(x), channel=5, position=(4, 4))
    >>> len(circuit.stages), len(circuit.poles), circuit.dense
    (2, 6, True)
    """
    blocks = blocks_of("circuit_of", model)
    name = next(iter(blocks)) if block is None else block
    if name not in blocks:
        raise ValueError(f"circuit_of: the blocks are {', '.join(blocks)}, got {name!r}")
    chosen = blocks[name]
    _expect_index("route", route, len(chosen.routes))
    _expect_index("channel", channel, chosen.d_inner)
    met = inputs_in("circuit_of", run, {name: chosen})[name]
    batch, *grid = met.x.shape[:-1]
    position = [size // 2 for size in grid] if position is None else list(position)
    _expect_index("sample", sample, batch)
    if len(position) != len(grid):
        raise ValueError(f"circuit_of: position must have {len(grid)} indices, one for each grid axis, got {position}")
    for axis, (index, size) in enumerate(zip(position, grid)):
        _expect_index(f"position along axis {axis}", index, size)
    with torch.no_grad():
        drive = chosen.drive(met.x[sample : sample + 1], met.dt_scale)
        banks = [
            _frozen(cell, driven[0][tuple(position)], channel, met.dt_scale)
            for cell, driven in driven_cells(chosen, route, drive, met.dt_scale)
        ]
    if chosen.wiring == "series":
        return Cascade(banks, dense=True)
    return Cascade([Bank([node for bank in banks for node in bank.nodes], sum(bank.d for bank in banks))])


def _frozen(cell: KirchhoffCell, drive: Float[Tensor, "d"], channel: int, dt_scale: float) -> Bank:
    """One channel of a cell with the coefficients that a drive gives it, over steps of 1."""
    dt, B, C = (values.double() for values in cell.coefficients(drive))
    dt = dt_scale * dt[channel].item()
    nodes = []
    for a, b, c in zip(cell.A_log[channel].double().exp().tolist(), B.tolist(), C.tolist()):
        a, b = a * dt, b * dt
        if cell.injection == "euler":
            b *= a / -math.expm1(-a) if a else 1.0
        nodes.append(RCNode.from_rates(a, b, c))
    return Bank(nodes, cell.D[channel].item())


def _expect_index(what: str, index: int, size: int) -> None:
    if not 0 <= index < size:
        raise ValueError(f"circuit_of: {what} must lie in 0 .. {size - 1}, got {index}")
