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
        "time": {"train_seconds": 21.5 + parameters / 1e5, "seconds_per_epoch": 1.2, "evaluate_seconds": 0.4},
        "memory": {"peak_rss_bytes": 734_003_200},
        "hardware": HARDWARE,
        "versions": VERSIONS,
        "date": "2026-03-14T09:26:53Z",
        "fields": fields,
    }


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
