"""Where samples lie: in memory, in one array of a file, or in one group of a file per sample.

A store has a `shape` `(N, ...)` and reads some of its rows as a finite float32 tensor. Stores that read files open
them on first use, once per process, so that they can be pickled and shared with the workers of a DataLoader.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import h5py
import numpy as np
import torch
from torch import Tensor


class Store(Protocol):
    """What `Samples` asks of a store."""

    shape: tuple[int, ...]

    def read(self, rows: Sequence[int], window: slice) -> Tensor:
        """Rows as float32 `(len(rows), ...)`; `window` cuts the first axis after the sample axis."""
        ...


def to_float32(values: Any, *, what: str) -> Tensor:
    """Real numbers of any width, NumPy or torch, as a float32 tensor of their own.

    Raises:
        TypeError: if the values are complex, text or objects.
        ValueError: if some are masked.
    """
    if isinstance(values, Tensor):
        if values.is_complex():
            raise TypeError(f"{what} must hold real numbers, but is {values.dtype}")
        return values.detach().to("cpu", torch.float32, copy=True)
    if np.ma.is_masked(values):
        raise ValueError(f"{what} must be known everywhere, but {np.ma.count_masked(values)} values are masked")
    values = np.asarray(values)
    if values.dtype.kind not in "fiub":
        raise TypeError(f"{what} must hold real numbers, but its dtype is {values.dtype}")
    with np.errstate(over="ignore"):  # what overflows float32 becomes infinite and is reported as such
        return torch.from_numpy(np.array(values, dtype=np.float32, order="C"))


def check_finite(values: Tensor, *, rows: Sequence[int], what: str) -> None:
    """Refuse NaN and infinity.

    Raises:
        ValueError: naming the first bad sample, and how many values and samples are bad.
    """
    if torch.isfinite(values).all():
        return
    bad = (~torch.isfinite(values)).flatten(1).sum(1)
    samples = bad.nonzero().flatten()
    raise ValueError(
        f"{what} must be finite in float32, but {int(bad.sum())} values in {len(samples)} of {len(rows)} samples read "
        f"are NaN or infinite, the first in sample {rows[int(samples[0])]}"
    )


def rows_per_read(shape: tuple[int, ...]) -> int:
    """How many samples of `(N, ...)` to hold at once: 256 MB in float32."""
    return max(1, 2**26 // max(math.prod(shape[1:]), 1))


class TensorStore:
    """Samples in memory, checked once.

    Args:
        values: float32 `(N, ...)`; not copied where its memory has no gaps.
        what: what the values are, for messages.
    """

    def __init__(self, values: Tensor, *, what: str) -> None:
        assert values.dtype == torch.float32
        self.values = values.contiguous()
        self.shape = tuple(self.values.shape)
        for start in range(0, self.shape[0], 256):
            part = self.values[start : start + 256]
            check_finite(part, rows=range(start, start + len(part)), what=what)

    def read(self, rows: Sequence[int], window: slice) -> Tensor:
        """Rows as float32 `(len(rows), ...)`."""
        values = self.values if window == slice(None) else self.values[:, window]
        return values.index_select(0, torch.as_tensor(rows, dtype=torch.long))

    def read_windows(self, rows: Sequence[int], starts: Sequence[int], lengths: Sequence[int]) -> list[Tensor]:
        """See `Samples.read_windows`; all windows in one read per length, without a loop over samples."""
        frames = self.values.flatten(0, 1)
        first = torch.as_tensor(rows) * self.shape[1] + torch.as_tensor(starts)
        found, done = [], 0
        for length in lengths:
            index = first[:, None] + torch.arange(done, done + length)
            found.append(frames.index_select(0, index.flatten()).view(len(rows), length, *self.shape[2:]))
            done += length
        return found


class FrameStore:
    """Some frames of the samples of another store.

    Args:
        store: the other store.
        frames: which of its frames, in their order.
    """

    def __init__(self, store: Store, frames: range) -> None:
        self.store, self.frames = store, frames
        self.shape = (store.shape[0], len(frames), *store.shape[2:])

    def read(self, rows: Sequence[int], window: slice) -> Tensor:
        """Rows as float32 `(len(rows), ...)`."""
        frames = self.frames[window]
        # one stretch: HDF5 reads every fifth frame more slowly than all of them
        stretch = self.store.read(rows, slice(frames[0], frames[-1] + 1) if frames else slice(0))
        return stretch[:, :: frames.step].contiguous()


def axes_in_file(array: Any) -> list[int]:
    """Where an HDF5 array has its first, second, ... axis: MATLAB stores the last one first."""
    axes = list(range(array.ndim))
    return axes[::-1] if "MATLAB_class" in array.attrs else axes


class ArrayFileStore:
    """Samples in one array of an HDF5 or `.npy` file.

    Args:
        path: the file.
        name: the array's name inside an HDF5 file; None for a `.npy` file.
        axes: for every axis of the store the axis of the array that it is, or None for a new axis of length one. The
            first is the sample axis.
    """

    def __init__(self, path: str | Path, name: str | None, *, axes: Sequence[int | None]) -> None:
        self.path, self.name, self.axes = Path(path).resolve(), name, tuple(axes)
        self._handle: tuple[int, Any] | None = None
        array = self._array()
        self.shape = tuple(1 if axis is None else int(array.shape[axis]) for axis in self.axes)
        if array.dtype.kind not in "fiub":
            raise TypeError(f"{self._what()} must hold real numbers, but its dtype is {array.dtype}")

    def read(self, rows: Sequence[int], window: slice) -> Tensor:
        """Rows as float32 `(len(rows), ...)`, in as few reads as their order allows."""
        low, high = min(rows), max(rows) + 1
        dense = high - low <= 2 * len(rows)
        # samples along a later axis are scattered over the file: reading one is no cheaper than reading the stretch
        if dense or (self.axes[0] != 0 and high - low <= rows_per_read(self.shape)):
            values = self._stretch(low, high, window)
            if list(rows) != list(range(low, high)):
                values = values[np.asarray(rows) - low]
        else:
            values = np.concatenate([self._stretch(row, row + 1, window) for row in rows])
        result = to_float32(values, what=self._what())
        check_finite(result, rows=rows, what=self._what())
        return result

    def _stretch(self, low: int, high: int, window: slice) -> np.ndarray:
        array = self._array()
        index = [slice(None)] * array.ndim
        for axis, cut in zip(self.axes, (slice(low, high), window), strict=False):
            if axis is not None:
                index[axis] = cut
        try:
            values = np.asarray(array[tuple(index)])
        except OSError as error:
            raise OSError(f"{self._what()} cannot be read: the file is truncated or damaged ({error})") from error
        kept = [axis for axis in self.axes if axis is not None]
        new = tuple(i for i, axis in enumerate(self.axes) if axis is None)
        return np.expand_dims(values.transpose(kept), new)

    def _array(self) -> Any:
        if self._handle is None or self._handle[0] != os.getpid():
            if self.name is None:
                array = np.load(self.path, mmap_mode="r", allow_pickle=False)
            else:
                array = h5py.File(self.path, "r")[self.name]
            self._handle = (os.getpid(), array)
        return self._handle[1]

    def _what(self) -> str:
        return f"{self.path}" if self.name is None else f"{self.name} in {self.path}"

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_handle": None}


class GroupFileStore:
    """Samples in an HDF5 file with one group per sample, each holding a flat or shaped array.

    Args:
        path: the file.
        groups: names of the groups, in the order of the samples.
        name: the array's name inside each group.
        shape: shape of one sample; the arrays hold as many numbers.
        axes: for every axis of a sample the axis of its array that it is: a window then reads no more than it shows.
            None where only the order of the numbers counts; arrays are then read whole.
    """

    def __init__(
        self,
        path: str | Path,
        groups: Sequence[str],
        name: str,
        *,
        shape: tuple[int, ...],
        axes: Sequence[int] | None = None,
    ) -> None:
        self.path, self.groups, self.name = Path(path).resolve(), tuple(groups), name
        self.shape = (len(self.groups), *shape)
        self.axes = None if axes is None else tuple(axes)
        self._handle: tuple[int, h5py.File] | None = None

    def read(self, rows: Sequence[int], window: slice) -> Tensor:
        """Rows as float32 `(len(rows), ...)`."""
        if self._handle is None or self._handle[0] != os.getpid():
            self._handle = (os.getpid(), h5py.File(self.path, "r"))
        file, samples = self._handle[1], []
        for row in rows:
            where = f"{self.groups[row]}/{self.name}"
            try:
                values = self._values(file[where], window, where)
            except (KeyError, OSError) as error:
                raise OSError(f"{where} in {self.path} is missing or damaged ({error})") from error
            samples.append(to_float32(values, what=f"{where} in {self.path}"))
        result = torch.stack(samples)
        check_finite(result, rows=rows, what=f"{self.name} in {self.path}")
        return result

    def _values(self, array: Any, window: slice, where: str) -> np.ndarray:
        sample = self.shape[1:]
        if not isinstance(array, h5py.Dataset):
            raise KeyError("it is no array")
        if self.axes is None:
            if array.size != math.prod(sample):
                raise ValueError(
                    f"{where} in {self.path} must hold {math.prod(sample)} numbers, but its shape is {array.shape}"
                )
            return np.asarray(array[()]).reshape(sample)[window]
        expected = tuple(sample[self.axes.index(axis)] for axis in range(len(sample)))
        if array.shape != expected:
            raise ValueError(f"{where} in {self.path} must have the shape {expected}, but its shape is {array.shape}")
        index = [slice(None)] * array.ndim
        index[self.axes[0]] = window
        return np.asarray(array[tuple(index)]).transpose(self.axes)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_handle": None}


class ChannelStore:
    """Trajectories whose channels are arrays of their own.

    Args:
        parts: stores of one shape `(N, T, C, *grid)`; their channels follow one another.
    """

    def __init__(self, parts: Sequence[Store]) -> None:
        assert len({part.shape for part in parts}) == 1
        n, frames, channels, *grid = parts[0].shape
        self.parts, self.shape = tuple(parts), (n, frames, channels * len(parts), *grid)

    def read(self, rows: Sequence[int], window: slice) -> Tensor:
        """Rows as float32 `(len(rows), ...)`."""
        return torch.cat([part.read(rows, window) for part in self.parts], dim=2)
