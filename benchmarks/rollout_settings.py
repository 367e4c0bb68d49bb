"""What makes a good Navier-Stokes rollout? FNO and FKNO under many settings, measured on validation data alone.

    python benchmarks/rollout_settings.py [NAMES ... | --table]

writes `results/rollout_settings/<name>.json` for each setting, but for those that are there. Flows at viscosity 1e-3 on
32 x 32 points (solved at 64 x 64) to t = 50: 100 to train on, 20 to validate; from ten frames over forty steps. Rougher
ones (`v4`) at 1e-4, 64 x 64 (solved at 128 x 128), to t = 30: over twenty. `--table` prints what is there.

The records there are of 40 flows to validate by, of which the recipes of the same seed have the last 20 among their
test's; `tune_recipes.py` judges by the recipes' own validation part.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR

from kinn.data import generate_navier_stokes, open_dataset, split
from kinn.models import build
from kinn.records import write_record
from kinn.train import OptimizerSettings, Rollout, RolloutTask, TrainSettings, evaluate, fit

ROOT = Path(__file__).resolve().parents[1]
RESULTS, WORK = ROOT / "results/rollout_settings", ROOT / "runs/rollout_settings"
CLOSED = {"boundary": "periodic", "lines": "separate", "coordinates": False}


@dataclass(frozen=True)
class Setting:
    """One way to train; `change` names what is done to the initial weights (`noscan` keeps them so).

    `block_lr` and `cells_lr` are factors on the learning rate of all parameters of the block, and of its cells;
    `block_decay` is the weight decay of the block's matrices. With `detach` no gradient goes from step to step.
    """

    model: str = "FNO"
    arguments: dict[str, Any] = field(default_factory=dict)
    predict_increment: bool = False
    unroll: int = 2
    input_noise: float = 0.0
    lr: float = 1e-3
    weight_decay: float = 1e-4
    epochs: int = 5
    seed: int = 0
    change: str = ""
    block_lr: float = 1.0
    cells_lr: float = 1.0
    block_decay: float | None = None
    schedule: str = "one-cycle"
    detach: bool = False
    flow: str = "v3"


FLOWS: dict[str, dict[str, Any]] = {
    "v3": {"resolution": 32, "solver_resolution": 64, "viscosity": 1e-3, "final_time": 50},
    "v4": {"resolution": 64, "solver_resolution": 128, "viscosity": 1e-4, "final_time": 30},
}


class Task(RolloutTask):
    """A task some of whose parameters are trained otherwise than the rest."""

    special: tuple[str, float, float | None] = ("", 1.0, None)  # part of their names, factor of the rate, weight decay
    detach: bool = False

    def configure_optimizers(self) -> Any:
        found = super().configure_optimizers()
        part, factor, decay = self.special
        optimizer, schedule = found["optimizer"], found["lr_scheduler"]
        chosen = {id(p) for name, p in self.model.named_parameters() if part and part in name}
        for group in list(optimizer.param_groups) if chosen else []:
            taken = [p for p in group["params"] if id(p) in chosen]
            group["params"] = [p for p in group["params"] if id(p) not in chosen]
            changed = {"initial_lr": factor * self.optimizer_settings.lr}
            if decay is not None and group["weight_decay"]:
                changed["weight_decay"] = decay
            optimizer.add_param_group({**group, "params": taken, **changed})
        if chosen:
            schedule["scheduler"] = LambdaLR(optimizer, schedule["scheduler"].lr_lambdas[0])
        return found

    def _predict(self, given: Tensor, noise: Tensor | None, n_steps: int) -> Tensor:
        if not self.detach:
            return super()._predict(given, noise, n_steps)
        history, found = self.output_normalizer.encode(given), []
        for _ in range(n_steps):
            found.append(self.rollout.unroll(self.model, history, 1))
            history = torch.cat([history[:, 1:], found[-1].detach()], dim=1)
        return torch.cat(found, dim=1)


def settings() -> dict[str, Setting]:
    """All settings by name: each derives from the one that it is compared with."""
    fno, fkno = Setting(), Setting("FKNO", {"routes": 4})
    found = {"fno": fno, "fkno": fkno}
    for name, start in (("fno", fno), ("fkno", fkno)):
        found[f"{name}-lr2"] = replace(start, lr=2e-3)
        found[f"{name}-lr4"] = replace(start, lr=4e-3)
        base = found[f"{name}-inc-lr4"] = replace(start, lr=4e-3, predict_increment=True)
        found[f"{name}-inc-lr8"] = replace(base, lr=8e-3)
        found[f"{name}-inc-lr4-s1"] = replace(base, seed=1)
        found[f"{name}-inc-lr4-s2"] = replace(base, seed=2)
        found[f"{name}-inc-lr4-noise"] = replace(base, input_noise=0.01)
        found[f"{name}-inc-lr4-wd2"] = replace(base, weight_decay=1e-2)
        found[f"{name}-inc-lr4-u5"] = replace(base, unroll=5, epochs=3)
        found[f"{name}-inc-lr8-u5"] = replace(base, unroll=5, epochs=3, lr=8e-3)
        found[f"{name}-inc-lr4-u10"] = replace(base, unroll=10, epochs=4)
        found[f"{name}-inc-lr8-u10"] = replace(base, unroll=10, epochs=4, lr=8e-3)
        found[f"{name}-inc-lr4-ep20"] = replace(base, epochs=20)
        found[f"{name}-inc-lr8-ep20"] = replace(base, epochs=20, lr=8e-3)
        found[f"{name}-inc-lr4-detach"] = replace(base, detach=True)
        found[f"{name}-inc-lr4-cosine"] = replace(base, schedule="cosine")
        found[f"{name}-v4-inc-lr4"] = replace(base, flow="v4", epochs=10)  # as many steps as elsewhere
    found["fno-nocoord-inc-lr4"] = replace(found["fno-inc-lr4"], arguments={"coordinates": False})
    base = found["fkno-inc-lr4"]
    routes = base.arguments
    found["fkno-ps-inc-lr4"] = replace(base, arguments={**routes, "boundary": "periodic", "lines": "separate"})
    found["fkno-ps-nocoord-inc-lr4"] = replace(base, arguments={**routes, **CLOSED})
    for change in ("scale01", "dt10", "noscan", "zero"):
        found[f"fkno-inc-lr4-{change}"] = replace(base, change=change)
    found["fno-inc-lr4-eye"] = replace(found["fno-inc-lr4"], change="eye")
    found["fkno-inc-lr4-noscan-nomlp"] = replace(base, arguments={**routes, "mlp_ratio": 0}, change="noscan")
    found["fkno-inc-lr4-nomlp"] = replace(base, arguments={**routes, "mlp_ratio": 0})
    found["fkno-inc-lr4-eps1"] = replace(base, arguments={**routes, "norm_eps": 1.0})
    found["fkno-inc-lr4-euler"] = replace(base, arguments={**routes, "injection": "euler"})
    found["fkno-inc-lr4-slow-block"] = replace(base, block_lr=0.1)
    found["fkno-inc-lr4-slow-cells"] = replace(base, cells_lr=0.1)
    found["fkno-inc-lr4-block-decay"] = replace(base, block_decay=0.1)
    found["fkno-inc-lr4-last"] = replace(base, arguments={**routes, "block_layer": -1})
    found["fkno-inc-lr4-last-psn"] = replace(base, arguments={**routes, **CLOSED, "block_layer": -1})
    return found


def _scale(model: Any) -> None:
    model.trunk.local[0].scale.data.fill_(0.1)


def _slow(model: Any) -> None:
    for cell in (cell for cascade in model.trunk.local[0].cascades for cell in cascade):
        dt = 10 * F.softplus(cell.dt_proj.bias.data)
        cell.dt_proj.bias.data = dt + torch.log(-torch.expm1(-dt))


def _no_scan(model: Any) -> None:
    model.trunk.local[0].out_proj.requires_grad_(False).weight.zero_()


def _zero(model: Any) -> None:
    model.trunk.local[0].out_proj.weight.data.zero_()


def _eye(model: Any) -> None:
    torch.nn.init.eye_(model.trunk.local[0].weight)


CHANGES: dict[str, Callable[[Any], None]] = {
    "scale01": _scale,
    "dt10": _slow,
    "noscan": _no_scan,
    "zero": _zero,
    "eye": _eye,
}


@functools.cache
def parts_of(flow: str) -> dict[str, Any]:
    """Flows to train on and to validate by; made where they are not there."""
    path = WORK / ("flow.h5" if flow == "v3" else f"flow-{flow}.h5")
    data: Any = open_dataset(generate_navier_stokes(path, samples=180, seed=0, **FLOWS[flow])).in_memory()
    return split(data, {"train": 100, "validation": 20}, seed=None)  # the next are flows of the recipes' tests


def measure(name: str, setting: Setting, parts: dict[str, Any]) -> dict[str, Any]:
    """Train under a setting; its errors on the validation part."""
    torch.manual_seed(setting.seed)
    model = build(setting.model, {"in_channels": 10, "out_channels": 1, **setting.arguments})
    if setting.change:
        CHANGES[setting.change](model)
    task = Task(
        model,
        rollout=Rollout(n_history=10, predict_increment=setting.predict_increment),
        unroll=setting.unroll,
        input_noise=setting.input_noise,
        optimizer=OptimizerSettings(
            lr=setting.lr, weight_decay=setting.weight_decay, schedule=cast("Any", setting.schedule), clip=1.0
        ),
    )
    task.detach = setting.detach
    if setting.cells_lr != 1:
        task.special = (".cascades.", setting.cells_lr, None)
    elif setting.block_lr != 1 or setting.block_decay is not None:
        task.special = ("trunk.local.0.", setting.block_lr, setting.block_decay)
    training = TrainSettings(epochs=setting.epochs, batch_size=20, seed=setting.seed)
    result = fit(task, parts["train"], parts["validation"], training, WORK / name, title=name)
    found = evaluate(task, parts["validation"])
    return {
        "metrics": found.metrics,
        "rollout_relative_l2": found.rollout_relative_l2,
        "train_loss": result.curves["train_loss"],
        "validation_loss": result.curves["validation_loss"],
    }


def table() -> None:
    """The records as a Markdown table: what differs from the defaults, errors at steps and over all of them."""
    print("| Model | Setting | Step 1 | Step 10 | Last | All |\n| :--- | :--- | ---: | ---: | ---: | ---: |")
    for name in settings():
        path = RESULTS / f"{name}.json"
        if not path.exists():
            continue
        record = json.loads(path.read_text())
        setting, errors = record["setting"], record["rollout_relative_l2"]
        changed = {key: value for key, value in setting.items() if value != getattr(Setting(), key) and key != "model"}
        changed |= changed.pop("arguments", {})
        changed.pop("routes", None)
        words = ", ".join(f"{key} {value}" for key, value in changed.items()) or "-"
        numbers = [errors[0], errors[9], errors[-1], record["metrics"]["relative_l2"]]
        print(f"| {setting['model']} | {words} |", " | ".join(f"{number:.4f}" for number in numbers), "|")


def main(names: list[str]) -> None:
    if names == ["--table"]:
        return table()
    known = settings()
    for name in names:
        if name not in known:
            raise SystemExit(f"unknown setting {name!r}; known: {', '.join(known)}")
    for name in names or known:
        record = RESULTS / f"{name}.json"
        if not record.exists():
            command = f"python benchmarks/rollout_settings.py {name}"
            header = {"kind": "rollout-setting", "name": name, "command": command, "setting": asdict(known[name])}
            write_record(record, {**header, **measure(name, known[name], parts_of(known[name].flow))})


if __name__ == "__main__":
    main(sys.argv[1:])
