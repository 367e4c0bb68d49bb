"""The first journey: two Kirchhoff operators beside their baselines, in minutes on two cores."""

from __future__ import annotations

from typing import Any

from kinn.data import generate_navier_stokes, generate_poisson
from kinn.recipes.experiment import Experiment, Source, Variant
from kinn.train import OptimizerSettings, Rollout, TrainSettings


def demo(budget: str) -> tuple[Experiment, ...]:
    """Poisson with UKNO of order 0 and 2, and Navier-Stokes with FNO and FKNO, both at low resolution."""
    assert budget == "demo"
    return poisson(), navier_stokes()


def poisson() -> Experiment:
    """Source to potential, after the paper's Table 3, smaller: what do the cascades add to the same backbone?"""
    sizes = {"train": 256, "validation": 64, "test": 64}
    data: dict[str, Any] = {"samples": sum(sizes.values()), "resolution": 32, "max_mode": 8, "seed": 0}
    return Experiment(
        name="poisson",
        title="Poisson on the unit square, 32 x 32: source to potential",
        source=Source("poisson", generate_poisson, data),
        sizes=sizes,
        variants=(
            Variant("UKNO K=0", "UKNO", "baseline", {"order": 0, "width": 16}),
            Variant("UKNO K=2", "UKNO", "ours", {"order": 2, "width": 16}),
        ),
        loss="relative_l1",
        primary_metric="relative_l1_median_normalized",
        normalize="min-max",
        optimizer=OptimizerSettings(name="adamw", lr=2e-3, weight_decay=1e-6, schedule="one-cycle", clip=1.0),
        training=TrainSettings(epochs=10, batch_size=16),
    )


def navier_stokes() -> Experiment:
    """Vorticity at viscosity 1e-3, after the paper's Tables 4 and 5, smaller: ten frames in, the next ones out."""
    sizes = {"train": 20, "validation": 5, "test": 10}
    data: dict[str, Any] = {
        "samples": sum(sizes.values()),
        "resolution": 32,
        "solver_resolution": 64,
        "viscosity": 1e-3,
        "final_time": 30,
        "seed": 0,
    }
    return Experiment(
        name="navier-stokes",
        title="Navier-Stokes vorticity, viscosity 0.001, 32 x 32: ten frames in, rolled out over twenty",
        source=Source("navier-stokes", generate_navier_stokes, data),
        sizes=sizes,
        variants=(
            Variant("FNO", "FNO", "baseline"),
            Variant("FKNO-4", "FKNO", "ours", {"order": 2, "routes": 4}),
        ),
        loss="relative_l2",
        primary_metric="relative_l2",
        normalize="none",
        optimizer=OptimizerSettings(name="adamw", lr=2e-3, weight_decay=1e-4, schedule="one-cycle", clip=1.0),
        training=TrainSettings(epochs=6, batch_size=20),
        rollout=Rollout(n_history=10),
        unroll=2,
        field_steps=(1, 10, -1),
    )
