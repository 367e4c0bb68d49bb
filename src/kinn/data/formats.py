"""File layouts: our own, and those of public benchmarks, told apart by looking at the file.

- ours (HDF5): `/input (N, C_in, *grid)` and `/output (N, C_out, *grid)`, or `/trajectory (N, T, C, *grid)` and
  `/time (T,)`; attributes `format` (`kinn.operator` or `kinn.trajectory`), `format_version`, `equation`, `parameters`
  (JSON), `seed`, `kinn_version`, `samples` and `finished`.
- CNO's Poisson files (HDF5): a group `Sample_<n>` per pair with `input` and `output`; `min_inp`, `max_inp`, `min_out`,
  `max_out` become `metadata["input_range"]` and `metadata["output_range"]`.
- Li's Navier-Stokes files (MATLAB): `u (N, nx, ny, T)`. Version 7.3 is HDF5, where MATLAB's column-major order makes
  the axes appear reversed, `(T, ny, nx, N)`; version 5 is read through SciPy.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from kinn.data.datasets import OperatorDataset, TrajectoryDataset
from kinn.data.samples import Samples
from kinn.data.stores import ArrayFileStore, GroupFileStore, TensorStore, to_float32

OPERATOR_FORMAT = "kinn.operator"
TRAJECTORY_FORMAT = "kinn.trajectory"
FORMAT_VERSION = 1
ARRAYS = {OPERATOR_FORMAT: ("input", "output"), TRAJECTORY_FORMAT: ("trajectory", "time")}


def open_dataset(path: str | Path) -> OperatorDataset | TrajectoryDataset:
    """Open a data file of any layout known here; the layout is found by looking inside.

    HDF5 files are read item by item; load them with `.in_memory()`, which Li's files call for: they store the samples
    along their fastest axis, so that reading one touches the whole file.

    Args:
        path: the file.

    Returns:
        pairs or trajectories, as the file holds them.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, unfinished, of a newer version or of no known layout.
        ImportError: if it is a MATLAB version 5 file and SciPy is not installed.

    Example:
        >>> import tempfile
        >>> from kinn.data import generate_poisson
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     open_dataset(generate_poisson(f"{folder}/poisson.h5", samples=4, resolution=32))
        OperatorDataset(4 pairs, 1 -> 1 channels, grid (32, 32))
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no data file {path}")
    if not path.is_file():
        raise ValueError(f"{path} is a folder, not a data file")
    if not h5py.is_hdf5(path):
        with path.open("rb") as raw:
            start = raw.read(20)
        if start.startswith(b"MATLAB 5.0"):
            return _open_matlab5(path)
        raise ValueError(
            f"{path} is neither an HDF5 nor a MATLAB file: it starts with {start!r}"
            if start
            else f"{path} is empty: it holds no data"
        )
    try:
        with h5py.File(path, "r") as file:
            return _open_hdf5(path, file)
    except OSError as error:
        raise ValueError(f"{path} is truncated or damaged: {error}") from error


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


def _open_hdf5(path: Path, file: h5py.File) -> OperatorDataset | TrajectoryDataset:
    if file.attrs.get("format") in ARRAYS:
        return _open_ours(path, file)
    names = [str(name) for name in file]
    groups = sorted((name for name in names if re.fullmatch(r"Sample_\d+", name)), key=lambda name: int(name[7:]))
    if groups:
        return _open_cno(path, file, groups)
    u = file.get("u")
    if isinstance(u, h5py.Dataset) and ("MATLAB_class" in u.attrs or path.suffix == ".mat"):
        return _open_matlab7(path, file, u)
    raise ValueError(
        f"{path} has none of the known layouts (kinn's, CNO's Sample_<n>, MATLAB's u): it holds {sorted(names)[:8]}; "
        f"from_arrays((path, name), (path, name)) reads other arrays"
    )


def _open_ours(path: Path, file: h5py.File) -> OperatorDataset | TrajectoryDataset:
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


def _open_cno(path: Path, file: h5py.File, groups: list[str]) -> OperatorDataset:
    samples = []
    for name in ("input", "output"):
        array = file.get(f"{groups[0]}/{name}")
        if not isinstance(array, h5py.Dataset):
            raise ValueError(f"{path} looks like CNO's layout, but {groups[0]} lacks the array '{name}'")
        shape = tuple(size for size in array.shape if size != 1)
        if len(shape) == 1 and math.isqrt(shape[0]) ** 2 == shape[0]:
            shape = (math.isqrt(shape[0]),) * 2
        if len(shape) != 2:
            raise ValueError(f"{groups[0]}/{name} in {path} must hold a square grid, but its shape is {array.shape}")
        samples.append(Samples(GroupFileStore(path, groups, name, shape=(1, *shape))))
    metadata: dict[str, Any] = {"equation": "poisson"}
    for part, key in (("inp", "input_range"), ("out", "output_range")):
        if f"min_{part}" in file and f"max_{part}" in file:
            metadata[key] = tuple(float(np.asarray(file[f"{end}_{part}"]).item()) for end in ("min", "max"))
    return OperatorDataset(*samples, metadata=metadata)


def _open_matlab7(path: Path, file: h5py.File, u: h5py.Dataset) -> TrajectoryDataset:
    if u.ndim != 4:
        raise ValueError(f"u in {path} must have the axes (N, nx, ny, T) in MATLAB, but its shape is {u.shape[::-1]}")
    store = ArrayFileStore(path, "u", axes=(3, 0, None, 2, 1))
    return TrajectoryDataset(
        Samples(store), time=_time(file.get("t"), u.shape[0]), metadata={"equation": "navier-stokes"}
    )


def _open_matlab5(path: Path) -> TrajectoryDataset:
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise ImportError(
            f"{path} is a MATLAB version 5 file, which needs SciPy: pip install 'kinn-torch[mat]'"
        ) from error
    try:
        content = loadmat(path, variable_names=["u", "t"])
    except Exception as error:  # SciPy raises whatever its parser meets
        raise ValueError(f"{path} is truncated or damaged: {error}") from error
    u = content.get("u")
    if u is None or u.ndim != 4:
        found = "there is none" if u is None else f"its shape is {u.shape}"
        raise ValueError(f"{path} must hold an array u with the axes (N, nx, ny, T), but {found}")
    what = f"u in {path}"
    values = to_float32(u.transpose(0, 3, 1, 2)[:, :, None], what=what)
    time = _time(content.get("t"), u.shape[3])
    return TrajectoryDataset(Samples(TensorStore(values, what=what)), time=time, metadata={"equation": "navier-stokes"})


def _time(t: Any, n_frames: int) -> list[float] | None:
    times = None if t is None else np.asarray(t).ravel()
    return times.tolist() if times is not None and times.size == n_frames else None
