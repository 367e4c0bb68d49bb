"""Data sets of pairs (input field, output field), of trajectories, and of windows cut from trajectories."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from kinn.data.samples import Samples
from kinn.data.stores import FrameStore

if TYPE_CHECKING:
    from jaxtyping import Float

FITS = 2 * 2**30  # bytes that are loaded unasked


class OperatorDataset(Dataset):
    """Pairs of an input field and the output field that an operator maps it to.

    Items are `(input (C_in, *grid), output (C_out, *grid))`, float32. Files are read item by item; `in_memory()` loads
    them. A DataLoader reads whole batches at once through `__getitems__`.

    Args:
        inputs: samples `(N, C_in, *grid)`.
        outputs: samples `(N, C_out, *grid)`.
        metadata: whatever is known about the data (plain values), such as the generator's parameters.

    Raises:
        ValueError: if the numbers of samples or the grids differ, or there are no samples.

    Example:
        >>> import torch
        >>> from kinn.data import from_arrays
        >>> data = from_arrays(torch.rand(8, 1, 16, 16), torch.rand(8, 2, 16, 16))
        >>> len(data), data.in_channels, data.out_channels, data.grid
        (8, 1, 2, (16, 16))
    """

    def __init__(self, inputs: Samples, outputs: Samples, *, metadata: Mapping[str, Any] | None = None) -> None:
        _check_fields(inputs, "input")
        _check_fields(outputs, "output")
        if len(inputs) != len(outputs):
            raise ValueError(
                f"there must be one output per input, but there are {len(inputs)} inputs and {len(outputs)} outputs"
            )
        if inputs.shape[2:] != outputs.shape[2:]:
            raise ValueError(
                f"inputs and outputs must share one grid, but theirs are {inputs.shape[2:]} and {outputs.shape[2:]}; "
                "their axes are (N, C, *grid): from_arrays(..., channel_axis=-1) takes channels that come last"
            )
        self.inputs, self.outputs, self.metadata = inputs, outputs, dict(metadata or {})

    @property
    def in_channels(self) -> int:
        """Channels of an input."""
        return self.inputs.shape[1]

    @property
    def out_channels(self) -> int:
        """Channels of an output."""
        return self.outputs.shape[1]

    @property
    def grid(self) -> tuple[int, ...]:
        """Grid points along each axis."""
        return self.inputs.shape[2:]

    @property
    def n_bytes(self) -> int:
        """Size in memory."""
        return self.inputs.n_bytes + self.outputs.n_bytes

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> tuple[Float[Tensor, "c_in *grid"], Float[Tensor, "c_out *grid"]]:
        return self.__getitems__([_check_index(index, len(self))])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
        return list(zip(*self.batch(indices), strict=True))

    def batch(self, indices: Sequence[int]) -> tuple[Float[Tensor, "b c_in *grid"], Float[Tensor, "b c_out *grid"]]:
        """The pairs of these indices (`0 .. N - 1`), stacked: what a default DataLoader makes of them, in one copy."""
        return self.inputs.read(indices), self.outputs.read(indices)

    def subset(self, indices: slice | Sequence[int]) -> OperatorDataset:
        """Some of the pairs, without reading them: `data.subset(slice(-200, None))` are the last 200.

        A slice, indices, or a mask of N booleans; else an IndexError, ValueError or TypeError.
        """
        return OperatorDataset(self.inputs.subset(indices), self.outputs.subset(indices), metadata=self.metadata)

    def in_memory(self) -> OperatorDataset:
        """The same data set, loaded."""
        return OperatorDataset(self.inputs.in_memory(), self.outputs.in_memory(), metadata=self.metadata)

    def __repr__(self) -> str:
        return (
            f"OperatorDataset({len(self)} pairs, {self.in_channels} -> {self.out_channels} channels, grid {self.grid})"
        )


class TrajectoryDataset(Dataset):
    """Fields that evolve in time.

    Items are `(T, C, *grid)`, float32. Files are read item by item; `in_memory()` loads them.

    Args:
        trajectories: samples `(N, T, C, *grid)`.
        time: the time of each frame, `T` numbers, if known.
        metadata: whatever is known about the data (plain values).

    Raises:
        ValueError: if the shape has no room for frames, channels and a grid, there are no samples, or `time` does not
            fit the frames, or is not finite and increasing.
        TypeError: if `time` does not hold numbers.

    Example:
        >>> import torch
        >>> from kinn.data import from_trajectories
        >>> data = from_trajectories(torch.rand(3, 20, 1, 16, 16))
        >>> len(data), data.n_frames, data.channels, data.grid
        (3, 20, 1, (16, 16))
    """

    def __init__(
        self, trajectories: Samples, *, time: Sequence[float] | None = None, metadata: Mapping[str, Any] | None = None
    ) -> None:
        _check_any(trajectories, "trajectories")
        if len(trajectories.shape) < 4 or 0 in trajectories.shape:
            raise ValueError(
                "trajectories must have the shape (samples, frames, channels, *grid) without empty axes, "
                f"but theirs is {trajectories.shape}"
            )
        self.trajectories, self.metadata = trajectories, dict(metadata or {})
        self.time = None if time is None else _checked_times(time, trajectories.shape[1])

    @property
    def n_frames(self) -> int:
        """Frames of a trajectory."""
        return self.trajectories.shape[1]

    @property
    def channels(self) -> int:
        """Channels of a frame."""
        return self.trajectories.shape[2]

    @property
    def grid(self) -> tuple[int, ...]:
        """Grid points along each axis."""
        return self.trajectories.shape[3:]

    @property
    def n_bytes(self) -> int:
        """Size in memory."""
        return self.trajectories.n_bytes

    def __len__(self) -> int:
        return len(self.trajectories)

    def __getitem__(self, index: int) -> Float[Tensor, "t c *grid"]:
        return self.trajectories.read([_check_index(index, len(self))])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Tensor]:
        return list(self.trajectories.read(indices))

    def subset(self, indices: slice | Sequence[int]) -> TrajectoryDataset:
        """Some of the trajectories, without reading them: `data.subset(slice(-200, None))` are the last 200.

        A slice, indices, or a mask of N booleans; else an IndexError, ValueError or TypeError.
        """
        return TrajectoryDataset(self.trajectories.subset(indices), time=self.time, metadata=self.metadata)

    def frames(self, chosen: slice) -> TrajectoryDataset:
        """Some frames of every trajectory, without reading them: `data.frames(slice(None, None, 5))` has every fifth.

        Raises:
            ValueError: the slice takes none, or runs backwards.
        """
        frames = range(self.n_frames)[chosen]
        if not frames or frames.step < 1:
            raise ValueError(f"expected a slice that takes some of {self.n_frames} frames in order, got {chosen}")
        samples = Samples(FrameStore(self.trajectories.store, frames), rows=self.trajectories.rows)
        time = None if self.time is None else self.time[chosen]
        return TrajectoryDataset(samples, time=time, metadata=self.metadata)

    def in_memory(self) -> TrajectoryDataset:
        """The same data set, loaded."""
        return TrajectoryDataset(self.trajectories.in_memory(), time=self.time, metadata=self.metadata)

    def __repr__(self) -> str:
        size = f"{len(self)} trajectories, {self.n_frames} frames, {self.channels} channels"
        return f"TrajectoryDataset({size}, grid {self.grid})"


class TrajectoryWindows(Dataset):
    """Windows of trajectories: some frames, and the frames that follow them.

    Items are `(history (n_history, C, *grid), future (n_future, C, *grid))`. Windows of one trajectory start at frames
    `0, stride, 2 stride, ...` as long as they fit; those of trajectory 0 come first. With `n_future = T - n_history`
    there is one window per trajectory: the full rollout.

    Args:
        dataset: the trajectories.
        n_history: frames that are given.
        n_future: frames to predict.
        stride: frames from one window's start to the next.

    Raises:
        ValueError: if a number is not positive, or a window is longer than a trajectory.

    Example:
        >>> import torch
        >>> from kinn.data import from_trajectories
        >>> windows = TrajectoryWindows(from_trajectories(torch.rand(3, 20, 1, 16, 16)), n_history=10, n_future=3)
        >>> history, future = windows[0]
        >>> len(windows), history.shape, future.shape
        (24, torch.Size([10, 1, 16, 16]), torch.Size([3, 1, 16, 16]))
    """

    def __init__(self, dataset: TrajectoryDataset, *, n_history: int = 10, n_future: int = 1, stride: int = 1) -> None:
        if min(n_history, n_future, stride) < 1:
            raise ValueError(
                f"n_history, n_future and stride must be positive, but are {n_history}, {n_future} and {stride}"
            )
        if n_history + n_future > dataset.n_frames:
            raise ValueError(f"a window of {n_history} + {n_future} frames does not fit into {dataset.n_frames} frames")
        self.dataset, self.n_history, self.n_future, self.stride = dataset, n_history, n_future, stride
        self.per_trajectory = (dataset.n_frames - n_history - n_future) // stride + 1

    def __len__(self) -> int:
        return len(self.dataset) * self.per_trajectory

    def __getitem__(self, index: int) -> tuple[Float[Tensor, "h c *grid"], Float[Tensor, "f c *grid"]]:
        return self.__getitems__([_check_index(index, len(self))])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
        return list(zip(*self.batch(indices), strict=True))

    def batch(self, indices: Sequence[int]) -> tuple[Float[Tensor, "b h c *grid"], Float[Tensor, "b f c *grid"]]:
        """The windows of these indices (`0 .. N - 1`), stacked; see `OperatorDataset.batch`."""
        samples, windows = zip(*(divmod(index, self.per_trajectory) for index in indices))
        starts = [window * self.stride for window in windows]
        history, future = self.dataset.trajectories.read_windows(samples, starts, (self.n_history, self.n_future))
        return history, future

    def __repr__(self) -> str:
        return f"TrajectoryWindows({len(self)} windows of {self.n_history} + {self.n_future} frames, {self.dataset!r})"


def resident(
    dataset: OperatorDataset | TrajectoryDataset, in_memory: bool | None = None
) -> OperatorDataset | TrajectoryDataset:
    """The data set, loaded or as it is; by default loaded if it fits: to read samples costs more than a small step."""
    load = dataset.n_bytes <= FITS if in_memory is None else in_memory
    return dataset.in_memory() if load else dataset


def _check_any(samples: Samples, what: str) -> None:
    if not len(samples):
        raise ValueError(f"expected at least one sample, got none: the {what} have the shape {samples.shape}")


def _check_fields(samples: Samples, what: str) -> None:
    _check_any(samples, f"{what}s")
    if len(samples.shape) < 3 or 0 in samples.shape:
        raise ValueError(
            f"{what}s must have the shape (samples, channels, *grid) without empty axes, but theirs is "
            f"{samples.shape}; from_arrays(..., channel_axis=None) adds a missing channel axis"
        )


def _checked_times(time: Sequence[float], n_frames: int) -> list[float]:
    times = np.asarray(time)
    if times.ndim != 1 or times.dtype.kind not in "fiu":
        raise TypeError(f"time must be a sequence of numbers, one per frame, but is {time!r:.60}")
    if len(times) != n_frames:
        raise ValueError(f"there must be one time per frame, but there are {len(times)} for {n_frames} frames")
    times = times.astype(float)
    wrong = ~np.isfinite(times)
    wrong[1:] |= ~(np.diff(times) > 0)
    if wrong.any():
        first = int(wrong.argmax())
        after = f" after {times[first - 1]:g}" if first else ""
        raise ValueError(f"times must be finite and increasing, but that of frame {first} is {times[first]:g}{after}")
    return times.tolist()


def _check_index(index: int, length: int) -> int:
    if isinstance(index, slice):
        raise TypeError("an index is one item: subset(slice(...)) takes a part of the data set, batch([...]) a batch")
    if not -length <= index < length:
        raise IndexError(f"index {index} is outside a data set of {length} items")
    return index % length
