"""The sizes of our models, and what is computed at them: a selective scan, or a cascade over four routes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from kinn.bench.cascades import ROUTES, cell_by_cell
from kinn.bench.counting import cascade_cost, scan_cost
from kinn.ops import cascade_scan, selective_scan

Normal = Callable[..., Tensor]


class Shape(NamedTuple):
    """A selective scan: sequences, steps, channels, potentials per channel."""

    b: int
    l: int  # noqa: E741
    d: int
    n: int

    work = "scan"
    injection = "euler"  # the one of all peers: the same work for all

    def __str__(self) -> str:
        return f"batch {self.b}, length {self.l}, {self.d} channels, {self.n} potentials"

    def shortened(self) -> Shape:
        """Small enough for a loop in float64, and of an odd length."""
        return Shape(min(self.b, 2), min(self.l, 299), self.d, self.n)

    def cost(self, injection: str) -> tuple[float, float]:
        """Bytes and operations of forward and backward."""
        return scan_cost(*self, backward=True, injection=injection)

    def exact(self, injection: str, backend: str = "reference") -> Callable[..., Any]:
        """The definition, or another backend of ours."""
        return lambda **tensors: selective_scan(**tensors, injection=injection, backend=backend)

    def tensors(self, normal: Normal) -> dict[str, Tensor]:
        """Arguments from a function that draws normal ones."""
        b, l, d, n = self  # noqa: E741
        return {
            "x": normal(b, l, d),
            "dt": F.softplus(normal(b, l, d) - 3),
            "a": torch.arange(1.0, n + 1).expand(d, n) * torch.exp(0.3 * normal(d, n)),
            "B": normal(b, l, n),
            "C": normal(b, l, n),
            "D": normal(d),
        }


class CascadeShape(NamedTuple):
    """A cascade over a square field: fields, points along a side, channels, potentials per channel, cells, rank."""

    b: int
    side: int
    d: int
    n: int
    cells: int
    rank: int

    work = "cascade"
    injection = "zoh"  # all contenders are built from our scans: they do what our models do

    def __str__(self) -> str:
        return (
            f"batch {self.b}, {self.side} x {self.side}, {self.d} channels, {self.n} potentials, "
            f"{self.cells} cells on {len(ROUTES)} routes"
        )

    def shortened(self) -> CascadeShape:
        """Small enough for loops in float64, of an odd length, and short enough for any GPU to fuse the cascade."""
        return self._replace(b=min(self.b, 2), side=min(self.side, 15))

    def cost(self, injection: str) -> tuple[float, float]:
        """Bytes and operations of forward and backward."""
        return cascade_cost(
            self.b, self.side**2, self.d, self.n, self.cells, len(ROUTES), self.rank, injection=injection
        )

    def exact(self, injection: str, backend: str = "reference") -> Callable[..., Any]:
        """The definition; of another backend the scans of the cells, since the fused cascade is what is judged."""
        if backend != "reference":
            return cell_by_cell
        return partial(cascade_scan, routes=ROUTES, injection=injection, backend="reference")

    def tensors(self, normal: Normal) -> dict[str, Tensor]:
        """Arguments from a function that draws normal ones."""
        b, side, d, n, cells, rank = self
        return cascade_tensors(normal, (b, side, side, d), len(ROUTES), cells, n, rank)


def cascade_tensors(
    normal: Normal, fields: tuple[int, ...], routes: int, cells: int, potentials: int, rank: int
) -> dict[str, Tensor]:
    """Arguments of a cascade over fields of a shape `(b, *grid, d)`, from a function that draws normal ones."""
    each, d, n = (routes, cells), fields[-1], potentials
    return {
        "x": normal(*fields),
        "projection": normal(*each, rank + 2 * n, d) * 0.4 * (n * d) ** -0.5,
        "dt_weight": normal(*each, d, rank) * rank**-0.5,
        "dt_bias": normal(*each, d) - 3,
        "a": torch.arange(1.0, n + 1).expand(*each, d, n).contiguous(),
        "D": torch.ones(*each, d),
    }


SHAPES: dict[str, Shape | CascadeShape] = {
    "fkno": Shape(20, 4096, 40, 16),
    "vision-56": Shape(8, 3136, 192, 1),
    "vision-28": Shape(8, 784, 384, 1),
    "vision-14": Shape(8, 196, 768, 1),
    "vision-7": Shape(8, 49, 1536, 1),
    "long": Shape(1, 65536, 64, 16),
    "short-16": Shape(2, 1024, 64, 16),
    "short-1": Shape(2, 1024, 64, 1),
    "fkno-cascade": CascadeShape(20, 64, 40, 16, 2, 2),
    "vision-56-cascade": CascadeShape(8, 56, 192, 1, 2, 6),
}
QUICK: dict[str, Shape | CascadeShape] = {
    "short-16": Shape(2, 256, 32, 16),
    "short-1": Shape(2, 256, 32, 1),
    "small-cascade": CascadeShape(2, 16, 32, 16, 2, 2),
}


def normal_numbers() -> Normal:
    """A function that draws normal numbers of a shape; of two such functions both draw the same."""
    generator = torch.Generator().manual_seed(0)
    return lambda *sizes: torch.randn(sizes, generator=generator)


def draw(shape: Shape | CascadeShape, device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """The arguments at a shape, always the same ones."""
    return {name: tensor.to(device) for name, tensor in shape.tensors(normal_numbers()).items()}
