from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

HARDWARE = {"cpu": "AMD EPYC 7B13", "cores": 2, "threads": 2, "gpu": None}
VERSIONS = {"kinn": "0.1.0", "torch": "2.13.0", "numba": "0.68.1", "python": "3.11.9"}


def smooth(rng: np.random.Generator, size: int = 32, modes: int = 5, decay: float = 1.5) -> np.ndarray:
    """A random sine series: zero on the boundary, like a potential between grounded plates."""
    x = np.linspace(0, 1, size)
    k = np.arange(1, modes + 1)
    weights = rng.uniform(-1, 1, (modes, modes)) / (k[:, None] ** 2 + k[None, :] ** 2) ** (decay / 2)
    waves = np.sin(np.pi * np.outer(k, x))
    return waves.T @ weights @ waves


def rounded(array: np.ndarray) -> list[list[float]]:
    return [[float(f"{value:.5g}") for value in row] for row in array]


def make_record(
    experiment: str, variant: str, role: str, *, seed: int = 0, error: float = 0.02, parameters: int = 476_698
) -> dict[str, Any]:
    """A record as a recipe writes it: seeded smooth fields, plausible curves, one primary metric."""
    number = sum(map(ord, variant))
    rng = np.random.default_rng([seed, number])
    truths = np.random.default_rng(7)
    rollout = experiment == "navier-stokes"
    epochs = np.arange(1, 21)
    fall = error * (1 + 12 * np.exp(-epochs / 4))
    curves = {
        "epoch": epochs.tolist(),
        "train_loss": (0.8 * fall * rng.uniform(0.96, 1.04, 20)).tolist(),
        "validation_loss": (fall * rng.uniform(0.93, 1.07, 20)).tolist(),
    }
    fields: list[dict[str, Any]] = []
    if rollout:
        steps = np.arange(1, 41)
        curves |= {"rollout_step": steps.tolist(), "rollout_relative_l2": (error * (0.3 + steps / 28)).tolist()}
        for step in (1, 10, 20, 40):
            truth = smooth(truths, modes=6)
            noise = smooth(rng, modes=9, decay=0.5)
            noise *= error * (0.3 + step / 28) * np.linalg.norm(truth) / np.linalg.norm(noise)
            fields.append({"label": "test sample 3", "step": step, "truth": rounded(truth)})
            fields[-1] |= {"input": None, "prediction": rounded(truth + noise)}
    else:
        for label in ("test sample 0", "test sample 5"):
            truth = smooth(truths)
            noise = smooth(rng, modes=9, decay=0.5)
            noise *= error * np.linalg.norm(truth) / np.linalg.norm(noise)
            source = smooth(truths, modes=8, decay=0.3)
            fields.append({"label": label, "step": None, "input": rounded(source), "truth": rounded(truth)})
            fields[-1]["prediction"] = rounded(truth + noise)
    metrics = {
        "relative_l2": error,
        "relative_l1_median": 0.9 * error,
        "rmse": 0.11 * error,
        "nrmse": 1.02 * error,
        "max_error": 1.4 * error,
    }
    title = {
        "poisson": "Poisson, 32 × 32: from source to potential",
        "navier-stokes": "Navier–Stokes, 32 × 32: 40 steps of vorticity from ten frames",
    }
    return {
        "schema": 1,
        "recipe": "demo",
        "experiment": experiment,
        "title": title.get(experiment, experiment),
        "variant": variant,
        "role": role,
        "model": variant.split()[0],
        "arguments": {"in_channels": 1, "out_channels": 1, "order": 2 if role == "ours" else 0},
        "seed": seed,
        "budget": "demo",
        "command": f"kinn reproduce demo --seed {seed}",
        "config": {"epochs": 20, "batch_size": 16, "learning_rate": 1e-3, "optimizer": "AdamW", "loss": "relative L2"},
        "data": {"equation": experiment, "resolution": [32, 32], "train": 128, "validation": 32, "test": 32, "seed": 0},
        "parameters": parameters,
        "primary_metric": "relative_l2",
        "metrics": {"test": metrics, "validation": {"relative_l2": 0.95 * error}},
        "paper": None,
        "curves": curves,
        "best_epoch": 18,
        "time": {"train_seconds": 21.5 + parameters / 1e5, "evaluate_seconds": 0.4},
        "memory": {"peak_rss_bytes": 734_003_200},
        "hardware": HARDWARE,
        "versions": VERSIONS,
        "date": "2026-03-14T09:26:53Z",
        "fields": fields,
    }


def make_tables() -> list[dict[str, Any]]:
    """Records as recipes of the paper's tables write them: factors, resolutions, ratios, further test sets, notes."""
    return [*_darcy(), *_orders(), *_rollouts(), *_routes()]


def with_transfer(record: dict[str, Any], resolutions: tuple[int, ...], growth: float, *, told: bool) -> dict[str, Any]:
    """Evaluated at other resolutions, the error growing by a factor with each."""
    first, test = resolutions[0], record["metrics"]["test"]
    record["data"] |= {"resolution": first}
    record["transfer"] = [
        {
            "resolution": resolution,
            "dt_scale": first / resolution if told else None,
            "metrics": {name: value * growth**i for name, value in test.items()},
        }
        for i, resolution in enumerate(resolutions)
    ]
    return record


