"""Time a training step of UKNO's two layouts, in turns; what each gains is in `kinn reproduce ukno-layouts`.

python benchmarks/ukno_layouts.py [--output results/ukno_layouts_cpu.json] [--repeats 25]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from kinn.bench import summary, take_turns
from kinn.models import UKNO
from kinn.models.ukno import UKNO_DEEP, UKNO_SHALLOW
from kinn.records import write_record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("results/ukno_layouts_cpu.json"))
    parser.add_argument("--repeats", type=int, default=25)
    options = parser.parse_args()

    torch.manual_seed(0)
    models = {"deep": UKNO(1, 1, **UKNO_DEEP), "shallow": UKNO(1, 1, **UKNO_SHALLOW)}
    x = torch.randn(16, 1, 32, 32)
    steps = {name: lambda model=model: model(x).square().mean().backward() for name, model in models.items()}
    times = {name: summary(seconds) for name, seconds in take_turns(steps, options.repeats).items()}
    record = {
        "command": f"python benchmarks/ukno_layouts.py --repeats {options.repeats}",
        "threads": torch.get_num_threads(),
        "seed": 0,
        "what": "float32; seconds; forward and backward of 16 samples at 32 x 32, order 2",
        "results": times,
    }
    write_record(options.output, record)
    print(json.dumps(times, indent=1))


if __name__ == "__main__":
    main()
