"""What the writers of layouts share: whether data fit, how many samples at a time, where the points lie."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import h5py
import numpy as np

from kinn.data.datasets import OperatorDataset, TrajectoryDataset
from kinn.data.samples import Samples

BUDGET = 2**24  # numbers held at once: 64 MB in float32


def fitting_pairs(dataset: Any, layout: str) -> OperatorDataset:
    """The data set, if it holds pairs of one channel each on a two-dimensional grid.

    Raises:
        ValueError: if it does not.
    """
    if not isinstance(dataset, OperatorDataset):
        raise ValueError(f"layout '{layout}' holds pairs, but the data are {dataset!r}")
    _check(dataset, (dataset.in_channels, dataset.out_channels), layout)
    return dataset


def fitting_trajectories(dataset: Any, layout: str) -> TrajectoryDataset:
    """The data set, if it holds trajectories of one channel on a two-dimensional grid.

    Raises:
        ValueError: if it does not.
    """
    if not isinstance(dataset, TrajectoryDataset):
        raise ValueError(f"layout '{layout}' holds trajectories, but the data are {dataset!r}")
    _check(dataset, (dataset.channels,), layout)
    return dataset


def _check(dataset: Any, channels: tuple[int, ...], layout: str) -> None:
    if set(channels) != {1}:
        raise ValueError(f"layout '{layout}' holds fields of one channel, but the data are {dataset!r}")
    if len(dataset.grid) != 2:
        raise ValueError(f"layout '{layout}' holds fields on a two-dimensional grid, but the data are {dataset!r}")


def batch_size(samples: Samples) -> int:
    """How many samples to hold at once."""
    return max(1, BUDGET // math.prod(samples.shape[1:]))


def equation_of(file: h5py.File, usual: str) -> str:
    """The equation of the data in a file: what we wrote of it, else the one that the layout is of."""
    return str(file.attrs.get("equation", usual))


def tell_equation(file: h5py.File, metadata: Mapping[str, Any], usual: str) -> None:
    """Note the data's equation in a file, if it is known and not the one that the layout is of."""
    equation = metadata.get("equation", usual)
    if equation != usual:
        file.attrs["equation"] = str(equation)


def domain_of(metadata: Mapping[str, Any], default: tuple[float, float]) -> tuple[float, float]:
    """The ends of the domain along each axis: those of the metadata where it has them.

    Raises:
        ValueError: if those are not two numbers.
    """
    domain = metadata.get("domain", default)
    try:
        low, high = domain
        return float(low), float(high)
    except (TypeError, ValueError) as error:
        raise ValueError(f"domain in the metadata must be two numbers, but is {domain!r}") from error


def number(value: Any, what: str) -> float:
    """One number, from whatever a file holds it in.

    Raises:
        ValueError: if it is none.
    """
    try:
        return float(np.asarray(value).item())
    except (TypeError, ValueError) as error:
        raise ValueError(f"{what} must be a number, but is {value!r}") from error


def centres(cells: int, low: float, high: float) -> np.ndarray:
    """Centres of cells, float32.

    Example:
        >>> centres(4, 0, 1).tolist()
        [0.125, 0.375, 0.625, 0.875]
    """
    return (low + (high - low) * (np.arange(cells) + 0.5) / cells).astype("float32")
