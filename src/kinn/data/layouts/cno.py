"""CNO's Poisson files (HDF5).

A group `Sample_<n>` per pair with `input` and `output`; `min_inp`, `max_inp`, `min_out`, `max_out` become
`metadata["input_range"]` and `metadata["output_range"]`.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from kinn.data.datasets import OperatorDataset
from kinn.data.samples import Samples
from kinn.data.stores import GroupFileStore


def open_cno(path: Path, file: h5py.File, groups: list[str]) -> OperatorDataset:
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
