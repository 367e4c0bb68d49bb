"""Which learning rate, and which way to train on flows, suits each model of a recipe, on validation data alone.

    python benchmarks/tune_recipes.py RECIPE --lr 1e-3 2e-3 4e-3 --epochs 8 [--variants "U-Net" ...]
    python benchmarks/tune_recipes.py --table

writes `results/tuning/<recipe>/<variant>-<settings>.json` for each learning rate and variant, but for those that are
there. All is the recipe's first experiment at budget `small` but for what is given; `--table` prints what is there.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from kinn import recipes
from kinn.recipes.loading import load_parts
from kinn.recipes.runner import train_variant
from kinn.records import write_record
from kinn.train import evaluate

ROOT = Path(__file__).resolve().parents[1]
RESULTS, WORK = ROOT / "results/tuning", ROOT / "runs/tuning"


def changed(experiment: recipes.Experiment, lr: float, options: argparse.Namespace) -> recipes.Experiment:
    """The experiment under other settings."""
    rollout = experiment.rollout and replace(experiment.rollout, predict_increment=options.increments)
    return replace(
        experiment,
        optimizer=replace(experiment.optimizer, lr=lr),
        training=replace(
            experiment.training,
            epochs=options.epochs,
            batch_norm_batches=options.batch_norm_batches or experiment.training.batch_norm_batches,
        ),
        rollout=rollout,
        unroll=options.unroll or experiment.unroll,
        normalize=options.normalize or experiment.normalize,
    )


def settings(experiment: recipes.Experiment, options: argparse.Namespace) -> dict[str, Any]:
    """What a record is about, beside recipe and variant."""
    found: dict[str, Any] = {"lr": experiment.optimizer.lr, "epochs": experiment.training.epochs}
    if experiment.rollout:
        found |= {"unroll": experiment.unroll, "increments": experiment.rollout.predict_increment}
    given = {name: getattr(options, name) for name in ("couplings", "batch_norm_batches") if getattr(options, name)}
    return {**found, "normalize": experiment.normalize, **given}


def command(recipe: str, variant: str, about: dict[str, Any]) -> str:
    """What gives a record again."""
    words = f"--variants '{variant}' --lr {about['lr']:g} --epochs {about['epochs']} --normalize {about['normalize']}"
    if "unroll" in about:
        words += f" --unroll {about['unroll']}" + (" --increments" if about["increments"] else "")
    words += "".join(
        f" --{name.replace('_', '-')} {about[name]}" for name in ("couplings", "batch_norm_batches") if name in about
    )
    return f"python benchmarks/tune_recipes.py {recipe} {words}"


def measure(experiment: recipes.Experiment, variant: recipes.Variant, parts: dict[str, Any], run: Path) -> dict:
    """Train; the errors on the validation part."""
    variant = replace(variant, lr=None, unroll=None)
    task, fitted = train_variant(experiment, variant, experiment.training, parts, run, progress=True)
    found = evaluate(task, parts["validation"])
    return {
        "primary_metric": experiment.primary_metric,
        "metrics": found.metrics,
        "rollout_relative_l2": found.rollout_relative_l2,
        "validation_loss": fitted.curves["validation_loss"],
        "train_seconds": fitted.train_seconds,
    }


def table() -> None:
    """The records as Markdown tables, one for each recipe."""
    for folder in sorted(RESULTS.iterdir()):
        records = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
        names = list({name: None for record in records for name in record["settings"]})
        print(f"\n{folder.name}, {records[0]['primary_metric']}\n\n| Model | {' | '.join(names)} | Error |")
        print("| :--- |" + " ---: |" * (len(names) + 1))
        for record in sorted(records, key=lambda r: (r["variant"], r["metrics"][r["primary_metric"]])):
            cells = [record["variant"], *(str(record["settings"].get(name, "")) for name in names)]
            print(f"| {' | '.join(cells)} | {record['metrics'][record['primary_metric']]:.4g} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="?", choices=recipes.names())
    parser.add_argument("--variants", nargs="+", help="by default all that are trained")
    parser.add_argument("--lr", type=float, nargs="+", default=[1e-3])
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--increments", action="store_true", help="predict what a step adds, on flows")
    parser.add_argument("--unroll", type=int, help="steps unrolled, on flows")
    parser.add_argument("--normalize", choices=("none", "min-max", "standard"))
    parser.add_argument("--couplings", choices=("free", "bounded"), help="of models with Kirchhoff cells")
    parser.add_argument("--batch-norm-batches", type=int, help="batches that give batch norms their statistics")
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    if options.table:
        return table()
    base = recipes.experiments(options.recipe, "small")[0]
    parts = load_parts(base, WORK / "data", (), progress=True)
    for variant in base.variants:
        if variant.solve or (options.variants and variant.name not in options.variants):
            continue
        if options.couplings:
            variant = replace(variant, arguments={**variant.arguments, "couplings": options.couplings})
        for lr in options.lr:
            experiment = changed(base, lr, options)
            about = settings(experiment, options)
            words = "-".join(f"{key}-{value}" for key, value in about.items())
            slug = "".join(c if c.isalnum() or c in ".-" else "-" for c in f"{variant.name}-{words}".lower())
            record = RESULTS / options.recipe / f"{slug}.json"
            if not record.exists():
                found = measure(experiment, variant, parts, WORK / options.recipe / slug)
                header = {
                    "kind": "tuning",
                    "recipe": options.recipe,
                    "variant": variant.name,
                    "seed": experiment.training.seed,
                    "command": command(options.recipe, variant.name, about),
                    "settings": about,
                }
                write_record(record, {**header, **found})


if __name__ == "__main__":
    main()