def _darcy() -> list[dict[str, Any]]:
    rows = (("U-Net", "baseline", 0.0471, 7_762_465, 1.9), ("FNO", "baseline", 0.0652, 465_717, 1.02))
    records = []
    for seed in range(2):
        for name, role, error, parameters, growth in (*rows, ("UKNO", "ours", 0.0153, 2_834_726, 1.3)):
            record = make_record("darcy", name, role, seed=seed, error=error * (1 + 0.06 * seed), parameters=parameters)
            record |= {"recipe": "darcy", "primary_metric": "nrmse", "experiment_label": "darcy"}
            record |= {"title": "Darcy flow, 32 × 32: permeability to pressure"}
            record["notes"] = ["Ours are steady solutions; the public file’s are snapshots of a transient."]
            if role == "baseline":
                record["paper_ratio"] = {"nrmse": 4.5 if name == "U-Net" else 6.4, "max_error": 3}
            records.append(with_transfer(record, (32, 64, 128), growth, told=role == "ours"))
    return records


def _orders() -> list[dict[str, Any]]:
    records = [make_record("poisson-order", "CNO", "baseline", error=0.0121, parameters=2_951_249)]
    for order, error in enumerate((0.0131, 0.0104, 0.0098, 0.0113, 0.0091)):
        role = "ours" if order else "baseline"
        name = f"UKNO K={order}"
        record = make_record("poisson-order", name, role, error=error, parameters=2_300_000 + 240_000 * order)
        record["factor"] = {"name": "order", "value": order}
        if order:
            record["paper"] = {"out_of_distribution.relative_l2": (0.00307, 0.00292, 0.0039, 0.00268)[order - 1]}
        records.append(record)
    for record in records:
        worse = {name: 1.4 * value for name, value in record["metrics"]["test"].items()}
        record["metrics"]["out_of_distribution"] = worse
        record |= {"recipe": "poisson-order", "title": "Poisson, 32 × 32: the order of the cascade"}
    return records


def _rollouts() -> list[dict[str, Any]]:
    errors = {3: (0.081, 0.066), 5: (0.062, 0.051), 10: (0.048, 0.0525)}
    records = []
    for unroll, pair in errors.items():
        for (name, role), error in zip((("FNO", "baseline"), ("FKNO-4", "ours")), pair):
            record = make_record("navier-stokes", name, role, error=error)
            record["fields"] = [sample for sample in record["fields"] if sample["step"] != 20]
            for sample in record["fields"]:
                sample["input"] = (0.8 * np.asarray(record["fields"][0]["truth"])).tolist()
            title = f"Navier–Stokes, 32 × 32, 40 steps ahead: trained by unrolling {unroll} steps"
            record |= {"recipe": "ns-rollout", "experiment": f"unroll-{unroll}", "title": title}
            record["experiment_label"] = f"{unroll} steps"
            record["paper"] = {"relative_l2": 0.0128} if (unroll, name) == (10, "FNO") else None
            records.append(record)
    return records


def _routes() -> list[dict[str, Any]]:
    rows = ((0, 0.0481, 465_717), (1, 0.0467, 476_698), (2, 0.0442, 481_018), (4, 0.0389, 489_658))
    records = []
    for routes, error, parameters in rows:
        for seed in range(3):
            name, role = (f"FKNO-{routes}", "ours") if routes else ("FNO", "baseline")
            spread = error * (1 + 0.02 * seed)
            record = make_record("navier-stokes", name, role, seed=seed, error=spread, parameters=parameters)
            record["fields"] = [sample for sample in record["fields"] if sample["step"] != 20]
            record |= {"recipe": "ns-routes", "experiment": "routes", "model": name.split("-")[0]}
            record["title"] = "Navier–Stokes, 32 × 32, 40 steps ahead: routes"
            record["factor"] = {"name": "routes", "value": routes} if routes else None
            record["time"]["train_seconds"] = 54.1 + 9 * routes
            records.append(with_transfer(record, (32, 64), 1.2 if routes else 1.05, told=bool(routes)))
    return records


@pytest.fixture(scope="session")
def all_tables() -> list[dict[str, Any]]:
    """Not to be changed by a test."""
    return make_tables()


@pytest.fixture
def tables(all_tables: list[dict[str, Any]]) -> Callable[..., list[dict[str, Any]]]:
    """The records of one recipe at a budget, free to be changed by a test."""
    return lambda recipe, budget="small": copy.deepcopy(
        [{**record, "budget": budget} for record in all_tables if record["recipe"] == recipe]
    )


@pytest.fixture(scope="session")
def demo() -> list[dict[str, Any]]:
    """The demo's four runs: one experiment that ours wins, one that the baseline wins."""
    records = [
        make_record("poisson", "UKNO K=0", "baseline", error=0.0312, parameters=2_301_441),
        make_record("poisson", "UKNO K=2", "ours", error=0.0187, parameters=2_834_726),
        make_record("navier-stokes", "FNO", "baseline", error=0.0481, parameters=465_717),
        make_record("navier-stokes", "FKNO", "ours", error=0.0525, parameters=489_658),
    ]
    records[3]["paper"] = {"relative_l2": 0.0101}
    return records


@pytest.fixture
def records(demo: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The demo's runs, free to be changed by a test."""
    return copy.deepcopy(demo)


@pytest.fixture
def save(tmp_path: Path) -> Callable[[list[dict[str, Any]]], Path]:
    """Write records as a recipe does, one file each in folders by experiment."""

    def write(records: list[dict[str, Any]]) -> Path:
        for i, record in enumerate(records):
            path = tmp_path / "records" / record["experiment"] / f"{i}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(record))
        return tmp_path / "records"

    return write
