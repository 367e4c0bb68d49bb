"""Darcy flow through a medium of two permeabilities: coefficient and pressure on the unit square.

    -div(a grad u) = beta   on (0, 1)^2,    u = 0 on the boundary

The coefficient takes two values, after PDEBench (Takamoto et al. 2022): `high` where a sum of Gaussian bumps exceeds
its mean over the square, `low` elsewhere. It is a function of position: one medium can be sampled on any grid.

The equation is discretised by finite volumes at the centres `(i + 1/2) / n` of `n x n` cells. The flux through a face
takes the harmonic mean of its two cells, which is exact where the coefficient jumps there and the flow crosses it; at
the boundary half a cell lies between centre and zero. Conjugate gradients solve it, preconditioned by the same equation
with `a = 1`, which sine transforms invert: their number grows with the contrast `high / low` alone, not with the grid.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float

_LEAST_WIDTH, _GREATEST_WIDTH = 0.05, 0.25


class Bumps(NamedTuple):
    """Gaussian bumps `exp(-|x - centre|^2 / (2 width^2))` of a batch of media.

    Args:
        centres: `(b, m, 2)`, in the unit square.
        widths: `(b, m)`.
    """

    centres: Float[Tensor, "b m 2"]
    widths: Float[Tensor, "b m"]


def darcy_bumps(samples: int, n_bumps: int = 5, *, generator: torch.Generator) -> Bumps:
    """Draw bumps: centres uniform on the unit square, widths uniform on `[0.05, 0.25]`.

    Args:
        samples: number of media `b`.
        n_bumps: per medium, `m`.
        generator: a CPU generator.

    Raises:
        ValueError: if a number is not positive.

    Example:
        >>> darcy_bumps(2, generator=torch.Generator().manual_seed(0)).centres.shape
        torch.Size([2, 5, 2])
    """
    if samples < 1 or n_bumps < 1:
        raise ValueError(f"samples and n_bumps must be positive, but are {samples} and {n_bumps}")
    uniform = torch.rand(samples, n_bumps, 3, generator=generator, dtype=torch.float64)
    return Bumps(uniform[..., :2], _LEAST_WIDTH + (_GREATEST_WIDTH - _LEAST_WIDTH) * uniform[..., 2])


def darcy_coefficient(bumps: Bumps, resolution: int, *, high: float = 1.0, low: float = 0.1) -> Float[Tensor, "b n n"]:
    """Sample media at the centres of `n x n` cells: `high` where the sum of bumps exceeds its mean over the square.

    The mean is the integral in closed form, so that the same place has the same value on every grid.

    Args:
        bumps: of the media.
        resolution: `n`.
        high: value of the coefficient inside, positive.
        low: value outside, positive.

    Returns:
        `(b, n, n)`, float64; the first grid axis is `x`.

    Raises:
        ValueError: if a number is not positive.

    Example:
        >>> a = darcy_coefficient(darcy_bumps(1, generator=torch.Generator().manual_seed(0)), 32)
        >>> a.unique().tolist()
        [0.1, 1.0]
    """
    if resolution < 1 or not (high > 0 and low > 0):
        raise ValueError(f"resolution, high and low must be positive, but are {resolution}, {high} and {low}")
    centre, width = bumps.centres, bumps.widths[..., None]
    x = (torch.arange(resolution, dtype=torch.float64) + 0.5) / resolution
    along = torch.exp(-0.5 * ((x - centre[..., None]) / width[..., None]).square())  # (b, m, 2, n)
    total = torch.einsum("bmi,bmj->bij", along[:, :, 0], along[:, :, 1])
    reach = torch.erf((1 - centre) / (width * math.sqrt(2))) + torch.erf(centre / (width * math.sqrt(2)))
    mean = (width * math.sqrt(math.pi / 2) * reach).prod(-1).sum(-1)
    return torch.where(total > mean[:, None, None], total.new_tensor(high), total.new_tensor(low))


def solve_darcy(
    a: Float[Tensor, "b n n"],
    *,
    beta: float | Float[Tensor, "b n n"] = 1.0,
    tolerance: float = 1e-11,
    max_iterations: int = 1000,
) -> Float[Tensor, "b n n"]:
    """Solve Darcy's equation for a batch of coefficients.

    Args:
        a: coefficient at the centres of the cells, positive, float64, on any device.
        beta: source, a number, or a field `(n, n)` or `(b, n, n)`.
        tolerance: of the residual, in the root mean square over the source's.
        max_iterations: of conjugate gradients; a contrast of 10 takes about 40, one of 1000 about 100.

    Returns:
        `u (b, n, n)` at the centres of the cells.

    Raises:
        TypeError: if `a` is not float64, in which alone the tolerance makes sense.
        ValueError: if `a` is not a batch of square grids of positive numbers, or `beta` is not finite or of another
            shape.
        RuntimeError: if the iterations do not converge.

    Example:
        >>> u = solve_darcy(torch.ones(1, 64, 64, dtype=torch.float64))  # the torsion of a square bar
        >>> round(u.max().item(), 3)
        0.074
    """
    if a.dtype != torch.float64:
        raise TypeError(f"the coefficient must be float64, but is {a.dtype}")
    if a.ndim != 3 or a.shape[1] != a.shape[2]:
        raise ValueError(f"the coefficient must have the shape (b, n, n), but its shape is {tuple(a.shape)}")
    if not ((a > 0) & a.isfinite()).all():
        raise ValueError(f"the coefficient must be positive and finite, but lies in [{a.min():g}, {a.max():g}]")
    source = torch.as_tensor(beta, dtype=a.dtype, device=a.device)
    if source.shape not in ((), a.shape[1:], a.shape):
        raise ValueError(
            f"the source beta must be a number or a field {tuple(a.shape)}, but its shape is {tuple(source.shape)}"
        )
    source = source.expand_as(a)
    if not source.isfinite().all():  # NaN compares as converged
        raise ValueError("the source beta must be finite, but holds infinity or NaN")
    faces = _faces(a)
    waves, smallness = _laplacian(a.shape[-1], a.device)

    def inner(p: Tensor, q: Tensor) -> Tensor:
        return (p * q).sum((1, 2), keepdim=True)

    def precondition(r: Tensor) -> Tensor:
        return waves.t() @ (waves @ r @ waves.t() * smallness) @ waves

    u, residual = torch.zeros_like(a), source.clone()
    z = precondition(residual)
    direction, product = z, inner(residual, z)
    goal = tolerance**2 * inner(source, source)
    for _ in range(max_iterations):
        going = inner(residual, residual) > goal
        if not going.any():
            return u
        image = _apply(faces, direction)
        # a solution that is reached stays as it is, whatever its neighbours in the batch still need
        step = torch.where(going, product / inner(direction, image), 0.0)
        u, residual = u + step * direction, residual - step * image
        z = precondition(residual)
        last, product = product, inner(residual, z)
        direction = torch.where(going, z + product / last * direction, direction)
    raise RuntimeError(f"Darcy's equation did not converge in {max_iterations} iterations")


def darcy_flux(a: Float[Tensor, "b n n"], u: Float[Tensor, "b n n"]) -> tuple[Tensor, Tensor]:
    """Flux through the faces of the cells, per length of face: what `solve_darcy` balances with the source.

    Args:
        a: coefficient at the centres of the cells.
        u: solution there.

    Returns:
        `-a du/dx` across `x`, `(b, n + 1, n)`, and `-a du/dy` across `y`, `(b, n, n + 1)`, the boundary among them.

    Example:
        >>> a = torch.ones(1, 8, 8, dtype=torch.float64)
        >>> x, y = darcy_flux(a, solve_darcy(a))
        >>> out = (x[:, -1] - x[:, 0]).mean() + (y[..., -1] - y[..., 0]).mean()
        >>> round(out.item(), 9)  # what the source makes leaves through the boundary
        1.0
    """
    across_x, across_y = _faces(a)
    n = a.shape[-1]
    return -n * across_x * _jumps(u, 1), -n * across_y * _jumps(u, 2)


def _faces(a: Tensor) -> tuple[Tensor, Tensor]:
    """Coefficients of the faces: `flux = face * jump * n`; half a cell at the boundary counts twice."""

    def across(axis: int) -> Tensor:
        n = a.shape[axis]
        left, right = a.narrow(axis, 0, n - 1), a.narrow(axis, 1, n - 1)
        ends = (2 * a.narrow(axis, 0, 1), 2 * a.narrow(axis, n - 1, 1))
        return torch.cat((ends[0], 2 * left * right / (left + right), ends[1]), axis)

    return across(1), across(2)


def _jumps(u: Tensor, axis: int) -> Tensor:
    edge = torch.zeros_like(u.narrow(axis, 0, 1))
    return torch.diff(u, dim=axis, prepend=edge, append=edge)


def _apply(faces: tuple[Tensor, Tensor], u: Tensor) -> Tensor:
    """`-div(a grad u)`, the mean over each cell."""
    across_x, across_y = faces
    flux = torch.diff(across_x * _jumps(u, 1), dim=1) + torch.diff(across_y * _jumps(u, 2), dim=2)
    return -(u.shape[-1] ** 2) * flux


def _laplacian(n: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Orthonormal eigenvectors `(k, i)` along an axis for `a = 1`, and the reciprocal eigenvalues `(k, l)`."""
    k = torch.arange(1, n + 1, dtype=torch.float64, device=device)
    i = torch.arange(n, dtype=torch.float64, device=device) + 0.5
    waves = torch.sin(math.pi / n * k[:, None] * i) * math.sqrt(2 / n)
    waves[-1] /= math.sqrt(2)  # the last one alternates between +1 and -1
    along = (2 * n * torch.sin(math.pi * k / (2 * n))).square()
    return waves, 1 / (along[:, None] + along)
