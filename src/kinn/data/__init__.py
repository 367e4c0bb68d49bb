"""Data sets of fields: a user's own arrays, public file layouts, generated benchmarks, and normalisers."""

from kinn.data.arrays import from_arrays, from_trajectories
from kinn.data.datasets import OperatorDataset, TrajectoryDataset, TrajectoryWindows
from kinn.data.export import export_dataset
from kinn.data.formats import open_dataset
from kinn.data.generators import (
    generate_darcy,
    generate_navier_stokes,
    generate_poisson,
    generate_shallow_water,
)
from kinn.data.normalizers import Identity, MinMax, Standard, normalizer_from_state
from kinn.data.parts import split

__all__ = [
    "Identity",
    "MinMax",
    "OperatorDataset",
    "Standard",
    "TrajectoryDataset",
    "TrajectoryWindows",
    "export_dataset",
    "from_arrays",
    "from_trajectories",
    "generate_darcy",
    "generate_navier_stokes",
    "generate_poisson",
    "generate_shallow_water",
    "normalizer_from_state",
    "open_dataset",
    "split",
]
