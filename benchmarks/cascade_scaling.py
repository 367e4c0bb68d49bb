"""How the cost of a cascade grows with length, channels, potentials, cells and routes, forward and backward.

python benchmarks/cascade_scaling.py [--output results/cascade_scaling_cpu.json] [--repeats 7] [--threads 2]

One size at a time is varied around L 64 x 64, D 64, N 8, K 2, two routes, batch 4. The exponent is the slope of the
logarithm of the median time over the logarithm of the size: 1 where cost is linear, less where a fixed part remains.
Every combination of sizes, at a short length, must agree with the definition in float64 before it is timed.
"""

from __future__ import annotations

import argparse
import math
import statistics
from functools import partial
from pathlib import Path

import torch

from kinn.bench import difference, refuse_wrong, take_turns
from kinn.bench.cascades import ROUTES
from kinn.bench.shapes import cascade_tensors, normal_numbers
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


def draw(length: int, channels: int, potentials: int, cells: int, routes: int, batch: int = 4, rank: int = 4):
    return cascade_tensors(normal_numbers(), (batch, length // 64, 64, channels), routes, cells, potentials, rank)


def check(**sizes: int) -> None:
    function = partial(cascade_scan, routes=ROUTES[: sizes["routes"]])
    error = difference(function, draw(**{**sizes, "length": 192}), partial(function, backend="reference"))
    refuse_wrong(f"at {sizes} the cascade", error, most=1e-5)


def prepare(**sizes: int):
    leaves = {name: tensor.requires_grad_() for name, tensor in draw(**sizes).items()}
    given = torch.randn(leaves["x"].shape, generator=torch.Generator().manual_seed(1))
    routes = ROUTES[: sizes["routes"]]

    def step() -> None:
        torch.autograd.grad(cascade_scan(**leaves, routes=routes), list(leaves.values()), given)

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("results/cascade_scaling_cpu.json"))
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for name, sizes in VARIED.items():
        for size in sizes if name != "length" else sizes[:1]:
            check(**{**BASE, name: size})
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
