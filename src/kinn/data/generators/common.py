"""What all generators share: random numbers for each sample, early checks, threads that fit small grids."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Integral

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


def check_common(
    samples: int, seed: int, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32, **sizes: int
) -> None:
    """Refuse, with a ValueError, what no generator can do, before it begins; of `sizes`, what are no whole numbers."""
    for name, number in {"samples": samples, "seed": seed, **sizes}.items():
        if isinstance(number, bool) or not isinstance(number, Integral):
            raise ValueError(f"{name} must be a whole number, but is {number!r}")
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"dtype must be torch.float32 or torch.float64, but is {dtype}")
    try:
        where = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"expected a device such as 'cpu' or 'cuda', got '{device}'") from error
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if where.type == "cuda" and (where.index or 0) >= found:
        raise ValueError(f"device is '{device}', but PyTorch finds {found or 'no'} GPU here")
    if samples < 1 or seed < 0:
        raise ValueError(f"samples must be positive and seed not negative, but they are {samples} and {seed}")
