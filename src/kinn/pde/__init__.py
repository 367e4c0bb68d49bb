"""Equations: exact solutions, solvers and random fields, tensors in and tensors out."""

from kinn.pde.darcy import darcy_bumps, darcy_coefficient, darcy_flux, solve_darcy
from kinn.pde.navier_stokes import default_forcing, navier_stokes_frames, solve_navier_stokes
from kinn.pde.poisson import poisson_coefficients, poisson_grid, poisson_pair
from kinn.pde.random_fields import gaussian_random_field

__all__ = [
    "darcy_bumps",
    "darcy_coefficient",
    "darcy_flux",
    "default_forcing",
    "gaussian_random_field",
    "navier_stokes_frames",
    "poisson_coefficients",
    "poisson_grid",
    "poisson_pair",
    "solve_darcy",
    "solve_navier_stokes",
]
