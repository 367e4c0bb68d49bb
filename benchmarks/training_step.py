"""Time and memory of whole training steps: ours beside Li's FNO, and models beside themselves with a part changed.

    python benchmarks/training_step.py [--device cpu | cuda] [--repeats 15] [--threads 2] [--steps NAME ...]
                                       [--keep-freed-memory] [--output FILE]

writes `results/training_step_<device>.json`. Every step is eager, as FNO's users run it.

The steps take turns, so that a change of the machine's load meets all of them alike. Before anything is timed, our FNO
and Li's are given the same weights and must agree in float64, and every model, on a small grid and on the device, must
agree with itself in float64 without fused kernels. cuDNN's TF32 is off: on a GPU Li's 1 x 1 convolutions would
multiply in it, and our matrix products not. Peak memory is what one step adds to a process of its own that has
done a step before, so that what is loaded or made once does not count. `--keep-freed-memory` times steps as
`kinn train` takes them; without it, a step also pays for memory that the one before it gave back to the system.
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import statistics
from pathlib import Path

import torch
from peers.li_fno import LiFNO
from torch import nn

from kinn.bench import WithoutScan, model_difference, peak_memory_apart, refuse_wrong, summary, take_turns
from kinn.models import CNO, FKNO, FNO, UKNO
from kinn.nn import FilteredActivation, KirchhoffBlock
from kinn.records import write_record
from kinn.train import keep_freed_memory


def fields(model: nn.Module):
    return model, torch.randn(20, 10, 64, 64), torch.randn(20, 1, 64, 64)


def channels_last(model: nn.Module):
    return model, torch.randn(20, 64, 64, 10), torch.randn(20, 64, 64, 1)


def features(block: type[KirchhoffBlock]):
    x = torch.randn(8, 56, 56, 96)
    return block(96, d_state=1, dt_rank=6), x, torch.randn_like(x)


def plainly(model: nn.Module):
    """The same model, with activations that the fused operation does not know."""
    for module in model.modules():
        if isinstance(module, FilteredActivation):
            module.activation = nn.Sequential(module.activation)
    return model


def scalars(model: nn.Module):
    return model, torch.randn(20, 1, 64, 64), torch.randn(20, 1, 64, 64)


STEPS = {
    "Li's FNO": lambda: channels_last(LiFNO(10, 1)),
    "FNO": lambda: fields(FNO(10, 1)),
    "FKNO-4": lambda: fields(FKNO(10, 1)),
    "CNO": lambda: scalars(CNO(1, 1)),
    "CNO, full matrices": lambda: scalars(plainly(CNO(1, 1))),
    "UKNO": lambda: scalars(UKNO(1, 1)),
    "UKNO, full matrices": lambda: scalars(plainly(UKNO(1, 1))),
    "block": lambda: features(KirchhoffBlock),
    "block without scan": lambda: features(WithoutScan),
}
SMALL = {  # the sizes of a check, by those of a step: batch and grid; on a GPU such that the same kernels run
    "cpu": {20: 4, 8: 1, 64: 24, 56: 17},
    "cuda": {20: 20, 8: 8, 64: 24, 56: 17},
}
RATIOS = [
    ("FNO", "Li's FNO"),
    ("FKNO-4", "Li's FNO"),
    ("FKNO-4", "FNO"),
    ("CNO", "CNO, full matrices"),
    ("UKNO", "UKNO, full matrices"),
    ("block", "block without scan"),
]


def parts(name: str, device: str):
    torch.manual_seed(0)
    return tuple(part.to(device) for part in STEPS[name]())


def check(name: str, device: str) -> float:
    """How far a model is from float64, and whether that is too far."""
    model, x, _ = parts(name, device)
    small = x[tuple(slice(SMALL[device].get(size)) for size in x.shape)]
    error = model_difference(model, small)
    refuse_wrong(name, error, most=1e-2)  # batch norms of so few values round roughly
    return error


def prepare(name: str, device: str):
    model, x, target = parts(name, device)
    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-3)

    def step() -> None:
        optimiser.zero_grad()
        (model(x) - target).square().mean().backward()
        optimiser.step()

    return step


def check_ours() -> float:
    """The largest difference between our FNO and Li's, of the largest value, in float64."""
    ours = FNO(10, 1).double()
    theirs = LiFNO(10, 1).double().take(ours)
    x = torch.randn(2, 10, 64, 64, dtype=torch.float64)
    expected = theirs(x.movedim(1, -1)).movedim(-1, 1)
    return ((ours(x) - expected).abs().max() / expected.abs().max()).item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=list(STEPS), metavar="NAME")
    parser.add_argument("--keep-freed-memory", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.backends.cudnn.allow_tf32 = False
    if options.keep_freed_memory:
        keep_freed_memory()
    error = check_ours()
    if error > 1e-10:
        raise SystemExit(f"our FNO and Li's differ by {error:.1e} with the same weights: nothing is timed")

    device = options.device
    errors = {name: check(name, device) for name in options.steps}
    steps = {name: prepare(name, device) for name in options.steps}
    times = take_turns(steps, options.repeats, warm_up=2)
    memory = {name: (peak_memory_apart(prepare, name, device, device=device) or math.nan) / 2**20 for name in steps}
    results = {name: {**summary(t), "peak_mib": memory[name]} for name, t in times.items()}
    record = {
        "command": f"python benchmarks/training_step.py --device {device} --repeats {options.repeats} "
        f"--threads {options.threads}"
        + ("" if len(steps) == len(STEPS) else " --steps " + " ".join(map(shlex.quote, steps)))
        + (" --keep-freed-memory" if options.keep_freed_memory else ""),
        "device": device,
        "what": "float32, no TF32, Adam; 64 x 64, batch 20, order 2, 4 routes; block: 56 x 56, batch 8, D 192, N 1",
        "threads": options.threads,
        "seed": 0,
        "difference_with_equal_weights": error,
        "differences_from_float64": errors,
        "results": results,
        "ratios": {
            f"{a} / {b}": {
                "time": statistics.median(x / y for x, y in zip(times[a], times[b])),
                "peak": memory[a] / memory[b],
            }
            for a, b in RATIOS
            if a in steps and b in steps
        },
    }
    write_record(options.output or Path(f"results/training_step_{device}.json"), record)
    print(json.dumps({"results": results, "ratios": record["ratios"]}, indent=1))


if __name__ == "__main__":
    main()
