"""Time the selective scan, forward and backward, against plain PyTorch ways of computing it.

    python benchmarks/selective_scan.py [--output results/selective_scan_cpu.json] [--repeats 15]

Every contender is first held against the float64 loop at the shape that is timed (a shorter length for the check); one
that fails is not timed. Contenders take turns, so that a change of the machine's load meets all of them alike.

- compiled: `kinn.ops.selective_scan(backend="cpu")`.
- loop: the reference backend, one position after the other.
- chunked: blocks of 32 positions, a cumulative product within each block by `cumsum` of the exponents and a masked
  exponential of their differences, the state handed from block to block; stores `(B, L, D, N)` like any such form.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from pathlib import Path

import torch

from kinn.ops import selective_scan, zoh
from kinn.train import date, hardware, versions

SHAPES = {  # (batch, length, d, n), the length that the slow contenders are timed at
    "grid operator, N = 16": ((20, 4096, 40, 16), 128),
    "vision, N = 1": ((8, 3136, 192, 1), 128),
    "one long sequence": ((1, 65536, 64, 16), 1024),
}
TOLERANCE = 5e-6
NAMES = ("x", "dt", "a", "B", "C", "D")


def draw(batch: int, length: int, d: int, n: int, dtype=torch.float32) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((batch, length, d), (batch, length, d), (d, n), (batch, length, n), (batch, length, n), (d,))
    tensors = {name: torch.randn(shape, generator=generator) for name, shape in zip(NAMES, shapes)}
    tensors["dt"] = torch.nn.functional.softplus(tensors["dt"] - 3)
    tensors["a"] = torch.arange(1.0, n + 1).expand(d, n) * torch.exp(0.3 * tensors["a"])
    return {name: tensor.to(dtype) for name, tensor in tensors.items()}


def compiled(**arguments):
    return selective_scan(**arguments, backend="cpu")


def loop(**arguments):
    return selective_scan(**arguments, backend="reference")


def chunked(x, dt, a, B, C, D, block=32):
    state = x.new_zeros(x.shape[0], x.shape[2], a.shape[1])
    outputs = []
    lower = torch.ones(block, block, dtype=torch.bool).tril()
    for x_k, dt_k, B_k, C_k in zip(*(t.split(block, 1) for t in (x, dt, B, C))):
        size = x_k.shape[1]
        _, inject = zoh(dt_k[..., None], a)
        u = inject * B_k[:, :, None] * x_k[..., None]  # (b, l, d, n)
        total = dt_k.cumsum(1)
        gap = torch.where(lower[:size, :size, None], total[:, :, None] - total[:, None], torch.inf)
        h = torch.einsum("btsdn,bsdn->btdn", torch.exp(-gap[..., None] * a), u)
        h = h + torch.exp(-total[..., None] * a) * state[:, None]
        outputs.append((h * C_k[:, :, None]).sum(-1))
        state = h[:, -1]
    return torch.cat(outputs, 1) + D * x


CONTENDERS = {"compiled": compiled, "loop": loop, "chunked": chunked}


def evaluate(function, arguments, given):
    leaves = {name: tensor.detach().requires_grad_() for name, tensor in arguments.items()}
    start = time.perf_counter()
    y = function(**leaves)
    middle = time.perf_counter()
    gradients = torch.autograd.grad(y, list(leaves.values()), given)
    return (y.detach(), *gradients), (middle - start, time.perf_counter() - middle)


def error_of(function, shape) -> float:
    """Largest error over largest value, over the output and every gradient, against the loop in float64."""
    arguments = draw(*shape)
    given = torch.randn(shape[:3], generator=torch.Generator().manual_seed(1))
    exact, _ = evaluate(loop, {name: tensor.double() for name, tensor in arguments.items()}, given.double())
    got, _ = evaluate(function, arguments, given)
    return max(((g - e).abs().max() / e.abs().max()).item() for g, e in zip(got, exact))


def summary(seconds: list[float]) -> dict[str, float]:
    low, _, high = statistics.quantiles(seconds, n=4)
    return {
        "median_ms": 1e3 * statistics.median(seconds),
        "min_ms": 1e3 * min(seconds),
        "quartiles_ms": [1e3 * low, 1e3 * high],
        "runs": len(seconds),
    }


def measure(functions, shape, repeats) -> dict[str, dict]:
    arguments = draw(*shape)
    given = torch.randn(shape[:3])
    times = {name: ([], [], []) for name in functions}
    for run in range(repeats + 1):
        for name, function in functions.items():
            with torch.no_grad():
                start = time.perf_counter()
                function(**arguments)
                alone = time.perf_counter() - start
            _, (forward, backward) = evaluate(function, arguments, given)
            if run:  # the first one warms up
                for column, value in zip(times[name], (alone, forward, backward)):
                    column.append(value)
    columns = ("forward", "forward_for_gradient", "backward")
    return {name: {c: summary(v) for c, v in zip(columns, values)} for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("results/selective_scan_cpu.json"))
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()

    load_before = os.getloadavg()
    results = []
    for title, (shape, short) in SHAPES.items():
        batch, length, d, n = shape
        errors = {name: error_of(f, (min(batch, 2), min(length, 500), d, n)) for name, f in CONTENDERS.items()}
        sound = {name: f for name, f in CONTENDERS.items() if errors[name] <= TOLERANCE}
        entries = [
            {"shape": shape, "contenders": measure({"compiled": compiled}, shape, options.repeats)},
            {"shape": (batch, short, d, n), "contenders": measure(sound, (batch, short, d, n), 3)},
        ]
        results.append({"title": title, "error": errors, "timings": entries})
        for entry in entries:
            print(title, entry["shape"])
            for name, row in entry["contenders"].items():
                cells = (f"{c} {v['median_ms']:9.2f} (min {v['min_ms']:.2f})" for c, v in row.items())
                print(f"  {name:9s} error {errors[name]:.1e}", *cells, "ms")
    record = {
        "command": "python benchmarks/selective_scan.py",
        "what": "float32; milliseconds; forward: no gradient wanted; forward_for_gradient: states kept for a backward",
        "tolerance": TOLERANCE,
        "results": results,
        "hardware": hardware(),
        "load_average": {"before": load_before, "after": os.getloadavg()},
        "versions": versions(),
        "date": date(),
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
