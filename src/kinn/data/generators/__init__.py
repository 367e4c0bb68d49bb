"""Benchmark data from a seed: chunk by chunk, resumable, each sample the same whatever is generated beside it."""

from kinn.data.generators.darcy import generate_darcy
from kinn.data.generators.navier_stokes import generate_navier_stokes
from kinn.data.generators.poisson import generate_poisson
from kinn.data.generators.shallow_water import generate_shallow_water

__all__ = ["generate_darcy", "generate_navier_stokes", "generate_poisson", "generate_shallow_water"]
