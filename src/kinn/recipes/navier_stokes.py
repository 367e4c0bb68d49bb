"""The paper's Tables 4 and 5, Navier-Stokes: unrolling longer in training, and scanning along more routes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from kinn.data import generate_navier_stokes
from kinn.recipes.experiment import Experiment, Source, Variant
from kinn.train import OptimizerSettings, Rollout, TrainSettings

_SIZES: dict[str, dict[str, int]] = {
    "demo": {"train": 6, "validation": 2, "test": 2},
    "small": {"train": 100, "validation": 20, "test": 40},
    "paper": {"train": 1000, "validation": 100, "test": 100},
}
_GRID: dict[str, dict[str, Any]] = {
    "demo": {"resolution": 32, "solver_resolution": 64, "final_time": 20},
    "small": {"resolution": 32, "solver_resolution": 128, "final_time": 50},
    "paper": {"resolution": 64, "solver_resolution": 256, "final_time": 50},
}
_EPOCHS = {"demo": 1, "small": 10, "paper": 14}
_FNO = Variant("FNO", "FNO", "baseline")
_UNET = Variant("U-Net", "UNet", "baseline", {"boundary": "periodic"}, lr=1e-3)


def ns_rollout(budget: str) -> tuple[Experiment, ...]:
    """FNO, U-Net and FKNO trained by unrolling 3, 5 and 10 steps, rolled out to the end of the trajectories."""
    fkno = Variant("FKNO-4", "FKNO", "ours", {"order": 2, "routes": 4}, lr=1.6e-2)
    return tuple(
        _experiment(
            budget,
            name=f"unroll-{unroll}",
            label=f"{unroll} steps",
            what=f"trained by unrolling {unroll} steps",
            variants=(_FNO, _UNET, fkno),
            unroll=unroll,
            finding="FKNO is below FNO after unrolling 3, 5 and 10 steps",
        )
        for unroll in (3, 5, 10)
    )


def ns_routes(budget: str) -> tuple[Experiment, ...]:
    """FKNO that scans along 1, 2 and 4 routes, and FNO and U-Net, which scan along none."""
    variants = (
        Variant(
            f"FKNO-{routes}",
            "FKNO",
            "ours",
            {"order": 2, "routes": routes},
            factor={"routes": routes},
            lr=1.6e-2,
            paper={"train_seconds": seconds},
        )
        for routes, seconds in ((1, 71.48), (2, 79.37), (4, 83.26))
    )
    return (
        _experiment(
            budget,
            name="routes",
            label="",
            what="scanned along 1, 2 and 4 routes",
            variants=(replace(_FNO, paper={"train_seconds": 54.12}), _UNET, *variants),
            unroll=10,
            finding="the error falls from FNO to FKNO-1, FKNO-2 and FKNO-4",
        ),
    )


def _experiment(
    budget: str,
    *,
    name: str,
    label: str,
    what: str,
    variants: tuple[Variant, ...],
    unroll: int,
    finding: str,
) -> Experiment:
    sizes, grid = _SIZES[budget], _GRID[budget]
    resolution = grid["resolution"]
    source = Source(
        f"navier-stokes-{resolution}",
        generate_navier_stokes,
        {"samples": sum(sizes.values()), "viscosity": 1e-3, "seed": 0, **grid},
    )
    return Experiment(
        name=name,
        title=f"Navier-Stokes{{viscosity}}, {resolution} x {resolution}, {{steps}} steps ahead: {what}",
        label=label,
        source=source,
        sizes=sizes,
        variants=variants,
        loss="relative_l2",
        primary_metric="relative_l2",
        normalize="none",
        optimizer=OptimizerSettings(name="adamw", lr=8e-3, weight_decay=1e-4, schedule="one-cycle", clip=1.0),
        training=TrainSettings(epochs=_EPOCHS[budget], batch_size=20),
        rollout=Rollout(n_history=10, predict_increment=True),
        unroll=unroll,
        field_steps=(1, 10, -1),
        resolutions=tuple(r for r in (32, 64, 128, 256) if resolution <= r <= grid["solver_resolution"]),
        transfer_samples=min(8, sizes["test"]),
        notes=(
            f"In the paper {finding}.",
            "Published for FNO at 64 x 64, 1,000 trajectories, unrolled in full: 0.0128 over forty steps (Li et al.).",
        ),
    )
