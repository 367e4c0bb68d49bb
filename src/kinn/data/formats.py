"""Data files of any layout that is known here (`kinn.data.layouts`), told apart by looking inside."""

from __future__ import annotations

import re
from pathlib import Path

import h5py

from kinn.data.datasets import OperatorDataset, TrajectoryDataset
from kinn.data.layouts.cno import open_cno
from kinn.data.layouts.matlab import open_matlab5, open_matlab7
from kinn.data.layouts.ours import ARRAYS, TRAJECTORY_FORMAT, open_ours, open_plain, plain_kind, why_unread
from kinn.data.layouts.pdebench import FLUID_FIELDS, open_pdebench_darcy, open_pdebench_fields, open_pdebench_rdb


def open_dataset(path: str | Path) -> OperatorDataset | TrajectoryDataset:
    """Open a data file of any layout known here; the layout is found by looking inside.

    Files of your own need no more than the arrays `input (N, C_in, *grid)` and `output (N, C_out, *grid)`, or
    `trajectory (N, T, C, *grid)` and, if the times are known, `time (T,)`.

    HDF5 files are read item by item; load them with `.in_memory()`, which Li's files call for: they store the samples
    along their fastest axis, so that reading one touches the whole file.

    Args:
        path: the file.

    Returns:
        pairs or trajectories, as the file holds them.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, unfinished, open elsewhere for writing, of a newer version or of no known layout.
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
    try:
        return _open(path)
    except (TypeError, ValueError) as error:  # a data set does not know where its arrays come from
        if str(path) in str(error):
            raise
        raise ValueError(f"{path}: {error}") from error


def _open(path: Path) -> OperatorDataset | TrajectoryDataset:
    if not h5py.is_hdf5(path):
        with path.open("rb") as raw:
            start = raw.read(20)
        if start.startswith(b"MATLAB 5.0"):
            return open_matlab5(path)
        raise ValueError(
            f"{path} is neither an HDF5 nor a MATLAB file: it starts with {start!r}; from_arrays takes arrays, and "
            "export_dataset(..., layout='kinn') makes a file of them"
            if start
            else f"{path} is empty: it holds no data"
        )
    try:
        with h5py.File(path, "r") as file:
            return _open_hdf5(path, file)
    except OSError as error:
        raise ValueError(f"{path} {why_unread(error)}") from error


def _open_hdf5(path: Path, file: h5py.File) -> OperatorDataset | TrajectoryDataset:
    if file.attrs.get("format") in ARRAYS:
        return open_ours(path, file)
    names = [str(name) for name in file]
    if groups := _numbered(names, r"Sample_(\d+)"):
        return open_cno(path, file, groups)
    if (groups := _numbered(names, r"(\d{4,})")) and isinstance(file.get(groups[0]), h5py.Group):
        return open_pdebench_rdb(path, file, groups)
    if "nu" in names and "tensor" in names:
        return open_pdebench_darcy(path, file)
    if "t-coordinate" in names and (fields := [name for name in (*FLUID_FIELDS, "tensor") if name in names]):
        return open_pdebench_fields(path, file, fields)
    u = file.get("u")
    if isinstance(u, h5py.Dataset) and ("MATLAB_class" in u.attrs or path.suffix == ".mat"):
        return open_matlab7(path, file, u)
    if kind := plain_kind(file):
        if "trajectory" in names and kind != TRAJECTORY_FORMAT:
            raise ValueError(f"{path} holds pairs (input and output) and a trajectory: keep them in a file each")
        return open_plain(path, file, kind, {})
    raise ValueError(
        f"{path} has none of the known layouts (input and output, trajectory, CNO's Sample_<n>, MATLAB's u, PDEBench's "
        "nu and tensor, 0000/data, or t-coordinate and tensor or density): it holds "
        f"{sorted(names)[:8]}; from_arrays((path, name), (path, name)) reads other arrays"
    )


def _numbered(names: list[str], pattern: str) -> list[str]:
    """The names that are numbered in this way, by number: 10 after 2."""
    found = [match for match in (re.fullmatch(pattern, name) for name in names) if match]
    return [match[0] for match in sorted(found, key=lambda match: int(match[1]))]
