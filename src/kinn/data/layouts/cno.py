"""CNO's Poisson files (HDF5): a group per pair, and the constants of CNO's normalisation."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from kinn.data.datasets import OperatorDataset
from kinn.data.layouts.fitting import batch_size, equation_of, fitting_pairs, number, tell_equation
from kinn.data.samples import Samples
from kinn.data.stores import GroupFileStore

_RANGES = {"inp": "input_range", "out": "output_range"}
_RANGES_OF = "ranges_of"


def open_cno(path: Path, file: h5py.File, groups: list[str]) -> OperatorDataset:
    """Source and potential on the unit square, in the units of `-Laplace u = f`, one channel each.

    - `Sample_<n>/input`, `Sample_<n>/output`: `(s, s)`, also with axes of length one or flat, `(s * s,)`.
    - `min_inp`, `max_inp`, `min_out`, `max_out`: numbers in the same units, the ends that CNO maps to 0 and 1; they
      become `metadata["input_range"]` and `metadata["output_range"]`. In a file that we wrote the attribute `ranges_of`
      tells that they are those of all its samples.

    The file does not state its points; CNO's code takes them as nodes `i / (s - 1)`, both ends included.

    Args:
        path: of the file.
        file: the same, open.
        groups: names of the samples' groups, in their order.

    Raises:
        ValueError: if an array is missing or no square, or a constant no number.
    """
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
    metadata: dict[str, Any] = {"equation": equation_of(file, "poisson")}
    for part, key in _RANGES.items():
        if f"min_{part}" in file and f"max_{part}" in file:
            metadata[key] = tuple(
                number(np.asarray(file[f"{end}_{part}"]), f"{end}_{part} in {path}") for end in ("min", "max")
            )
    if _RANGES_OF in file.attrs:
        metadata[_RANGES_OF] = str(file.attrs[_RANGES_OF])
    return OperatorDataset(*samples, metadata=metadata)


def write_cno(part: Path, dataset: Any, tick: Callable[[int], None]) -> None:
    """Write what `open_cno` reads; `tick` gets the number of samples written.

    Raises:
        ValueError: if the data are no pairs of one channel each on a square grid, or tell one range of two, or ranges
            that end before they begin.
    """
    pairs = fitting_pairs(dataset, "cno")
    if pairs.grid[0] != pairs.grid[1]:
        raise ValueError(f"layout 'cno' holds fields on a square grid, but the data are {dataset!r}")
    told = {key: pairs.metadata[key] for key in _RANGES.values() if key in pairs.metadata}
    if len(told) == 1 or any(low > high for low, high in told.values()):
        raise ValueError(f"layout 'cno' holds the ranges {', '.join(_RANGES.values())}, but the metadata tell {told}")
    found = dict.fromkeys(_RANGES, (math.inf, -math.inf))
    with h5py.File(part, "w") as file:
        step = batch_size(pairs.inputs)
        for start in range(0, len(pairs), step):
            rows = range(start, min(start + step, len(pairs)))
            inputs, outputs = pairs.batch(rows)
            for row, field, image in zip(rows, inputs, outputs):
                group = file.create_group(f"Sample_{row}")
                group["input"], group["output"] = field[0].numpy(), image[0].numpy()
            for name, values in (("inp", inputs), ("out", outputs)):
                low, high = found[name]
                found[name] = min(low, values.min().item()), max(high, values.max().item())
            tick(rows.stop)
        for name, key in _RANGES.items():
            # a part of a file keeps the file's constants: they are the normalisation that models were trained with
            file[f"min_{name}"], file[f"max_{name}"] = told.get(key, found[name])
        tell_equation(file, pairs.metadata, "poisson")
        if not told:
            file.attrs[_RANGES_OF] = "all samples"
        elif _RANGES_OF in pairs.metadata:
            file.attrs[_RANGES_OF] = pairs.metadata[_RANGES_OF]
