"""How the cost of a cascade grows with length, channels, potentials, cells and routes, forward and backward.

python benchmarks/cascade_scaling.py [--output results/cascade_scaling_cpu.json] [--repeats 7] [--threads 2]

One size at a time is varied around L 64 x 64, D 64, N 8, K 2, two routes, batch 4. The exponent is the slope of the
logarithm of the median time over the logarithm of the size: 1 where cost is linear, less where a fixed part remains.
"""

from __future__ import annotations

import argparse
import math
import statistics
from pathlib import Path

import torch

from kinn.bench import take_turns
from kinn.ops import cascade_scan
from kinn.records import write_record

BASE = {"length": 4096, "channels": 64, "potentials": 8, "cells": 2, "routes": 2}
VARIED = {
    "length": (1024, 2048, 4096, 8192, 16384),
    "channels": (32, 64, 128, 256),
    "potentials": (1, 2, 4, 8, 16, 32),
    "cells": (1, 2, 3, 4),
    "routes": (1, 2, 4),
}
ROUTES = [(1, False), (0, False), (1, True), (0, True)]


def prepare(length: int, channels: int, potentials: int, cells: int, routes: int, batch: int = 4, rank: int = 4):
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    leaves = [
        normal(batch, length // 64, 64, channels),
        normal(routes, cells, rank + 2 * potentials, channels) * 0.4 * (potentials * channels) ** -0.5,
        normal(routes, cells, channels, rank) * rank**-0.5,
        normal(routes, cells, channels) - 3,
        torch.arange(1.0, potentials + 1).expand(routes, cells, channels, potentials).contiguous(),
        torch.ones(routes, cells, channels),
    ]
    leaves = [leaf.requires_grad_() for leaf in leaves]
    given = normal(*leaves[0].shape)

    def step() -> None:
        torch.autograd.grad(cascade_scan(*leaves, routes=ROUTES[:routes]), leaves, given)

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("results/cascade_scaling_cpu.json"))
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    results = {}
    for name, sizes in VARIED.items():
        steps = {size: prepare(**{**BASE, name: size}) for size in sizes}
        times = take_turns({str(size): step for size, step in steps.items()}, options.repeats)
        medians = [statistics.median(t) for t in times.values()]
        slope = statistics.linear_regression([math.log(s) for s in sizes], [math.log(m) for m in medians]).slope
        results[name] = {"sizes": sizes, "median_s": medians, "exponent": slope}
        print(
            f"{name:>10}: {', '.join(f'{s}: {1e3 * m:.1f} ms' for s, m in zip(sizes, medians))}; exponent {slope:.2f}"
        )
    record = {
        "command": f"python benchmarks/cascade_scaling.py --repeats {options.repeats} --threads {options.threads}",
        "what": "float32; seconds; forward and backward of cascade_scan, batch 4",
        "base": BASE,
        "threads": options.threads,
        "seed": 0,
        "results": results,
    }
    write_record(options.output, record)


if __name__ == "__main__":
    main()
