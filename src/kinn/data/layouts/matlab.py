"""Li's Navier-Stokes files (MATLAB): version 7.3 is HDF5, version 5 is read through SciPy.

Both hold `u (N, nx, ny, T)`, vorticity at the points `i / n` of the unit torus, and `t` with `T` times, in the units of
the equation. `a`, the field at time 0, is not read: it is no frame of `u`. The viscosity stands in the name of the file
alone, `..._V1e-3_...`, and is read from there.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from kinn._version import __version__
from kinn.data.datasets import TrajectoryDataset
from kinn.data.layouts.fitting import BUDGET, fitting_trajectories
from kinn.data.samples import Samples
from kinn.data.stores import ArrayFileStore, TensorStore, to_float32

_HEADER_SIZE = 512


def open_matlab7(path: Path, file: h5py.File, u: h5py.Dataset) -> TrajectoryDataset:
    """Vorticity from version 7.3, one channel; times where `t` holds as many as there are frames.

    MATLAB's column-major order makes the axes appear reversed in HDF5: `u (T, ny, nx, N)`.

    Args:
        path: of the file.
        file: the same, open.
        u: its array.

    Raises:
        ValueError: if `u` has not four axes.
    """
    if u.ndim != 4:
        raise ValueError(
            f"u in {path} must have the axes (N, nx, ny, T) in MATLAB, but its shape is {u.shape[::-1]}; from_arrays "
            "and from_trajectories take other arrays, as (path, name)"
        )
    store = ArrayFileStore(path, "u", axes=(3, 0, None, 2, 1))
    return TrajectoryDataset(Samples(store), time=_time(file.get("t"), u.shape[0]), metadata=_metadata(path))


def open_matlab5(path: Path) -> TrajectoryDataset:
    """Vorticity from version 5, one channel, loaded; `u` has MATLAB's own order of axes.

    Raises:
        ImportError: if SciPy is not installed.
        ValueError: if the file is damaged, or has no `u` of four axes.
    """
    try:
        from scipy.io import loadmat, whosmat
    except ImportError as error:
        raise ImportError(
            f"{path} is a MATLAB version 5 file, which needs SciPy: pip install 'kinn-torch[mat]'"
        ) from error
    try:
        names = [name for name, *_ in whosmat(path)]
        content = loadmat(path, variable_names=["u", "t"])
    except Exception as error:  # SciPy raises whatever its parser meets
        raise ValueError(f"{path} is truncated or damaged: {error}") from error
    u = content.get("u")
    if u is None or u.ndim != 4:
        found = f"it holds {names}" if u is None else f"its shape is {u.shape}"
        raise ValueError(
            f"{path} must hold an array u with the axes (N, nx, ny, T), but {found}; scipy.io.loadmat reads "
            "other arrays, which from_arrays or from_trajectories take"
        )
    what = f"u in {path}"
    values = to_float32(u.transpose(0, 3, 1, 2)[:, :, None], what=what)
    times = _time(content.get("t"), u.shape[3])
    return TrajectoryDataset(Samples(TensorStore(values, what=what)), time=times, metadata=_metadata(path))


def write_matlab7(part: Path, dataset: Any, tick: Callable[[int], None]) -> None:
    """Write what `open_matlab7` reads, as MATLAB does; `tick` gets the number of samples written.

    Raises:
        ValueError: if the data are no trajectories of one channel on a two-dimensional grid.
    """
    flows = fitting_trajectories(dataset, "li")
    n, n_frames, points = len(flows), flows.n_frames, flows.grid[0] * flows.grid[1]
    # samples lie along the fastest axis: a few frames of all of them are one stretch of the file, a sample is not
    rows_at_once = min(n, max(1, BUDGET // points))
    frames_at_once = max(1, BUDGET // (points * rows_at_once))
    with h5py.File(part, "w", userblock_size=_HEADER_SIZE) as file:
        u = file.create_dataset("u", (n_frames, *reversed(flows.grid), n), "float32")
        _set_class(u, "single")
        if flows.time is not None:
            t = file.create_dataset("t", data=np.asarray(flows.time)[:, None])
            _set_class(t, "double")
        done = 0
        for first in range(0, n_frames, frames_at_once):
            frames = slice(first, min(first + frames_at_once, n_frames))
            for start in range(0, n, rows_at_once):
                rows = slice(start, min(start + rows_at_once, n))
                values = flows.trajectories.read(range(n)[rows], window=frames)[:, :, 0]
                u[frames, :, :, rows] = values.permute(1, 3, 2, 0).numpy()
                done += (rows.stop - rows.start) * (frames.stop - frames.start)
                tick(done // n_frames)
    text = f"MATLAB 7.3 MAT-file, Platform: kinn {__version__}, Created on: {time.asctime()} HDF5 schema 1.00 ."
    with part.open("r+b") as raw:
        # text, the place of subsystem data (none), version 2.0 and the order of bytes
        raw.write(text.encode("ascii").ljust(116)[:116] + bytes(8) + b"\x00\x02IM")


def _set_class(array: h5py.Dataset, name: str) -> None:
    """The attribute `MATLAB_class`, of the type that MATLAB gives it: some readers lose the last letter of others."""
    value = np.bytes_(name)
    kind = h5py.h5t.C_S1.copy()  # ends with a zero, but has no room for it
    kind.set_size(len(value))
    attribute = h5py.h5a.create(array.id, b"MATLAB_class", kind, h5py.h5s.create(h5py.h5s.SCALAR))
    attribute.write(np.asarray(value), mtype=kind)


def _metadata(path: Path) -> dict[str, Any]:
    told = re.search(r"_V(\d+(?:\.\d+)?e-\d+)(?=[_. ]|$)", path.name, re.IGNORECASE)
    named = told or re.match(r"(ns|navier.?stokes)(?![a-z])", path.name, re.IGNORECASE)
    return {**({"equation": "navier-stokes"} if named else {}), **({"viscosity": float(told[1])} if told else {})}


def _time(t: Any, n_frames: int) -> list[float] | None:
    times = None if t is None else np.asarray(t).ravel()
    return times.tolist() if times is not None and times.size == n_frames else None
