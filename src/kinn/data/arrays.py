"""A user's own arrays as data sets, in one line."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from numbers import Integral
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from kinn.data.datasets import OperatorDataset, TrajectoryDataset
from kinn.data.samples import Samples
from kinn.data.stores import ArrayFileStore, TensorStore, axes_in_file, to_float32


def from_arrays(inputs: Any, outputs: Any, *, channel_axis: int | None = 1) -> OperatorDataset:
    """Pairs of fields from arrays.

    Args:
        inputs: `(N, C_in, *grid)`: a NumPy array, a tensor, an h5py data set, the path of a `.npy` file, or a pair
            `(path of an HDF5 or .npz file, name of the array in it)`. Arrays in files stay there and are read item by
            item, but for those of `.npz` files. Those of MATLAB 7.3 have the axes that they have in MATLAB.
        outputs: `(N, C_out, *grid)`, likewise; of another kind if need be.
        channel_axis: where the channels lie (-1: last); None if there is no such axis, and each field is one channel.

    Raises:
        ValueError: if shapes do not match, or a value is NaN or infinite (found here in memory, on reading in files).
        TypeError: if the arrays do not hold real numbers.

    Example:
        >>> import numpy as np
        >>> from_arrays(np.ones((5, 32, 32)), np.ones((5, 32, 32)), channel_axis=None)
        OperatorDataset(5 pairs, 1 -> 1 channels, grid (32, 32))
    """
    return OperatorDataset(
        _samples(inputs, Axes(channel_axis), what="inputs"),
        _samples(outputs, Axes(channel_axis), what="outputs"),
    )


def from_trajectories(
    u: Any, *, time: Sequence[float] | None = None, channel_axis: int | None = 2, time_axis: int = 1
) -> TrajectoryDataset:
    """Trajectories from one array.

    Args:
        u: `(N, T, C, *grid)`, of the kinds that `from_arrays` takes.
        time: the time of each frame, if known.
        channel_axis: where the channels lie (-1: last); None if there is no such axis.
        time_axis: where the frames lie (-1: last, as FNO's data have them).

    Raises:
        ValueError: if shapes do not match, a value is NaN or infinite (found here in memory, on reading in files), or
            times are not finite and increasing.
        TypeError: if the array or `time` does not hold real numbers.

    Example:
        >>> import numpy as np
        >>> from_trajectories(np.ones((5, 20, 32, 32)), channel_axis=None)
        TrajectoryDataset(5 trajectories, 20 frames, 1 channels, grid (32, 32))
        >>> from_trajectories(np.ones((5, 32, 32, 20)), channel_axis=None, time_axis=-1)
        TrajectoryDataset(5 trajectories, 20 frames, 1 channels, grid (32, 32))
    """
    if time_axis is None:
        raise TypeError("time_axis must be an integer, but is None: trajectories have frames")
    return TrajectoryDataset(_samples(u, Axes(channel_axis, time_axis), what="trajectories"), time=time)


class Axes(NamedTuple):
    """Where channels and frames lie in an array, counted as it has them; None where it has none."""

    channel: int | None
    time: int | None = None

    def order(self, n_axes: int, what: str) -> list[int | None]:
        """Of an array with so many axes: samples, frames if any, channels (None: to be added), the grid's.

        Raises:
            ValueError: if one does not exist, or two are the same.
            TypeError: if one is no integer.
        """
        found: list[int | None] = [0]
        for name, axis in (("time", self.time), ("channel", self.channel)):
            if axis is None:
                found += [None] if name == "channel" else []
                continue
            if isinstance(axis, bool) or not isinstance(axis, Integral):
                raise TypeError(f"{name}_axis must be an integer or None, but is {axis!r}")
            if not -n_axes <= axis < n_axes or axis % n_axes in found:
                beside = "samples" if len(found) == 1 else "samples and frames"
                raise ValueError(f"{what} with {n_axes} axes have no {name} axis {axis} beside that of {beside}")
            found.append(int(axis) % n_axes)
        return [*found, *(axis for axis in range(n_axes) if axis not in found)]


def _samples(array: Any, which: Axes, *, what: str) -> Samples:
    if isinstance(array, h5py.Dataset):
        array = (array.file.filename, array.name)
    if isinstance(array, tuple):
        path, name = _pair(array, what)
        if path.suffix == ".npz":
            return _samples(_from_npz(path, name, what), which, what=what)
        if not h5py.is_hdf5(path):
            raise ValueError(f"{path} is no HDF5 file (nor MATLAB 7.3): load it, and pass the {what} as an array")
        with h5py.File(path, "r") as file:
            if not isinstance(file.get(name), h5py.Dataset):
                raise ValueError(f"{path} holds no array '{name}' for the {what}; it holds {sorted(file)}")
            axes = which.order(file[name].ndim, what)  # pyright: ignore[reportAttributeAccessIssue]
            stored = axes_in_file(file[name])
        return Samples(ArrayFileStore(path, name, axes=[None if axis is None else stored[axis] for axis in axes]))
    if isinstance(array, (str, Path)):
        if Path(array).suffix != ".npy":
            raise ValueError(
                f"{what} must come as an array, a .npy file or (HDF5 or .npz file, array name), but came as {array!r}"
            )
        try:
            n_axes = np.load(array, mmap_mode="r", allow_pickle=False).ndim
        except ValueError as error:  # truncated, or not of numbers
            raise ValueError(f"{array} cannot be read as an array of numbers for the {what}: {error}") from error
        return Samples(ArrayFileStore(array, None, axes=which.order(n_axes, what)))
    values = to_float32(array, what=what)
    axes = which.order(values.ndim, what)
    values = values.permute([axis for axis in axes if axis is not None]).contiguous()
    return Samples(TensorStore(values.unsqueeze(axes.index(None)) if None in axes else values, what=what))


def _from_npz(path: Path, name: str, what: str) -> np.ndarray:
    try:
        with np.load(path, allow_pickle=False) as file:
            if name not in file:
                raise ValueError(f"{path} holds no array '{name}' for the {what}; it holds {sorted(file)}")
            return file[name]
    except (OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is truncated or damaged: {error}") from error


def _pair(pair: tuple, what: str) -> tuple[Path, str]:
    if len(pair) != 2 or not all(isinstance(part, (str, Path)) for part in pair):
        raise ValueError(f"{what} in an HDF5 or .npz file are given as (path, name), but came as {pair!r}")
    path = Path(pair[0])
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path} for the {what}")
    return path, str(pair[1])
