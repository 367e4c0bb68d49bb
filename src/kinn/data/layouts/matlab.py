"""Li's Navier-Stokes files (MATLAB): `u (N, nx, ny, T)`.

Version 7.3 is HDF5, where MATLAB's column-major order makes the axes appear reversed, `(T, ny, nx, N)`; version 5 is
read through SciPy.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np

from kinn.data.datasets import TrajectoryDataset
from kinn.data.samples import Samples
from kinn.data.stores import ArrayFileStore, TensorStore, to_float32


def open_matlab7(path: Path, file: h5py.File, u: h5py.Dataset) -> TrajectoryDataset:
    if u.ndim != 4:
        raise ValueError(f"u in {path} must have the axes (N, nx, ny, T) in MATLAB, but its shape is {u.shape[::-1]}")
    store = ArrayFileStore(path, "u", axes=(3, 0, None, 2, 1))
    return TrajectoryDataset(
        Samples(store), time=_time(file.get("t"), u.shape[0]), metadata={"equation": "navier-stokes"}
    )


def open_matlab5(path: Path) -> TrajectoryDataset:
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
