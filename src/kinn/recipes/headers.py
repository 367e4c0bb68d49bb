"""What a record says of a run beside its result, and whether there is such a record already."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from kinn.recipes.experiment import PARTS, Experiment, File, Source, Variant
from kinn.recipes.files import file_identity
from kinn.records import command_line, plain
from kinn.train.folder import FREE


def file_stem(variant: Variant) -> str:
    """The name of its files, but for the seed."""
    return "".join(c if c.isalnum() else "-" for c in variant.name.lower()).strip("-")


def command_of(recipe: str, budget: str, variant: Variant, seed: int, files: Sequence[File]) -> str:
    """What gives a record again: the recipe's command, or the script that called."""
    if not recipe:
        script = sys.argv and sys.argv[0].endswith(".py") and "ipykernel" not in sys.modules
        return command_line(["python", *sys.argv]) if script else ""
    words = ["kinn", "reproduce", recipe, "--budget", budget, "--seeds", str(seed), "--variants", variant.name]
    return command_line([*words, *(["--data", *(Path(file.path).name for file in files)] if files else [])])


def identity_of(experiment: Experiment, variant: Variant, seed: int, files: Sequence[File] = ()) -> dict[str, Any]:
    """All that determines a result: a record that agrees in it need not be made again."""
    experiment = experiment.tuned_to(variant)
    training = asdict(replace(experiment.training, seed=seed))
    for how in ("compile", "device", "devices"):  # how fast, not what
        del training[how]
    rollout = experiment.rollout and {
        **asdict(experiment.rollout),
        "unroll": experiment.unroll,
        "window_stride": experiment.window_stride,
        "input_noise": experiment.input_noise,
    }
    data = experiment.source.parameters
    tests = {name: source.parameters for name, source in experiment.tests.items()}
    if files:
        data = {"files": [file_identity(Path(file.path)) for file in files], **data, "parts": list(experiment.sizes)}
        if isinstance(experiment.source, Source):  # of a public file that tells all but the grid
            data, tests = {"files": data["files"], "resolution": files[0].resolution, "last": files[0].last}, {}
    config = {
        "loss": experiment.loss,
        "normalize": experiment.normalize,
        "optimizer": asdict(experiment.optimizer),
        "training": training,
        "rollout": rollout,
    }
    return {
        "experiment": experiment.name,
        "variant": variant.name,
        "model": variant.model,
        "arguments": variant.arguments,
        "seed": seed,
        "data": {**data, **experiment.sizes},
        "tests": tests,
        "resolutions": experiment.resolutions,
        **({"config": config} if variant.solve is None else {}),  # what is not trained tells its own with its result
    }


def labels_of(experiment: Experiment, variant: Variant) -> dict[str, Any]:
    """What a report says of a result, and may be said anew without running anything again."""
    variant = next(told for told in experiment.variants if told.name == variant.name)
    return {
        "title": experiment.title,
        "experiment_label": experiment.label or experiment.name,
        "notes": experiment.notes,
        "primary_metric": experiment.primary_metric,
        "role": variant.role,
        "factor": variant.factor and dict(zip(("name", "value"), next(iter(variant.factor.items())))),
        "paper": variant.paper,
        "paper_ratio": variant.paper_ratio,
    }


def is_done(path: Path, identity: dict[str, Any]) -> bool:
    """Whether the record is there.

    Raises:
        ValueError: if another lies in its place, naming the first difference.
    """
    if not path.exists():
        return False
    try:
        found = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not a result record: choose another output folder") from error
    found = _bound(found)
    for key, value in _bound(plain(identity)).items():
        if found.get(key) != value:
            raise ValueError(
                f"{path} is the result of another run: its {key} is {found.get(key)!r}, this run has {value!r}; "
                "choose another output folder"
            )
    return True


def _bound(record: dict[str, Any]) -> dict[str, Any]:
    """A record with the order of its parts, and without the settings in which two runs of the same may differ."""
    data, config = record.get("data", {}), record.get("config", {})
    data = {"parts": [part for part in data if part in PARTS], **data}
    if "training" in config:
        training = {name: value for name, value in config["training"].items() if name not in FREE}
        config = {**config, "training": training}
    return {**record, "data": data, **({"config": config} if config else {})}
