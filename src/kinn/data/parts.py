"""Disjoint parts of a data set: for training, validation and test."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Integral, Real
from typing import TypeVar

import torch

from kinn.data.datasets import OperatorDataset, TrajectoryDataset

D = TypeVar("D", OperatorDataset, TrajectoryDataset)


def split(dataset: D, sizes: Mapping[str, int | float], seed: int | None) -> dict[str, D]:
    """Cut a data set into disjoint parts.

    Args:
        dataset: pairs or trajectories.
        sizes: the parts' names with their numbers of samples, or with fractions (floats) of the whole.
        seed: of the random assignment; None keeps the order, as public benchmarks do: the first part holds the first
            samples.

    Returns:
        the parts under their names, in the order of `sizes`. Same data set, sizes and seed: same parts.

    Raises:
        ValueError: if sizes are no such numbers, mix counts and fractions, ask for more than there is, or leave a part
            empty.

    Example:
        >>> from kinn.data import from_arrays
        >>> data = from_arrays(torch.rand(10, 1, 8, 8), torch.rand(10, 1, 8, 8))
        >>> {name: len(part) for name, part in split(data, {"train": 0.8, "test": 0.2}, seed=0).items()}
        {'train': 8, 'test': 2}
    """
    counts = _counts(sizes, len(dataset))
    if seed is None:
        order = list(range(len(dataset)))
    else:
        order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed)).tolist()
    parts, start = {}, 0
    for name, count in counts.items():
        parts[name] = dataset.subset(order[start : start + count])
        start += count
    return parts


def _counts(sizes: Mapping[str, int | float], total: int) -> dict[str, int]:
    if not sizes or not all(map(_is_size, sizes.values())):
        raise ValueError(f"sizes must name parts with non-negative numbers, but are {dict(sizes)}")
    fractions = [not isinstance(size, Integral) for size in sizes.values()]
    if any(fractions) and not all(fractions):
        raise ValueError(f"sizes must be all counts (int) or all fractions (float), but are {dict(sizes)}")
    if all(fractions):
        if sum(map(float, sizes.values())) > 1 + 1e-6:  # float32 has seven digits
            raise ValueError(f"fractions must sum to at most 1, but {dict(sizes)} sum to {sum(sizes.values()):g}")
        # rounded cumulative shares: the parts of a full split always add up to the whole
        edges = [0.0]
        for size in sizes.values():
            edges.append(min(edges[-1] + float(size), 1.0))
        places = [math.floor(edge * total + 0.5 - 1e-9) for edge in edges]
        counts = {name: high - low for name, low, high in zip(sizes, places, places[1:], strict=False)}
    else:
        counts = {name: int(size) for name, size in sizes.items()}
        if sum(counts.values()) > total:
            raise ValueError(f"sizes {dict(sizes)} need {sum(counts.values())} samples, but the data set has {total}")
    empty = [name for name, count in counts.items() if count == 0]
    if empty:
        raise ValueError(
            f"every part needs a sample, but of {total} samples '{empty[0]}' gets none with sizes {dict(sizes)}"
        )
    return counts


def _is_size(size: object) -> bool:
    return isinstance(size, Real) and not isinstance(size, bool) and float(size) >= 0
