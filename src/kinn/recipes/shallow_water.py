"""The paper's Table 2, shallow water: a radial dam break, forecast frame by frame."""

from __future__ import annotations

from functools import partial
from typing import Any

from kinn.data import generate_shallow_water
from kinn.recipes.experiment import Experiment, Source, Variant
from kinn.recipes.pinn import pinn_result
from kinn.train import OptimizerSettings, Rollout, TrainSettings

_SIZES: dict[str, dict[str, int]] = {
    "demo": {"train": 4, "validation": 2, "test": 2},
    "small": {"train": 60, "validation": 10, "test": 20},
    "paper": {"train": 800, "validation": 100, "test": 100},
}
_RESOLUTION = {"demo": 32, "small": 64, "paper": 128}
_RESOLUTIONS = {"demo": (32, 64), "small": (64, 128), "paper": (64, 128)}
_FRAMES = {"demo": 21, "small": 101, "paper": 101}
_TRAINING: dict[str, dict[str, Any]] = {
    "demo": {"epochs": 1, "batch_size": 5},
    "small": {"epochs": 10, "batch_size": 10, "batch_norm_batches": 32},
    "paper": {"epochs": 25, "batch_size": 20},
}
_PINN = {
    "demo": {"iterations": 50, "flows": 1},
    "small": {"iterations": 15_000, "flows": 1},
    "paper": {"iterations": 15_000, "flows": 10},
}
_STRIDE = {"demo": 2, "small": 5, "paper": 5}


def shallow_water(budget: str) -> tuple[Experiment, ...]:
    """FKNO beside U-Net and FNO: ten frames in, rolled out to the end."""
    sizes, resolution, frames = _SIZES[budget], _RESOLUTION[budget], _FRAMES[budget]
    source = Source(
        f"shallow-water-{resolution}",
        generate_shallow_water,
        {
            "samples": sum(sizes.values()),
            "resolution": resolution,
            "solver_resolution": _RESOLUTIONS[budget][-1],
            "n_frames": frames,
            "final_time": (frames - 1) / 100,
            "seed": 0,
        },
    )
    return (
        Experiment(
            name="shallow-water",
            title=f"Radial dam break, {resolution} x {resolution}: ten frames in, {{steps}} predicted",
            source=source,
            sizes=sizes,
            variants=(
                Variant(
                    "U-Net",
                    "UNet",
                    "baseline",
                    lr=1e-3,
                    unroll=None if budget == "demo" else 10,
                    paper={"nrmse": 8.3e-2},
                ),
                Variant("FNO", "FNO", "baseline", lr=1.6e-2, paper={"nrmse": 4.4e-3}),
                Variant(
                    "PINN",
                    "PINN",
                    "baseline",
                    _PINN[budget],
                    paper={"nrmse": 1.7e-2},
                    solve=partial(pinn_result, **_PINN[budget]),
                ),
                Variant("FKNO-4", "FKNO", "ours", {"order": 2, "routes": 4}),
            ),
            loss="relative_l2",
            primary_metric="nrmse",
            normalize="standard",  # depths lie about 1: without it a model first has to learn that
            optimizer=OptimizerSettings(name="adamw", lr=8e-3, weight_decay=1e-4, schedule="one-cycle", clip=1.0),
            training=TrainSettings(**_TRAINING[budget]),
            rollout=Rollout(n_history=10, predict_increment=True),
            unroll=2,
            window_stride=_STRIDE[budget],
            field_steps=(1, (frames - 10) // 2, -1),
            resolutions=_RESOLUTIONS[budget],
            transfer_samples=min(8, sizes["test"]),
            notes=(
                "In the paper FKNO is below all of these; its figures for U-Net, FNO and PINN are PDEBench's.",
                f"The PINN learns from no data: it solves {_PINN[budget]['flows']} of the test flows, each by itself, "
                "and is measured on those.",
            ),
        ),
    )
