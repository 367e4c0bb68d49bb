"""Our own layout (HDF5): `/input (N, C_in, *grid)` and `/output (N, C_out, *grid)`, or `/trajectory (N, T, C, *grid)`
and `/time (T,)`.

Attributes: `format` (`kinn.operator` or `kinn.trajectory`), `format_version`, `equation`, `parameters` (JSON), `seed`,
`kinn_version`, `samples` and `finished`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from kinn.data.datasets import OperatorDataset, TrajectoryDataset
from kinn.data.samples import Samples
from kinn.data.stores import ArrayFileStore

OPERATOR_FORMAT = "kinn.operator"
TRAJECTORY_FORMAT = "kinn.trajectory"
FORMAT_VERSION = 1
ARRAYS = {OPERATOR_FORMAT: ("input", "output"), TRAJECTORY_FORMAT: ("trajectory", "time")}


def open_ours(path: Path, file: h5py.File) -> OperatorDataset | TrajectoryDataset:
    attributes = read_attributes(path)
    kind, samples, finished = attributes["format"], int(attributes["samples"]), int(attributes["finished"])
    if finished < samples:
        raise ValueError(
            f"{path} is unfinished ({finished} of {samples} samples): generate it again to go on from there"
        )
    missing = [name for name in ARRAYS[kind] if name not in file]
    if missing:
        raise ValueError(f"{path} lacks the arrays {missing}")
    metadata = {"equation": str(attributes["equation"]), **attributes["parameters"]}
    stores = [_plain_store(path, file, name) for name in ARRAYS[kind] if name != "time"]
    if kind == OPERATOR_FORMAT:
        return OperatorDataset(Samples(stores[0]), Samples(stores[1]), metadata=metadata)
    return TrajectoryDataset(Samples(stores[0]), time=np.asarray(file["time"]).tolist(), metadata=metadata)


def _plain_store(path: Path, file: h5py.File, name: str) -> ArrayFileStore:
    array: Any = file[name]
    return ArrayFileStore(path, name, axes=range(array.ndim))


def read_attributes(path: Path) -> dict[str, Any]:
    """Attributes of one of our files, `parameters` decoded.

    Raises:
        ValueError: if it is damaged, or not one of ours.
    """
    try:
        with h5py.File(path, "r") as file:
            attributes: dict[str, Any] = dict(file.attrs)
    except OSError as error:
        raise ValueError(f"{path} is not an HDF5 file, or is truncated or damaged: {error}") from error
    if attributes.get("format") not in ARRAYS:
        raise ValueError(f"{path} was not written by kinn")
    version = int(attributes.get("format_version", 0))
    if version > FORMAT_VERSION:
        raise ValueError(f"{path} has format version {version}, but this kinn reads versions up to {FORMAT_VERSION}")
    missing = {"parameters", "equation", "samples", "finished"} - attributes.keys()
    if missing:
        raise ValueError(f"{path} lacks the attributes {sorted(missing)}")
    return attributes | {"parameters": json.loads(str(attributes["parameters"]))}
