"""Equations: exact solutions, solvers and random fields, tensors in and tensors out."""

from kinn.pde.darcy import darcy_bumps, darcy_coefficient, darcy_flux, solve_darcy
from kinn.pde.navier_stokes import default_forcing, navier_stokes_frames, solve_navier_stokes
from kinn.pde.poisson import poisson_coefficients, poisson_grid, poisson_pair
from kinn.pde.random_fields import gaussian_random_field
from kinn.pde.shallow_water import dam_break, shallow_water_frames, solve_shallow_water

__all__ = [
    "dam_break",
    "darcy_bumps",
    "darcy_coefficient",
    "darcy_flux",
    "default_forcing",
    "gaussian_random_field",
    "navier_stokes_frames",
    "poisson_coefficients",
    "poisson_grid",
    "poisson_pair",
    "shallow_water_frames",
    "solve_darcy",
    "solve_navier_stokes",
    "solve_shallow_water",
]
