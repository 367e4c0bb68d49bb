"""Disjoint parts of a data set."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from kinn.data import OperatorDataset, from_arrays, from_trajectories, split


def pairs(n: int = 10) -> OperatorDataset:
    """Sample i holds i everywhere."""
    fields = np.arange(float(n))[:, None, None].repeat(4, axis=2)
    return from_arrays(fields, -fields)


def labels_of(part: OperatorDataset) -> list[int]:
    return [int(x[0, 0]) for x, _ in part]


def test_parts_are_disjoint_whole_and_seeded() -> None:
    parts = split(pairs(), {"train": 0.7, "validation": 0.2, "test": 0.1}, 3)
    labels = [labels_of(part) for part in parts.values()]
    assert [len(part) for part in labels] == [7, 2, 1]
    assert sorted(itertools.chain(*labels)) == list(range(10))
    assert labels[0] != sorted(labels[0])
    assert labels == [labels_of(p) for p in split(pairs(), {"a": 7, "b": 2, "c": 1}, 3).values()]
    assert labels[0] != labels_of(split(pairs(), {"a": 7}, 4)["a"])


def test_without_seed_the_order_stays() -> None:
    parts = split(pairs(), {"train": 6, "test": 3}, None)
    assert labels_of(parts["train"]) == [0, 1, 2, 3, 4, 5]
    assert labels_of(parts["test"]) == [6, 7, 8]
    assert labels_of(pairs().subset(slice(-2, None))) == [8, 9]


@pytest.mark.parametrize("n", [3, 7, 10, 11, 1000])
def test_fractions_of_a_whole_lose_no_sample(n: int) -> None:
    parts = split(from_arrays(np.ones((n, 1, 2)), np.ones((n, 1, 2))), {"a": 1 / 3, "b": 1 / 3, "c": 1 / 3}, 0)
    assert sum(len(part) for part in parts.values()) == n


def test_sizes_of_numpy() -> None:
    halves = {name: np.float32(share) for name, share in (("a", 0.8), ("b", 0.2))}
    assert [len(part) for part in split(pairs(), halves, 0).values()] == [8, 2]
    assert len(split(pairs(), {"a": np.int64(3)}, 0)["a"]) == 3


def test_trajectories_and_metadata_pass_through() -> None:
    data = from_trajectories(np.zeros((6, 8, 1, 4)), time=range(8))
    data.metadata["viscosity"] = 1e-3
    part = split(data, {"train": 4, "test": 2}, 0)["test"]
    assert len(part) == 2
    assert part.time == list(range(8))
    assert part.metadata == {"viscosity": 1e-3}
    assert part.in_memory().time == part.time


def test_wrong_sizes_are_named() -> None:
    for message, sizes in [
        ("need 12 samples, but the data set has 10", {"a": 6, "b": 6}),
        ("all counts", {"a": 6, "b": 0.5}),
        ("sum to 1.2", {"a": 0.6, "b": 0.6}),
        ("'b' gets none", {"a": 0.97, "b": 0.02}),
        ("'b' gets none", {"a": 5, "b": 0}),
        ("non-negative", {"a": -1}),
        ("non-negative", {}),
        ("non-negative", {"a": float("nan")}),
        ("non-negative", {"a": True}),
        ("non-negative", {"a": "half"}),
    ]:
        with pytest.raises(ValueError, match=message):
            split(pairs(), sizes, 0)
