"""Time a training step of UKNO's two layouts, in turns; what each gains is in `kinn reproduce ukno-layouts`.

python benchmarks/ukno_layouts.py [--output results/ukno_layouts_cpu.json] [--repeats 25]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch

from kinn.models import UKNO
from kinn.models.ukno import UKNO_DEEP, UKNO_SHALLOW
from kinn.train import date, hardware, versions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("results/ukno_layouts_cpu.json"))
    parser.add_argument("--repeats", type=int, default=25)
    options = parser.parse_args()

    torch.manual_seed(0)
    models = {"deep": UKNO(1, 1, **UKNO_DEEP), "shallow": UKNO(1, 1, **UKNO_SHALLOW)}
    x = torch.randn(16, 1, 32, 32)
    times: dict[str, list[float]] = {name: [] for name in models}
    for run in range(options.repeats + 1):
        for name, model in models.items():
            start = time.perf_counter()
            model(x).square().mean().backward()
            if run:  # the first one warms up
                times[name].append(time.perf_counter() - start)
    steps = {
        name: {"median_s": statistics.median(t), "quartiles_s": statistics.quantiles(t, n=4)[::2], "runs": len(t)}
        for name, t in times.items()
    }
    record = {
        "command": "python benchmarks/ukno_layouts.py",
        "what": "float32; seconds; forward and backward of 16 samples at 32 x 32, order 2",
        "results": steps,
        "hardware": hardware(),
        "versions": versions(),
        "date": date(),
    }
    options.output.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(steps, indent=1))


if __name__ == "__main__":
    main()
