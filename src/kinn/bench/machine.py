"""What a machine can do at best: how fast it moves memory, and how fast it multiplies and adds."""

from __future__ import annotations

from typing import NamedTuple

import torch

from kinn.bench.timing import take_turns


class Machine(NamedTuple):
    """Measured limits, in bytes per second and in floating-point operations per second (float32)."""

    bandwidth: float
    peak: float

    def shortest(self, cost: tuple[float, float]) -> tuple[float, str]:
        """The seconds that moving so many bytes and computing so many operations takes at least, and which bounds it.

        >>> Machine(bandwidth=1e10, peak=1e11).shortest((1e9, 1e9))
        (0.1, 'memory')
        """
        return max((cost[0] / self.bandwidth, "memory"), (cost[1] / self.peak, "arithmetic"))


def measure_machine(device: torch.device, *, size: int = 1 << 25, repeats: int = 9) -> Machine:
    """The best of some copies of `size` floats, and of some products of square matrices."""
    rows = 4096 if device.type == "cuda" else 1536
    source, target = torch.zeros(size, device=device), torch.empty(size, device=device)
    left, right = torch.rand(rows, rows, device=device), torch.rand(rows, rows, device=device)
    out = torch.empty_like(left)
    tf32 = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        seconds = take_turns(
            {"copy": lambda: target.copy_(source), "product": lambda: torch.mm(left, right, out=out)}, repeats
        )
    finally:
        torch.backends.cuda.matmul.allow_tf32 = tf32
    return Machine(2 * 4 * size / min(seconds["copy"]), 2 * rows**3 / min(seconds["product"]))
