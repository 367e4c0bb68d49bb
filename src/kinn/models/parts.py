"""Parts of the operators that are tied to a grid; those of UKNO and CNO take fields channels-last, `(b, h, w, c)`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import nn

from kinn.models.checks import check_fields
from kinn.nn import on_training_grid

if TYPE_CHECKING:
    from collections.abc import Callable

    from jaxtyping import Float
    from torch import Tensor

    from kinn.nn.regridding import Points

__all__ = ["Beyond", "Chain", "Convolution", "OnTrainingGrid", "PlainConv", "Residual", "UShape", "plain_pair"]

Beyond = Literal["zeros", "replicate", "circular"]  # what lies beyond the grid


class Chain(nn.Sequential):
    """Modules that take channels last, one after the other; batch norms get them in the place they know."""

    def forward(self, input: Tensor) -> Tensor:
        for module in self:
            if isinstance(module, nn.modules.batchnorm._BatchNorm):  # not a class of our own, which SyncBatchNorm drops
                input = module(input.movedim(-1, 1)).movedim(1, -1)
            else:
                input = module(input)
        return input


class PlainConv(nn.Conv2d):
    """3x3 convolution with channels last; the move is a view."""

    def __init__(self, in_channels: int, out_channels: int, beyond: Beyond) -> None:
        super().__init__(in_channels, out_channels, 3, padding=1 if beyond == "zeros" else 0)
        self.beyond = beyond

    def forward(self, input: Float[Tensor, "b h w i"]) -> Float[Tensor, "b h w o"]:
        for axis in (1, 2) if self.beyond != "zeros" else ():
            first, last = input.narrow(axis, 0, 1), input.narrow(axis, -1, 1)
            # Not by torch's padding modes: the gradient of "replicate" fails in compiled networks.
            ends = (last, first) if self.beyond == "circular" else (first, last)
            input = torch.cat([ends[0], input, ends[1]], axis)
        return super().forward(input.movedim(-1, 1)).movedim(1, -1)


class Convolution(Chain):
    """Convolution, batch norm, activation; the activation may change the resolution."""

    def __init__(self, conv: nn.Module, channels: int, activation: nn.Module) -> None:
        super().__init__(conv, nn.BatchNorm2d(channels), activation)


class Residual(nn.Module):
    """Two convolutions around an activation, added to the input."""

    def __init__(self, channels: int, conv: Callable[[int, int], nn.Module], activation: nn.Module) -> None:
        super().__init__()
        self.branch = Chain(
            conv(channels, channels),
            nn.BatchNorm2d(channels),
            activation,
            conv(channels, channels),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        return x + self.branch(x)


class OnTrainingGrid(nn.Module):
    """An operator that is tied to the grid of its training, whose sizes halve `levels` times.

    A model sets these and gives :meth:`_apply_network`, `(b, in_channels, h, w)` to `(b, out_channels, h, w)`.
    """

    in_channels: int
    levels: int
    periodic: bool = False

    def forward(
        self, x: Float[Tensor, "b i h w"], *, dt_scale: float = 1.0, points: Points | None = None
    ) -> Float[Tensor, "b o h w"]:
        """Map `(b, in_channels, h, w)` to `(b, out_channels, h, w)`.

        Where `2^levels` does not divide `h` or `w`, fields go on beyond their edges with the outermost values, to the
        next size that it divides, and what comes of that is cut off. A periodic domain cannot go on: its sizes must
        fit.

        Args:
            x: input fields.
            dt_scale: the grid's spacing over the spacing in training. The network works on the grid of training, whose
                sizes then count; fields are interpolated there and back.
            points: where the grid's points lie, "centres" of cells or "nodes" with both ends; None guesses, centres
                first (:func:`kinn.nn.on_training_grid`).

        Raises:
            ValueError: an input of another shape, a periodic domain that does not halve as often, a `dt_scale` that
                makes no whole number of points, or `points` that the domain does not have.
        """
        check_fields(x, self.in_channels)
        return on_training_grid(self._apply_halving, x, dt_scale, periodic=self.periodic, points=points)

    def _apply_halving(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        divisor = 2**self.levels
        missing = [-size % divisor for size in (height, width)]
        if not any(missing):
            return self._apply_network(x)
        if self.periodic:
            raise ValueError(
                f"{type(self).__name__}: sizes of a periodic grid must be divisible by {divisor}, "
                f"got {height} x {width}"
            )
        for axis, more in zip((2, 3), missing):
            before, after = (
                x.narrow(axis, end, 1).expand(*x.shape[:axis], count, *x.shape[axis + 1 :])
                for end, count in ((0, more // 2), (-1, more - more // 2))
            )
            x = torch.cat((before, x, after), axis)  # the gradient of torch's own padding fails in compiled networks
        top, left = (more // 2 for more in missing)
        return self._apply_network(x)[..., top : top + height, left : left + width]

    def _apply_network(self, x: Tensor) -> Tensor:
        """The model itself, on its training's grid."""
        raise NotImplementedError


class UShape(OnTrainingGrid):
    """The U of an operator: lift, way down, neck, way up, project; every level joins its skip on the way up.

    Level 0 has `width / 2` channels at full resolution, level `i` has `2^(i-1) width` at `1 / 2^i` of it. A network
    sets the modules below, and changes what it does otherwise on the way. Inside, fields are channels-last,
    `(b, h, w, c)`.
    """

    lift: nn.Module
    down: nn.ModuleList
    skips: nn.ModuleList
    neck: nn.Module
    up: nn.ModuleList
    project: nn.Module

    @classmethod
    def channels_of(cls, width: int, levels: int) -> tuple[list[int], list[int]]:
        """Channels by level, and those that reach each level on the way up: alone from the neck, later with a skip."""
        if width < 2 or width % 2:
            raise ValueError(f"{cls.__name__}: width must be even and at least 2, got {width}")
        channels = [width // 2, *(width * 2**level for level in range(levels))]
        return channels, [*(2 * c for c in channels[1:-1]), channels[-1]]

    def _apply_network(self, x: Tensor) -> Tensor:
        x = self.lift(x.movedim(1, -1))
        skips = []
        for level, (down, skip) in enumerate(zip(self.down, self.skips)):
            x = self.before_skip(level, x)
            skips.append(skip(x))
            x = down(x)
        x = self.turn(x)
        for level in reversed(range(self.levels)):
            x = torch.cat((self.rise(level, x), skips[level]), dim=-1)
        return self.project(x).movedim(-1, 1)

    def before_skip(self, level: int, x: Tensor) -> Tensor:
        """What is done on the way down before a level's skip."""
        return x

    def turn(self, x: Tensor) -> Tensor:
        """What is done at the coarsest level."""
        return self.neck(x)

    def rise(self, level: int, x: Tensor) -> Tensor:
        """The way up to a level from the one below."""
        return self.up[level](x)


def plain_pair(
    in_channels: int, hidden: int, out_channels: int, activation: nn.Module, *, beyond: Beyond
) -> nn.Sequential:
    """Lift or project: two plain convolutions around an activation."""
    return nn.Sequential(PlainConv(in_channels, hidden, beyond), activation, PlainConv(hidden, out_channels, beyond))
