"""Which of UKNO's two layouts to make the default: the lower validation error per training time on Poisson."""

from __future__ import annotations

from typing import Any

from kinn.data import generate_poisson
from kinn.models.ukno import UKNO_DEEP, UKNO_SHALLOW
from kinn.recipes.experiment import Experiment, Source, Variant
from kinn.train import OptimizerSettings, TrainSettings


def ukno_layouts(budget: str) -> tuple[Experiment, ...]:
    """Both layouts at their published width, order 2, on Poisson at 32 x 32; compare `curves`, not only the end."""
    assert budget == "small"
    sizes = {"train": 256, "validation": 64, "test": 64}
    data: dict[str, Any] = {"samples": sum(sizes.values()), "resolution": 32, "max_mode": 8, "seed": 1}
    experiment = Experiment(
        name="ukno-layouts",
        title="Poisson on the unit square, 32 x 32: UKNO's two layouts",
        source=Source("ukno-layouts", generate_poisson, data),
        sizes=sizes,
        variants=(
            Variant("UKNO deep", "UKNO", "ours", UKNO_DEEP),
            Variant("UKNO shallow", "UKNO", "ours", UKNO_SHALLOW),
        ),
        loss="relative_l1",
        primary_metric="relative_l1_median_normalized",
        normalize="min-max",
        optimizer=OptimizerSettings(name="adamw", lr=1e-3, weight_decay=1e-6, schedule="one-cycle", clip=1.0),
        training=TrainSettings(epochs=20, batch_size=16),
    )
    return (experiment,)
