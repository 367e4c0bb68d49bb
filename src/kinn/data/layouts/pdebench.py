"""PDEBench's files (HDF5): Darcy flow, trajectories in a group each (radial dam break), in one array, in one per field.

Points are centres of cells, numbers float32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from kinn.data.datasets import OperatorDataset, TrajectoryDataset
from kinn.data.layouts.fitting import (
    batch_size,
    centres,
    domain_of,
    equation_of,
    fitting_pairs,
    fitting_trajectories,
    number,
    tell_equation,
)
from kinn.data.samples import Samples
from kinn.data.stores import ArrayFileStore, ChannelStore, GroupFileStore

DAM_DOMAIN = (-2.5, 2.5)
FLUID_FIELDS = ("density", "Vx", "Vy", "Vz", "pressure")


def open_pdebench_darcy(path: Path, file: h5py.File) -> OperatorDataset:
    """Permeability and pressure on the unit square, in the units of `-div(nu grad u) = beta`, one channel each.

    - `nu (N, nx, ny)`: the input.
    - `tensor (N, 1, nx, ny)`: the output; the axis of length one is time.
    - `x-coordinate (nx,)`, `y-coordinate (ny,)`: checked for their lengths alone, where they are there.
    - the attribute `beta` becomes `metadata["beta"]`.

    Raises:
        ValueError: if an array is missing, or shapes do not fit each other.
    """
    nu, tensor = (_array(path, file, name) for name in ("nu", "tensor"))
    if nu.ndim != 3:
        raise ValueError(f"nu in {path} must have the axes (N, nx, ny), but its shape is {nu.shape}")
    if tensor.ndim != 4 or tensor.shape[1] != 1:
        raise ValueError(f"tensor in {path} must have the axes (N, 1, nx, ny), but its shape is {tensor.shape}")
    if nu.shape != (tensor.shape[0], *tensor.shape[2:]):
        raise ValueError(
            f"nu and tensor in {path} must hold as many fields on the same grid, but their shapes are {nu.shape} and "
            f"{tensor.shape}"
        )
    _check_lengths(path, file, {"x-coordinate": nu.shape[1], "y-coordinate": nu.shape[2]})
    metadata: dict[str, Any] = {"equation": equation_of(file, "darcy")}
    if "beta" in file.attrs:
        metadata["beta"] = number(file.attrs["beta"], f"the attribute beta of {path}")
    inputs = ArrayFileStore(path, "nu", axes=(0, None, 1, 2))
    outputs = ArrayFileStore(path, "tensor", axes=(0, 1, 2, 3))
    return OperatorDataset(Samples(inputs), Samples(outputs), metadata=metadata)


def open_pdebench_rdb(path: Path, file: h5py.File, groups: list[str]) -> TrajectoryDataset:
    """Depth of the water (or the fields of another equation in this layout), in the units of the equation.

    - `0000/data (T, nx, ny, C)`, `0001/data`, ...: a group per trajectory; on a line or in a volume with one axis of
      space or three.
    - `0000/grid/x (nx,)`, `grid/y (ny,)`, `grid/t (T,)`: where they are there, the first group's times are those of the
      frames, its `x` gives `metadata["domain"]`, the ends of an axis.

    Args:
        path: of the file.
        file: the same, open.
        groups: names of the trajectories' groups, in their order.

    Raises:
        ValueError: if an array is missing, or shapes do not fit each other.
        TypeError: if the data are no real numbers.
    """
    first = groups[0]
    data = _array(path, file, f"{first}/data")
    told = sum(f"{first}/grid/{axis}" in file for axis in "xyz")
    if not 3 <= data.ndim <= 5 or (told and data.ndim != told + 2):
        raise ValueError(f"{first}/data in {path} must have the axes (T, nx, ny, C), but its shape is {data.shape}")
    if data.dtype.kind not in "fiub":
        raise TypeError(f"{first}/data in {path} must hold real numbers, but its dtype is {data.dtype}")
    n_frames, *grid, channels = data.shape
    along = {f"{first}/grid/{axis}": points for axis, points in zip("xyz", grid)}
    _check_lengths(path, file, {f"{first}/grid/t": n_frames, **along})
    # other equations of PDEBench have this layout, too, but only the dam break has a single field
    single = channels == 1 and len(grid) == 2
    metadata: dict[str, Any] = {"equation": equation_of(file, "shallow-water")} if single else {}
    if f"{first}/grid/x" in file and (nx := grid[0]) > 1:
        x = np.asarray(file[f"{first}/grid/x"], dtype=float)
        half = (x[-1] - x[0]) / (nx - 1) / 2
        metadata["domain"] = (float(f"{x[0] - half:.6g}"), float(f"{x[-1] + half:.6g}"))
    shape, axes = (n_frames, channels, *grid), (0, len(grid) + 1, *range(1, len(grid) + 1))
    store = GroupFileStore(path, groups, "data", shape=shape, axes=axes)
    return TrajectoryDataset(Samples(store), time=_times(file.get(f"{first}/grid/t")), metadata=metadata)


def open_pdebench_fields(path: Path, file: h5py.File, names: Sequence[str]) -> TrajectoryDataset:
    """Trajectories of fields in an array each, a channel for each in the order of `names`.

    - `<name> (N, T, nx, ...)`: compressible flow has `density`, `Vx`, `Vy`, `Vz` and `pressure`, as many as it has
      axes; advection and the like on a line have `tensor`.
    - `t-coordinate`: times; of one more than there are frames, as PDEBench writes, the last is left out.

    Raises:
        ValueError: if shapes do not fit each other, or have no axis of space.
    """
    shapes = {name: _array(path, file, name).shape for name in names}
    shape = shapes[names[0]]
    if len(shape) < 3 or set(shapes.values()) != {shape}:
        raise ValueError(f"{', '.join(names)} in {path} must have the axes (N, T, nx, ...) all, but they are {shapes}")
    axes = (0, 1, None, *range(2, len(shape)))
    times = _times(file.get("t-coordinate"))
    times = times[: shape[1]] if times is not None and len(times) in (shape[1], shape[1] + 1) else None
    store = ChannelStore([ArrayFileStore(path, name, axes=axes) for name in names])
    return TrajectoryDataset(Samples(store), time=times, metadata={"channels": list(names)} if len(names) > 1 else {})


def write_pdebench_darcy(part: Path, dataset: Any, tick: Callable[[int], None]) -> None:
    """Write what `open_pdebench_darcy` reads; `tick` gets the number of samples written.

    Raises:
        ValueError: if the data are no pairs of one channel each on a two-dimensional grid.
    """
    pairs = fitting_pairs(dataset, "pdebench-darcy")
    low, high = domain_of(pairs.metadata, (0.0, 1.0))
    with h5py.File(part, "w") as file:
        nu: Any = file.create_dataset("nu", (len(pairs), *pairs.grid), "float32")
        tensor: Any = file.create_dataset("tensor", (len(pairs), 1, *pairs.grid), "float32")
        for name, points in zip(("x-coordinate", "y-coordinate"), pairs.grid):
            file[name] = centres(points, low, high)
        tell_equation(file, pairs.metadata, "darcy")
        if "beta" in pairs.metadata:
            file.attrs["beta"] = float(pairs.metadata["beta"])
        step = batch_size(pairs.inputs)
        for start in range(0, len(pairs), step):
            stop = min(start + step, len(pairs))
            inputs, outputs = pairs.batch(range(start, stop))
            nu[start:stop], tensor[start:stop] = inputs[:, 0].numpy(), outputs.numpy()
            tick(stop)


def write_pdebench_rdb(part: Path, dataset: Any, tick: Callable[[int], None]) -> None:
    """Write what `open_pdebench_rdb` reads; `tick` gets the number of samples written.

    Raises:
        ValueError: if the data are no trajectories of one channel on a two-dimensional grid, or have no times.
    """
    flows = fitting_trajectories(dataset, "pdebench-rdb")
    if flows.time is None:
        raise ValueError("layout 'pdebench-rdb' needs the time of each frame, but the data set has none")
    dam_break = flows.metadata.get("equation", "shallow-water") == "shallow-water"
    low, high = domain_of(flows.metadata, DAM_DOMAIN if dam_break else (0.0, 1.0))
    grid = dict(zip("xy", (centres(points, low, high) for points in flows.grid)))
    grid["t"] = np.asarray(flows.time, dtype="float32")
    with h5py.File(part, "w") as file:
        tell_equation(file, flows.metadata, "shallow-water")
        for index in range(len(flows)):
            group = file.create_group(f"{index:04d}")
            group["data"] = flows[index][:, 0, :, :, None].numpy()
            for name, values in grid.items():
                group[f"grid/{name}"] = values
            tick(index + 1)


def _array(path: Path, file: h5py.File, name: str) -> h5py.Dataset:
    array = file.get(name)
    if not isinstance(array, h5py.Dataset):
        raise ValueError(f"{path} looks like PDEBench's layout, but lacks the array '{name}'")
    return array


def _check_lengths(path: Path, file: h5py.File, lengths: Mapping[str, int]) -> None:
    for name, length in lengths.items():
        array = file.get(name)
        if isinstance(array, h5py.Dataset) and array.size != length:
            raise ValueError(f"{name} in {path} must hold {length} numbers, but its shape is {array.shape}")


def _times(array: Any) -> list[float] | None:
    # 0.01 was meant where float32 says 0.0099999998: the shortest decimal that gives the same number
    return None if array is None else [float(str(t)) for t in np.asarray(array).ravel()]
