"""How much of a Poisson model's error is noise of its batch norms' statistics, and of one scale common to all samples?

    kinn reproduce poisson-order --budget small --seeds 1 --variants "UKNO K=1" --output RUN
    python benchmarks/poisson_noise.py RUN/runs/poisson-order/ukno-k-1-seed1
    python benchmarks/poisson_noise.py --table

evaluates a model that the recipe trained, with the statistics that it was saved with, those of five random halves of
the training part (as many batches as the trainer takes) and those of all of it. Each time also without the offset and
the gain common to all samples, which least squares finds on that set: two numbers that say nothing of what the model
has learned of the operator. Writes `results/poisson_noise/<run>.json`.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kinn import recipes
from kinn.data import OperatorDataset
from kinn.recipes.loading import load_parts
from kinn.records import write_record
from kinn.train import TrainedModel, load_model
from kinn.train.callbacks import fresh_statistics

RESULTS = Path(__file__).resolve().parents[1] / "results/poisson_noise"
BATCH, DRAWS = 16, 5


def measure_statistics(trained: TrainedModel, train: OperatorDataset, order: Tensor) -> None:
    """Give the batch norms the mean statistics of these training samples, in batches as in training."""
    with torch.no_grad(), fresh_statistics(trained.model):
        for batch in order.split(BATCH):
            trained.predict_normalized(train.batch(batch.tolist())[0])


def errors(trained: TrainedModel, data: OperatorDataset) -> dict[str, float]:
    """Median relative L1 in percent, in normalised units, as it is and without common offset and gain; these two."""
    given, truth = data.batch(range(len(data)))
    with torch.no_grad():
        prediction = torch.cat([trained.predict_normalized(part) for part in given.split(32)]).double()
    truth = trained.output_normalizer.encode(truth).double()
    error, centred = prediction - truth, truth - truth.mean()
    offset, gain = error.mean(), (error * centred).sum() / centred.square().sum()

    def median(error: Tensor) -> float:
        return 100 * float((error.abs().sum((1, 2, 3)) / truth.abs().sum((1, 2, 3))).median())

    rest = median(error - offset - gain * centred)
    return {"error": median(error), "without_common_scale": rest, "offset": float(offset), "gain": float(gain)}


def measure(run: Path) -> dict[str, Any]:
    """All of one run."""
    experiment = recipes.experiments("poisson-order", "small")[0]
    parts: dict[str, Any] = load_parts(experiment, run.parents[2] / "data", (), progress=True)
    trained = load_model(run / "model.safetensors")
    tests = ("test", "out_of_distribution")
    found: dict[str, Any] = {"saved": {name: errors(trained, parts[name]) for name in tests}}
    size = len(parts["train"])
    for draw in range(DRAWS):
        order = torch.randperm(size, generator=torch.Generator().manual_seed(draw))[: size // 2]
        measure_statistics(trained, parts["train"], order)
        found[f"half {draw}"] = {name: errors(trained, parts[name]) for name in tests}
    measure_statistics(trained, parts["train"], torch.arange(size))
    found["all"] = {name: errors(trained, parts[name]) for name in tests}
    return found


def table() -> None:
    """The records as a Markdown table."""
    print("| Run | Set | Saved | Five halves | All | All, without common scale |\n| :--- | :--- |" + 4 * " ---: |")
    for path in sorted(RESULTS.glob("*.json")):
        found = json.loads(path.read_text())["statistics"]
        for name in found["all"]:
            halves = [found[f"half {draw}"][name]["error"] for draw in range(DRAWS)]
            spread = f"{statistics.mean(halves):.3f} ± {statistics.stdev(halves):.3f}"
            last = found["all"][name]
            cells = f"{found['saved'][name]['error']:.3f} | {spread} | {last['error']:.3f}"
            print(f"| {path.stem} | {name} | {cells} | {last['without_common_scale']:.3f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path, help="folders of trained models")
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    if options.table:
        return table()
    for run in options.runs:
        header = {
            "kind": "poisson-noise",
            "run": run.name,
            "command": f"python benchmarks/poisson_noise.py RUN/runs/poisson-order/{run.name}",
        }
        write_record(RESULTS / f"{run.name}.json", {**header, "statistics": measure(run)})


if __name__ == "__main__":
    main()
