"""Our own layout (HDF5): arrays, which are all that a file needs, and attributes that say where they come from."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from kinn._version import __version__
from kinn.data.datasets import OperatorDataset, TrajectoryDataset
from kinn.data.layouts.fitting import batch_size
from kinn.data.samples import Samples
from kinn.data.stores import ArrayFileStore, axes_in_file

OPERATOR_FORMAT = "kinn.operator"
TRAJECTORY_FORMAT = "kinn.trajectory"
FORMAT_VERSION = 1
_AXES = {"input": "(N, C, *grid)", "output": "(N, C, *grid)", "trajectory": "(N, T, C, *grid)"}
_WAYS = {OPERATOR_FORMAT: "from_arrays", TRAJECTORY_FORMAT: "from_trajectories"}
_MANY = 8  # channels, if as many as grid points: rather an axis of the grid
_FIRST = {OPERATOR_FORMAT: 1, TRAJECTORY_FORMAT: 2}  # the axis of channels
ARRAYS = {OPERATOR_FORMAT: ("input", "output"), TRAJECTORY_FORMAT: ("trajectory",)}


def open_ours(path: Path, file: h5py.File) -> OperatorDataset | TrajectoryDataset:
    """What a generator or an export wrote: the arrays of `open_plain`, and attributes.

    These are `format` (`kinn.operator` or `kinn.trajectory`), `format_version`, `equation`, `parameters` (JSON, which
    becomes the metadata), `kinn_version`, `samples` and `finished`, and a generator's `seed`. Units are the equation's.

    Raises:
        ValueError: if the file is unfinished or newer than this version, or lacks an attribute or an array.
    """
    attributes = read_attributes(path)
    kind, samples, finished = attributes["format"], int(attributes["samples"]), int(attributes["finished"])
    if finished < samples:
        raise ValueError(
            f"{path} is unfinished ({finished} of {samples} samples): generate it again to go on from there"
        )
    equation = str(attributes["equation"])
    return open_plain(path, file, kind, {**({"equation": equation} if equation else {}), **attributes["parameters"]})


def plain_kind(file: h5py.File) -> str | None:
    """The format whose arrays a file has, attributes or not."""
    found = (kind for kind, names in ARRAYS.items() if all(isinstance(file.get(n), h5py.Dataset) for n in names))
    return next(found, None)


def open_plain(
    path: Path, file: h5py.File, kind: str, metadata: Mapping[str, Any]
) -> OperatorDataset | TrajectoryDataset:
    """The data of a file by its arrays alone, numbers in whatever units, float32 when read.

    - "kinn.operator": `input (N, C_in, *grid)` and `output (N, C_out, *grid)`.
    - "kinn.trajectory": `trajectory (N, T, C, *grid)` and, where the times are known, `time (T,)`.

    Arrays of MATLAB 7.3 have the axes that they have in MATLAB.

    Args:
        path: of the file.
        file: the same, open.
        kind: one of the two.
        metadata: of the data set.

    Raises:
        ValueError: if one is missing or no array, their shapes do not fit each other, or channels seem to come last.
    """
    missing = [name for name in ARRAYS[kind] if name not in file]
    if missing:
        raise ValueError(f"{path} lacks the arrays {missing}")
    stored: list[Any] = [file[name] for name in ARRAYS[kind]]
    for name, array in zip(ARRAYS[kind], stored):
        if not (shape := getattr(array, "shape", None)):  # a group has none
            raise ValueError(f"{name} in {path} must be an array {_AXES[name]}, but its shape is {shape}")
    samples = [Samples(ArrayFileStore(path, array.name, axes=axes_in_file(array))) for array in stored]
    for name, found in zip(ARRAYS[kind], samples):
        if "format" not in file.attrs and (doubt := _doubt(found.shape, kind)):
            channels, *grid = found.shape[_FIRST[kind] :]
            said, way = doubt
            raise ValueError(
                f"{name} in {path} has the shape {found.shape}: as {_AXES[name]} that is {channels} channels on a grid "
                f"of {' x '.join(map(str, grid))}. Where {said}, {_WAYS[kind]}(..., {way}) takes the array (where it "
                f"is right as it is, channel_axis={_FIRST[kind]}), and export_dataset(..., layout='kinn') makes a file "
                "of it"
            )
    if kind == OPERATOR_FORMAT:
        return OperatorDataset(*samples, metadata=metadata)
    time = np.asarray(file["time"]).ravel().tolist() if "time" in file else None
    return TrajectoryDataset(*samples, time=time, metadata=metadata)


def _doubt(shape: Sequence[int], kind: str) -> tuple[str, str] | None:
    """What axes an array seems to have instead of those it should, and how to take it then; None where it seems right.

    No grid is so much narrower than long, no field of so many channels, or of as many as its grid is long.
    """
    fields = shape[_FIRST[kind] :]
    if len(fields) < 2:
        return None
    alike = fields[0] == fields[1] >= _MANY
    if alike and len(fields) <= 3 and fields[-1] == fields[0]:
        return "there is no axis of channels", "channel_axis=None"
    if len(fields) == 2:
        late = kind == TRAJECTORY_FORMAT and shape[1] == fields[0] >= _MANY
        return (
            ("frames come last and there is no axis of channels", "channel_axis=None, time_axis=-1") if late else None
        )
    narrow = fields[-1] == 1 or (fields[-1] <= 4 and 4 * fields[-1] <= min(fields[:-1]))
    return ("channels come last", "channel_axis=-1") if narrow or (alike and len(fields) == 3) else None


def write_ours(part: Path, dataset: OperatorDataset | TrajectoryDataset, tick: Callable[[int], None]) -> None:
    """Write a data set with any channels and grid; plain values of its metadata become the parameters."""
    pairs = isinstance(dataset, OperatorDataset)
    kind = OPERATOR_FORMAT if pairs else TRAJECTORY_FORMAT
    stored = [dataset.inputs, dataset.outputs] if pairs else [dataset.trajectories]
    try:
        parameters = json.dumps({name: value for name, value in dataset.metadata.items() if name != "equation"})
    except TypeError as error:
        raise ValueError(f"layout 'kinn' keeps metadata of plain values, but they are {dataset.metadata!r}") from error
    with h5py.File(part, "w") as file:
        arrays = [file.create_dataset(name, samples.shape, "f4") for name, samples in zip(ARRAYS[kind], stored)]
        step = min(batch_size(samples) for samples in stored)
        for start in range(0, len(dataset), step):
            rows = range(start, min(start + step, len(dataset)))
            for array, samples in zip(arrays, stored):
                array[rows.start : rows.stop] = samples.read(rows).numpy()
            tick(rows.stop)
        if not pairs and dataset.time is not None:
            file["time"] = np.asarray(dataset.time)
        file.attrs.update(
            format=kind, format_version=FORMAT_VERSION, equation=str(dataset.metadata.get("equation", "")),
            parameters=parameters, samples=len(dataset), finished=len(dataset), kinn_version=__version__,
        )  # fmt: skip


def why_unread(error: OSError) -> str:
    """What is wrong with a file that HDF5 does not open or read."""
    if "unable to lock file" in str(error):
        return (
            "is open elsewhere for writing, or its file system refuses locks (then set HDF5_USE_FILE_LOCKING=FALSE): "
            f"{error}"
        )
    return f"is not an HDF5 file, or is truncated or damaged: {error}"


def read_attributes(path: Path) -> dict[str, Any]:
    """Attributes of one of our files, `parameters` decoded.

    Raises:
        ValueError: if it is damaged, open elsewhere for writing, or not one of ours.
    """
    try:
        with h5py.File(path, "r") as file:
            attributes: dict[str, Any] = dict(file.attrs)
    except OSError as error:
        raise ValueError(f"{path} {why_unread(error)}") from error
    if attributes.get("format") not in ARRAYS:
        raise ValueError(f"{path} was not written by kinn")
    version = int(attributes.get("format_version", 0))
    if version > FORMAT_VERSION:
        raise ValueError(f"{path} has format version {version}, but this kinn reads versions up to {FORMAT_VERSION}")
    missing = {"parameters", "equation", "samples", "finished"} - attributes.keys()
    if missing:
        raise ValueError(f"{path} lacks the attributes {sorted(missing)}")
    return attributes | {"parameters": json.loads(str(attributes["parameters"]))}
