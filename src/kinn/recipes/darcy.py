"""The paper's Table 1, Darcy flow: from the permeability of a porous medium to its pressure."""

from __future__ import annotations

from typing import Any

from kinn.data import generate_darcy
from kinn.recipes.experiment import Experiment, Source, Variant
from kinn.train import OptimizerSettings, TrainSettings

# test first, as PDEBench cuts its file
_SIZES: dict[str, dict[str, int]] = {
    "demo": {"test": 16, "validation": 16, "train": 64},
    "small": {"test": 128, "validation": 128, "train": 1024},
    "paper": {"test": 1000, "validation": 500, "train": 8500},
}
_RESOLUTION = {"demo": 32, "small": 32, "paper": 128}
_RESOLUTIONS = {"demo": (32, 64), "small": (32, 64, 128), "paper": (64, 128, 256)}
_TRAINING: dict[str, dict[str, Any]] = {
    "demo": {"epochs": 2, "batch_size": 16},
    "small": {"epochs": 40, "batch_size": 16},
    "paper": {"epochs": 500, "batch_size": 32},
}


def darcy(budget: str) -> tuple[Experiment, ...]:
    """UKNO beside U-Net and FNO, one shot from coefficient to solution."""
    sizes, resolution = _SIZES[budget], _RESOLUTION[budget]
    source = Source(
        f"darcy-{resolution}",
        generate_darcy,
        {"samples": sum(sizes.values()), "resolution": resolution, "beta": 1.0, "seed": 0},
        note="Ours are steady solutions; the public file's are snapshots of a transient, up to 17 % from steady.",
    )
    return (
        Experiment(
            name="darcy",
            title=f"Darcy flow, {resolution} x {resolution}: permeability to pressure",
            source=source,
            sizes=sizes,
            variants=(
                Variant("U-Net", "UNet", "baseline", paper_ratio={"nrmse": 4.5, "max_error": 3}),
                Variant("FNO", "FNO", "baseline", lr=1.6e-2, paper_ratio={"nrmse": 6.4, "max_error": 3}),
                Variant("UKNO", "UKNO", "ours", {"order": 2}),
            ),
            loss="relative_l2",
            primary_metric="nrmse",
            normalize="standard",
            optimizer=OptimizerSettings(name="adamw", lr=1e-3, weight_decay=1e-6, schedule="one-cycle", clip=1.0),
            training=TrainSettings(**_TRAINING[budget]),
            resolutions=_RESOLUTIONS[budget],
            notes=("Learning rates: each model's best of three to five on validation data, at budget small.",),
        ),
    )
