"""What drives the circuits of a network: the inputs that its blocks meet in a run, and from them the cells' drives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from kinn.nn.block import KirchhoffBlock
from kinn.ops.reference import LARGEST_DRIVE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from jaxtyping import Float

    from kinn.nn.cell import KirchhoffCell

__all__ = ["Met", "blocks_of", "driven_cells", "inputs_in"]


class Met(NamedTuple):
    """What a block is called with: its input `(b, *grid, d_model)` and the factor on its steps."""

    x: Float[Tensor, "b *grid c"]
    dt_scale: float


def blocks_of(where: str, model: nn.Module) -> dict[str, KirchhoffBlock]:
    """The Kirchhoff blocks of a model by name; "block" is the model itself.

    Raises:
        ValueError: there is none.
    """
    blocks = {name or "block": part for name, part in model.named_modules() if isinstance(part, KirchhoffBlock)}
    if not blocks:
        raise ValueError(f"{where}: {type(model).__name__} has no Kirchhoff block")
    return blocks


def inputs_in(where: str, run: Callable[[], object], blocks: Mapping[str, KirchhoffBlock]) -> dict[str, Met]:
    """What each of the blocks is called with in the course of `run`; the last call counts.

    Raises:
        ValueError: one is not called.
    """
    met: dict[str, Met] = {}

    def note(name: str) -> Callable[..., None]:
        def hook(block: Any, arguments: tuple[Tensor, ...], options: dict[str, Any]) -> None:
            x = arguments[0] if arguments else options["x"]
            met[name] = Met(x.to(block.norm.weight.dtype), options.get("dt_scale", 1.0))  # autocast's may differ

        return hook

    hooks = [block.register_forward_pre_hook(note(name), with_kwargs=True) for name, block in blocks.items()]
    try:
        with torch.no_grad():
            run()
    finally:
        for hook in hooks:
            hook.remove()
    for name in blocks.keys() - met.keys():
        raise ValueError(f"{where}: run does not call the block {name!r}")
    return met


def driven_cells(
    block: KirchhoffBlock, route: int, drive: Float[Tensor, "b *grid d"], dt_scale: float
) -> Iterator[tuple[KirchhoffCell, Float[Tensor, "b *grid d"]]]:
    """The cells along one of a block's routes, each with its drive; that of the first is given."""
    axis, reverse = block.routes[route]
    before = None
    for cell in cast("Any", block.cascades)[route]:
        if before is not None and block.wiring == "series":
            drive = before(
                drive, dt_scale=dt_scale, axis=axis, reverse=reverse, lines=block.lines, boundary=block.boundary
            ).clamp(-LARGEST_DRIVE, LARGEST_DRIVE)
        yield cell, drive
        before = cell
