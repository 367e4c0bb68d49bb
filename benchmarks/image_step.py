"""Time and memory of image backbones on the CPU: KINN-T beside ConvNeXt-T, Swin-T and MambaOut-T of timm.

python benchmarks/image_step.py [--output results/image_step_cpu.json] [--repeats 7] [--threads 2] [--batches 1 8]

Forward alone (evaluation) and forward with backward (training) at 224 x 224, taking turns. Peak memory is what one
step adds to a process of its own that has done a step before. Run it with nothing else at work.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from functools import partial
from pathlib import Path

import timm
import torch

import kinn  # noqa: F401  enters KINN in timm's registry
from kinn.bench import model_difference, peak_memory_apart, refuse_wrong, summary, take_turns
from kinn.records import write_record

OURS, BASE = "kinn_tiny", "convnext_tiny"
MODELS = (OURS, BASE, "swin_tiny_patch4_window7_224", "mambaout_tiny")


def forward(name: str, batch: int):
    torch.manual_seed(0)
    model, x = timm.create_model(name).eval(), torch.randn(batch, 3, 224, 224)

    def step() -> None:
        with torch.inference_mode():
            model(x)

    return step


def training(name: str, batch: int):
    torch.manual_seed(0)
    model, x = timm.create_model(name).train(), torch.randn(batch, 3, 224, 224)

    def step() -> None:
        model.zero_grad()
        model(x).square().mean().backward()

    return step


def measure(what, batch: int, repeats: int) -> dict:
    times = take_turns({name: what(name, batch) for name in MODELS}, repeats, warm_up=2)
    results = {name: summary(t) for name, t in times.items()}
    for name in MODELS:
        results[name][f"over {BASE}"] = statistics.median(a / b for a, b in zip(times[name], times[BASE]))
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("results/image_step_cpu.json"))
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    error = model_difference(timm.create_model(OURS), torch.randn(2, 3, 64, 64))
    refuse_wrong(OURS, error, most=1e-3)
    results = {}
    for batch in options.batches:
        for title, what in (("forward", forward), ("training step", training)):
            found = results[f"{title}, batch {batch}"] = measure(what, batch, options.repeats)
            for name in MODELS:
                found[name]["peak_mib"] = (peak_memory_apart(partial(what, batch=batch), name) or math.nan) / 2**20
    batches = " ".join(map(str, options.batches))
    how = f"--repeats {options.repeats} --threads {options.threads} --batches {batches}"
    record = {
        "command": f"python benchmarks/image_step.py {how}",
        "what": "float32, 224 x 224, 1000 classes; forward in evaluation, with backward in training, no optimiser",
        "threads": options.threads,
        "seed": 0,
        "difference_from_float64": error,
        "parameters": {n: sum(p.numel() for p in timm.create_model(n, device="meta").parameters()) for n in MODELS},
        "results": results,
    }
    write_record(options.output, record)
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
