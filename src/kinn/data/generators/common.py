"""What all generators share: random numbers for each sample, early checks, threads that fit small grids."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def sample_generator(seed: int, index: int, *stream: int) -> torch.Generator:
    """A generator of its own for every sample, so that no sample depends on those before it.

    Args:
        seed: of the data set, non-negative.
        index: of the sample.
        stream: further non-negative numbers that tell draws apart.

    Example:
        >>> torch.rand(1, generator=sample_generator(0, 3)) == torch.rand(1, generator=sample_generator(0, 3))
        tensor([True])
    """
    state = np.random.SeedSequence((seed, index, *stream)).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))


@contextmanager
def threads_for(resolution: int) -> Iterator[None]:
    """One thread for small transforms: more gain nothing on an idle machine and wait for each other on a busy one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1 if resolution <= 128 else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def check_counts(samples: int, seed: int) -> None:
    if samples < 1 or seed < 0:
        raise ValueError(f"samples must be positive and seed not negative, but they are {samples} and {seed}")
