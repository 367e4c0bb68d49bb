"""Coarser grids of a public file: the same functions at the points of the coarser grid."""

from __future__ import annotations

import math

import pytest
import torch

from kinn.data import from_arrays, from_trajectories
from kinn.pde import poisson_coefficients, poisson_pair
from kinn.recipes.grids import coarsened, on_grid, why_not


def poisson(n, points="nodes"):
    return poisson_pair(poisson_coefficients(2, 20, generator=torch.Generator().manual_seed(0)), n, points=points)


@pytest.mark.parametrize("m", [63, 32, 22])  # 22 divides no interval of 64 nodes into whole ones but every third
def test_nodes_have_the_values_of_the_closed_form(m):
    for fine, coarse in zip(poisson(64), poisson(m)):
        found = coarsened(fine, m, "nodes")
        torch.testing.assert_close(found, coarse, rtol=0, atol=1e-13 * coarse.abs().max().item())
        assert (found[:, [0, -1]] == 0).all()
    assert coarsened(fine.float(), m, "nodes").dtype == torch.float32


def test_centres_stay_centres_and_the_mean_is_kept():
    fine, coarse = ((torch.arange(n, dtype=torch.float64) + 0.5) / n for n in (12, 4))
    field = torch.stack((2 * fine[:, None] + fine, torch.rand(12, 12, dtype=torch.float64)))
    found = coarsened(field, 4, "centres")
    torch.testing.assert_close(found[0], 2 * coarse[:, None] + coarse)
    torch.testing.assert_close(found.mean((1, 2)), field.mean((1, 2)))


def test_periodic_points_are_kept():
    fine, coarse = (torch.cos(2 * math.pi * torch.arange(n) / n) for n in (12, 4))
    torch.testing.assert_close(coarsened(fine[:, None] * fine, 4, "periodic"), coarse[:, None] * coarse)


def test_data_keep_their_kind_and_what_is_known_of_them():
    flows = from_trajectories(torch.rand(2, 3, 1, 8, 8), time=[0, 1, 2])
    flows.metadata.update(equation="navier-stokes", resolution=8)
    found = on_grid(flows, 4, "periodic")
    assert torch.equal(found[1], flows[1][..., ::2, ::2])
    assert (found.time, found.metadata) == ([0, 1, 2], {"equation": "navier-stokes"})
    assert on_grid(flows, 8, "periodic") is flows


@pytest.mark.parametrize(
    ("resolution", "points", "reason"),
    [
        (16, "centres", None),
        (64, "periodic", None),
        (24, "centres", "64 are no multiple of 24"),
        (128, "nodes", "128 are more than there are"),
        (24, "nodes", None),
    ],
)
def test_which_grids_there_are(resolution, points, reason):
    source, potential = poisson(64)
    assert why_not(from_arrays(source[:, None], potential[:, None]), resolution, points) == reason


def test_fields_that_do_not_vanish_at_both_ends_are_no_nodes():
    source, potential = poisson(64, "centers")
    centres = from_arrays(source[:, None], potential[:, None])
    assert "fields do not vanish on all edges" in why_not(centres, 32, "nodes")
    assert why_not(centres, 64, "nodes") is None
    source, potential = (field[:, None, :-1, :-1] for field in poisson(65))  # one end only
    assert "fields do not vanish on all edges" in why_not(from_arrays(source, potential), 32, "nodes")
    assert (
        why_not(from_arrays(torch.rand(1, 1, 8, 4), torch.rand(1, 1, 8, 4)), 4, "centres") == "the grid is not square"
    )
