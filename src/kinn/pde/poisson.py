"""Poisson's equation on the unit square: pairs of source and potential in closed form.

`-Laplace u = f` on `(0, 1)^2`, `u = 0` on the boundary. With coefficients `a_ij`, `i, j = 1 .. K`,

    f(x, y) = (pi / K^2)    sum_ij a_ij (i^2 + j^2)^r       sin(pi i x) sin(pi j y)
    u(x, y) = 1 / (pi K^2)  sum_ij a_ij (i^2 + j^2)^(r - 1) sin(pi i x) sin(pi j y)

(Raonic et al. 2023, Convolutional Neural Operators; `r = 0.5`, `K = 16`, out of distribution `K = 20`).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float


def poisson_coefficients(
    samples: int, max_mode: int, *, generator: torch.Generator, dtype: torch.dtype = torch.float64
) -> Float[Tensor, "b k k"]:
    """Draw coefficients `a_ij`, uniform on `[-1, 1]`.

    Args:
        samples: number of pairs `b`.
        max_mode: highest mode `K`.
        generator: a CPU generator.
        dtype: of the result; the draw is made in float64.

    Raises:
        ValueError: if a size is not positive.

    Example:
        >>> poisson_coefficients(2, 16, generator=torch.Generator().manual_seed(0)).shape
        torch.Size([2, 16, 16])
    """
    if samples < 1 or max_mode < 1:
        raise ValueError(f"samples and max_mode must be positive, but are {samples} and {max_mode}")
    uniform = torch.rand(samples, max_mode, max_mode, generator=generator, dtype=torch.float64)
    return (2 * uniform - 1).to(dtype)


def poisson_grid(resolution: int, *, points: str = "nodes", dtype: torch.dtype = torch.float64) -> Float[Tensor, " n"]:
    """Coordinates of the grid points along an axis.

    Args:
        resolution: number of points `n`.
        points: "nodes" for `i / (n - 1)`, both ends of the boundary among them, the grid on which CNO's code places its
            fields; "centers" for `(i + 1/2) / n`, the middles of `n` cells.
        dtype: of the result.

    Raises:
        ValueError: if there are fewer than two points, or `points` is neither.

    Example:
        >>> poisson_grid(5).tolist()
        [0.0, 0.25, 0.5, 0.75, 1.0]
    """
    if resolution < 2:
        raise ValueError(f"a grid needs at least 2 points along an axis, but resolution is {resolution}")
    i = torch.arange(resolution, dtype=dtype)
    if points == "nodes":
        return i / (resolution - 1)
    if points == "centers":
        return (i + 0.5) / resolution
    raise ValueError(f"points must be 'nodes' or 'centers', but is {points!r}")


def poisson_pair(
    coefficients: Float[Tensor, "b k k"], resolution: int, *, smoothness: float = 0.5, points: str = "nodes"
) -> tuple[Float[Tensor, "b n n"], Float[Tensor, "b n n"]]:
    """Source and potential of given coefficients, exact at the grid points.

    Args:
        coefficients: `a_ij` `(b, K, K)`; `i` counts modes along the first grid axis, `j` along the second.
        resolution: grid points `n` along each axis.
        smoothness: exponent `r`; larger means rougher.
        points: where they lie, as in `poisson_grid`.

    Returns:
        `(f, u)`, each `(b, n, n)`.

    Raises:
        ValueError: if the coefficients are not square matrices, or the grid is too coarse to tell the modes apart.

    Example:
        >>> f, u = poisson_pair(torch.ones(1, 1, 1), 3)   # f = pi sqrt(2) sin sin,  u = f / (2 pi^2)
        >>> round((f[0, 1, 1] / u[0, 1, 1] / (2 * math.pi**2)).item(), 6)
        1.0
    """
    if coefficients.ndim != 3 or coefficients.shape[1] != coefficients.shape[2]:
        raise ValueError(f"coefficients must have the shape (b, K, K), but theirs is {tuple(coefficients.shape)}")
    max_mode = coefficients.shape[1]
    x = poisson_grid(resolution, points=points, dtype=torch.float64)
    resolved = resolution - 2 if points == "nodes" else resolution
    if max_mode > resolved:
        raise ValueError(
            f"{resolution} points along an axis tell {resolved} sine modes apart, but max_mode is {max_mode}"
        )
    mode = torch.arange(1, max_mode + 1, dtype=torch.float64)
    sines = torch.sin(math.pi * x[:, None] * mode)
    if points == "nodes":
        sines[-1] = 0.0  # sin(pi i) at the boundary, where float64 leaves 1e-16
    square = mode[:, None] ** 2 + mode**2
    scale = math.pi / max_mode**2 * square**smoothness
    sines, square, scale = (table.to(coefficients) for table in (sines, square, scale))
    source = coefficients * scale
    potential = source / (math.pi**2 * square)
    return sines @ source @ sines.T, sines @ potential @ sines.T
