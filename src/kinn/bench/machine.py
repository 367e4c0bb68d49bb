"""What a machine can do at best: how fast it moves memory, and how fast it multiplies and adds."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import torch

from kinn.bench.timing import take_turns

_LENGTH, _DEGREE = 2048, 32  # of the polynomial's values, in the nearest cache, and of the polynomial
_LEAST = 0.02  # seconds of a turn: on a GPU, launching one call and waiting for it takes as long as a copy
_SIZES = (1 << 21, 1 << 23, 1 << 25)  # bytes that may lie in a cache


class Machine(NamedTuple):
    """Measured limits, in bytes per second and in floating-point operations per second (float32).

    `cached` holds the bandwidth of work that moves no more than so many bytes and may find them in a cache; `measured`
    what `bandwidth` and `peak` are the best of.
    """

    bandwidth: float
    peak: float
    cached: Mapping[int, float] = {}
    measured: Mapping[str, float] = {}

    def shortest(self, cost: tuple[float, float]) -> tuple[float, str]:
        """The seconds that moving so many bytes and computing so many operations takes at least, and which bounds it.

        >>> Machine(bandwidth=1e10, peak=1e11).shortest((1e9, 1e9))
        (0.1, 'memory')
        >>> Machine(bandwidth=1e10, peak=1e11, cached={10**9: 1e11}).shortest((1e9, 1e8))
        (0.01, 'memory')
        """
        moved, done = cost
        bandwidth = next((rate for size, rate in sorted(self.cached.items()) if moved <= size), self.bandwidth)
        return max((moved / max(bandwidth, self.bandwidth), "memory"), (done / self.peak, "arithmetic"))


def measure_machine(device: torch.device, *, size: int = 1 << 25, repeats: int = 9) -> Machine:
    """The best of some runs of each: copy and triad of `size` floats, products of matrices, fused multiply-adds."""
    bandwidths = _bandwidths(device, size, repeats)
    product = _product(device, repeats)
    chain = _multiply_add(repeats) if device.type == "cpu" else 0.0
    cached = {bytes_: max(_bandwidths(device, bytes_ // 12, repeats).values()) for bytes_ in _SIZES}
    return Machine(
        max(bandwidths.values()), max(product, chain), cached, {**bandwidths, "product": product, "multiply_add": chain}
    )


def _bandwidths(device: torch.device, size: int, repeats: int) -> dict[str, float]:
    a, b, c = (torch.zeros(size, device=device) for _ in range(3))
    steps: dict[str, Callable[[], object]] = {
        "copy": lambda: a.copy_(b),
        "triad": lambda: torch.add(b, c, alpha=0.5, out=a),
    }
    seconds = take_turns(steps, repeats, least=_LEAST)
    return {"copy": 8 * size / min(seconds["copy"]), "triad": 12 * size / min(seconds["triad"])}


def _product(device: torch.device, repeats: int) -> float:
    rows = 4096 if device.type == "cuda" else 1536
    left, right = torch.rand(rows, rows, device=device), torch.rand(rows, rows, device=device)
    out = torch.empty_like(left)
    tf32 = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        steps: dict[str, Callable[[], object]] = {"product": lambda: torch.mm(left, right, out=out)}
        return 2 * rows**3 / min(take_turns(steps, repeats, least=_LEAST)["product"])
    finally:
        torch.backends.cuda.matmul.allow_tf32 = tf32


def _multiply_add(repeats: int) -> float:
    """A polynomial on values in the nearest cache, one thread each: what a matrix product may fall short of."""
    kernel, threads, sweeps = _polynomial(), torch.get_num_threads(), 10_000
    values, results = ([torch.rand(_LENGTH).numpy() for _ in range(threads)] for _ in range(2))
    with ThreadPoolExecutor(threads) as pool:
        steps = {"chain": lambda: list(pool.map(kernel, values, results, [sweeps] * threads))}
        seconds = min(take_turns(steps, repeats)["chain"])
    return 2.0 * _DEGREE * _LENGTH * sweeps * threads / seconds


@functools.cache
def _polynomial() -> Callable[..., None]:
    import numba  # slow to import, and not needed on a GPU

    def polynomial(values, results, sweeps):
        for sweep in range(sweeps):
            for i in range(_LENGTH):
                v = values[i]
                p = v
                for _ in range(_DEGREE):
                    p = p * v + v
                results[i] = p
            values[sweep % _LENGTH] *= 0.5  # else one sweep would do for all

    return numba.njit(polynomial, nogil=True, fastmath={"contract"})
