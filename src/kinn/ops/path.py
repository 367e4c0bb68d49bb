"""The order in which a scan visits the positions of a grid, as four integers that a kernel can index with."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Shaped
    from torch import Tensor


class Path(NamedTuple):
    """Visiting order of a row-major grid scanned along one axis.

    With the axis scanned along in the middle, a grid is `(outer, length, inner)`: position `p` of line `(o, i)` lies at
    index `(o * length + p) * inner + i` of the flattened grid. Lines follow each other with `i` faster than `o`.

    Attributes:
        outer: product of the grid axes before the one scanned along.
        length: size of the axis scanned along.
        inner: product of the grid axes after it.
        joined: True where all lines form one sequence, False where each line is a sequence of its own.
        reverse: True where the sequences run from their last position to their first.
    """

    outer: int
    length: int
    inner: int
    joined: bool
    reverse: bool

    @classmethod
    def along(cls, grid: Sequence[int], axis: int, *, joined: bool, reverse: bool) -> Path:
        """The path over a grid of shape `grid` along its axis `axis` (non-negative)."""
        return cls(math.prod(grid[:axis]), grid[axis], math.prod(grid[axis + 1 :]), joined, reverse)

    @property
    def sequences(self) -> int:
        """Number of independent sequences per batch element."""
        return 1 if self.joined else self.outer * self.inner

    @property
    def steps(self) -> int:
        """Number of positions in each sequence."""
        return self.outer * self.length * self.inner if self.joined else self.length

    def gather(self, x: Shaped[Tensor, "b m c"]) -> Shaped[Tensor, "s l c"]:
        """Bring flattened grids `(b, m, c)` into sequences `(b * sequences, l, c)`."""
        b, _, c = x.shape
        lines = x.view(b, self.outer, self.length, self.inner, c).transpose(2, 3)
        out = lines.reshape(b * self.sequences, self.steps, c)
        return out.flip(1) if self.reverse else out

    def scatter(self, y: Shaped[Tensor, "s l c"], batch: int) -> Shaped[Tensor, "b m c"]:
        """Bring sequences back to flattened grids: the inverse of :meth:`gather`."""
        c = y.shape[-1]
        y = y.flip(1) if self.reverse else y
        lines = y.reshape(batch, self.outer, self.inner, self.length, c).transpose(2, 3)
        return lines.reshape(batch, self.outer * self.length * self.inner, c)
