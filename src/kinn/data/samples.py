"""A selection of the samples of a store, read a few at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from kinn.data.stores import Store, TensorStore, rows_per_read


class Samples:
    """Samples of equal shape, in memory or in a file.

    Args:
        store: where they lie.
        rows: which rows of the store, in which order; all of them if None.

    Example:
        >>> from kinn.data.stores import TensorStore
        >>> samples = Samples(TensorStore(torch.arange(12.0).reshape(6, 2), what="numbers"))
        >>> samples.subset(slice(-2, None)).read([0])
        tensor([[8., 9.]])
    """

    def __init__(self, store: Store, *, rows: Sequence[int] | None = None) -> None:
        self.store = store
        self.rows = range(store.shape[0]) if rows is None else rows

    @property
    def shape(self) -> tuple[int, ...]:
        """`(N, ...)`."""
        return (len(self.rows), *self.store.shape[1:])

    @property
    def n_bytes(self) -> int:
        """Size in memory."""
        return 4 * math.prod(self.shape)

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, indices: Sequence[int], *, window: slice = slice(None)) -> Tensor:
        """Read samples.

        Args:
            indices: which, in `0 .. N - 1`; repeats allowed.
            window: cuts the first axis after the sample axis (the frames of a trajectory).

        Returns:
            float32 `(len(indices), ...)`, finite, the caller's own.
        """
        if len(indices) == 0:
            return self.store.read([self.rows[0]], window)[:0]
        return self.store.read([self.rows[i] for i in indices], window)

    def read_windows(self, indices: Sequence[int], starts: Sequence[int], lengths: Sequence[int]) -> list[Tensor]:
        """Read a window of each sample, cut into pieces that follow one another.

        Args:
            indices: which samples, in `0 .. N - 1`; at least one.
            starts: where each window begins on the first axis after the sample axis; the window must fit.
            lengths: of the pieces.

        Returns:
            one float32 tensor per piece, `(len(indices), length, ...)`, contiguous, the caller's own.

        Example:
            >>> from kinn.data.stores import TensorStore
            >>> samples = Samples(TensorStore(torch.arange(12.0).reshape(2, 6), what="numbers"))
            >>> [piece.tolist() for piece in samples.read_windows([0, 1], [0, 3], [1, 2])]
            [[[0.0], [9.0]], [[1.0, 2.0], [10.0, 11.0]]]
        """
        rows = [self.rows[i] for i in indices]
        if isinstance(self.store, TensorStore):
            return self.store.read_windows(rows, starts, lengths)
        windows = [slice(start, start + sum(lengths)) for start in starts]
        parts = [self.store.read([row], window)[0].split(list(lengths)) for row, window in zip(rows, windows)]
        return [torch.stack(pieces) for pieces in zip(*parts)]

    def batches(self, batch_size: int) -> Iterator[Tensor]:
        """All samples in order, `batch_size` at a time."""
        for start in range(0, len(self), batch_size):
            yield self.read(range(start, min(start + batch_size, len(self))))

    def subset(self, indices: slice | Sequence[int]) -> Samples:
        """Some of the samples, without reading them.

        Args:
            indices: a slice, indices, or a mask: N booleans.

        Raises:
            IndexError: if an index lies outside `-N .. N - 1`.
            ValueError: if there are booleans, but not N.
            TypeError: if it is none of these.
        """
        if isinstance(indices, slice):
            return Samples(self.store, rows=self.rows[indices])
        chosen = np.asarray(indices)
        if chosen.ndim != 1 or (chosen.size and chosen.dtype.kind not in "biu"):
            raise TypeError(f"expected a slice, a list of indices or of booleans to choose samples by, got {indices!r}")
        if chosen.dtype.kind == "b":
            if len(chosen) != len(self):
                raise ValueError(f"a mask for {len(self)} samples must have as many booleans, but has {len(chosen)}")
            chosen = chosen.nonzero()[0]
        return Samples(self.store, rows=[self.rows[i] for i in chosen.tolist()])

    def in_memory(self) -> Samples:
        """The same samples, loaded."""
        if isinstance(self.store, TensorStore):
            return self
        loaded = torch.empty(self.shape)
        reach = rows_per_read(self.shape)
        order = sorted(range(len(self)), key=self.rows.__getitem__)
        start = 0
        while start < len(order):  # neighbours in the file together, whatever the order of the selection
            first = self.rows[order[start]]
            stop = start + 1
            while stop < len(order) and self.rows[order[stop]] - first < reach:
                stop += 1
            loaded[order[start:stop]] = self.read(order[start:stop])
            start = stop
        return Samples(TensorStore(loaded, what="data"))
