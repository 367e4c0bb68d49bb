"""What a step of the selective scan costs where its tensors lie in a near cache, in the last one, and in memory.

python benchmarks/scan_limits.py [--output results/scan_limits_cpu.json] [--repeats 15]

One thread, D 192, first order; from 0.5 to 100 MB of arguments and results, forward and backward apart. Times are per
step and 32 channels. What is left with all tensors in a near cache is what the instructions take; the rest is memory.
"""

from __future__ import annotations

import argparse
import itertools
from functools import partial
from pathlib import Path
from typing import Any

import torch

from kinn.bench import Shape, difference, measure_machine, refuse_wrong, scan_cost, summary, take_turns
from kinn.bench.shapes import draw
from kinn.ops import selective_scan
from kinn.records import write_record
from kinn.train import keep_freed_memory

CHANNELS, GROUP = 192, 32
SIZES = ((1, 196), (2, 392), (2, 1568), (8, 784), (8, 3136))  # sequences, steps
SMALL = (1, 98)  # mostly the time of a call; times are of what the others take beyond it


def check(potentials: int) -> None:
    function = partial(selective_scan, injection="euler")
    tensors = draw(Shape(*SMALL, CHANNELS, potentials))
    error = difference(function, tensors, partial(function, backend="reference"))
    refuse_wrong(f"with {potentials} potentials the scan", error, most=1e-5)


def prepare(sequences: int, length: int, potentials: int) -> dict[str, Any]:
    tensors = draw(Shape(sequences, length, CHANNELS, potentials))
    leaves = [tensor.requires_grad_() for tensor in tensors.values()]
    given = torch.randn_like(leaves[0])

    def scan() -> torch.Tensor:
        return selective_scan(**tensors, injection="euler")

    kept = scan()
    return {"forward": scan, "backward": lambda: torch.autograd.grad(kept, leaves, given, retain_graph=True)}


def cost_of(which: str, sequences: int, length: int, potentials: int) -> tuple[float, float]:
    """Bytes and operations of one pass."""
    size = (sequences, length, CHANNELS, potentials)
    forward = scan_cost(*size, backward=False, injection="euler")
    both = scan_cost(*size, backward=True, injection="euler")
    return forward if which == "forward" else (both[0] - forward[0], both[1] - forward[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("results/scan_limits_cpu.json"))
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(1)
    machine = measure_machine(torch.device("cpu"))
    results = []
    for potentials in (1, 16):
        check(potentials)
        seconds = {}
        for size in (SMALL, *SIZES):  # not in turns: a short one would find what a long one left in the caches
            turns = take_turns(prepare(*size, potentials), options.repeats, warm_up=2, least=0.02)
            seconds |= {(size, which): summary(found) for which, found in turns.items()}
        for which, size in itertools.product(("forward", "backward"), SIZES):
            found, small = seconds[size, which], seconds[SMALL, which]
            cost = cost_of(which, *size, potentials)
            groups, beyond = (CHANNELS / GROUP * (size[0] * size[1] - less) for less in (0, SMALL[0] * SMALL[1]))
            row = {
                "pass": which,
                "potentials": potentials,
                "sequences": size[0],
                "length": size[1],
                "megabytes": cost[0] / 1e6,
                **found,
                "nanoseconds": 1e9 * (found["min_s"] - small["min_s"]) / beyond,
                "least_nanoseconds": {
                    "memory": 1e9 * cost[0] / machine.bandwidth / groups,
                    "arithmetic": 1e9 * cost[1] / machine.peak / groups,
                },
            }
            least = ", ".join(f"{name} {value:.1f}" for name, value in row["least_nanoseconds"].items())
            print(f"N {potentials:>2} {which:>8} {row['megabytes']:7.2f} MB: {row['nanoseconds']:6.1f} ns ({least})")
            results.append(row)
    record = {
        "command": f"python benchmarks/scan_limits.py --repeats {options.repeats}",
        "what": f"float32, one thread, {CHANNELS} channels, first order; nanoseconds per step and {GROUP} channels",
        "machine": machine._asdict(),
        "threads": 1,
        "seed": 0,
        "results": results,
    }
    write_record(options.output, record)


if __name__ == "__main__":
    main()
