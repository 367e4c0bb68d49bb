"""Periodic Gaussian random fields on the unit torus."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float


def gaussian_random_field(
    samples: int,
    resolution: int,
    *,
    generator: torch.Generator,
    alpha: float = 2.5,
    tau: float = 7.0,
    sigma: float | None = None,
    max_mode: int | None = None,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> Float[Tensor, "b n n"]:
    """Draw zero-mean fields with the covariance `2 sigma^2 (-Laplace + tau^2)^(-alpha)` on the unit torus.

    The sum over all integer wave vectors `k != 0` of
    `sqrt(2) sigma (4 pi^2 |k|^2 + tau^2)^(-alpha/2) (xi_k cos 2 pi k.x + eta_k sin 2 pi k.x)` with independent standard
    normal `xi_k, eta_k`: the law of the initial vorticity in the Navier-Stokes benchmark of Li et al. (2021), whose
    square roots of eigenvalues carry an extra factor `n^2` for the inverse FFT.

    The draw is made mode by mode, from long waves to short ones, on the CPU and in float64. So one seed gives one field
    whatever the device and dtype, the first samples do not depend on how many follow, and a finer grid keeps every
    mode of the coarser one and adds shorter waves. With `max_mode` the field itself is the same on every grid that
    resolves it.

    Args:
        samples: number of fields `b`.
        resolution: grid points `n` along each axis, at `i / n`.
        generator: a CPU generator.
        alpha: decay of the spectrum, above 1 for a finite variance.
        tau: inverse correlation length; 0, scale-free, with a `sigma` of its own.
        sigma: amplitude; `tau^(alpha - 1)` if None.
        max_mode: largest wave number along an axis; the largest below `n / 2` if None.
        dtype: of the result.
        device: of the result.

    Raises:
        ValueError: if a size is too small, or the grid does not resolve `max_mode`.

    Example:
        >>> draw = lambda n: gaussian_random_field(1, n, generator=torch.Generator().manual_seed(0), max_mode=7)
        >>> bool(torch.allclose(draw(16), draw(64)[:, ::4, ::4]))
        True
    """
    if samples < 1 or resolution < 3:
        raise ValueError(f"a random field needs samples >= 1 and resolution >= 3, but got {samples} and {resolution}")
    resolved = (resolution - 1) // 2
    highest = resolved if max_mode is None else max_mode
    if not 1 <= highest <= resolved:
        raise ValueError(f"max_mode must lie in 1 .. {resolved} on {resolution} grid points, but is {highest}")
    if alpha <= 1 or tau < 0 or generator.device.type != "cpu":
        raise ValueError(
            f"a random field needs alpha > 1, tau >= 0 and a CPU generator, but got {alpha}, {tau} and one on "
            f"{generator.device}"
        )
    if tau == 0 and sigma is None:
        raise ValueError("a random field with tau = 0 needs a sigma: tau^(alpha - 1) would make it zero")
    scale = tau ** (alpha - 1) if sigma is None else sigma
    first, second = _half_plane(highest)
    square = (first**2 + second**2).double()
    amplitude = scale * (4 * math.pi**2 * square + tau**2).pow(-alpha / 2)
    noise = torch.stack([_noise(highest, generator) for _ in range(samples)])
    # waves k and -k together: coefficient of exp(2 pi i k.x), whose conjugate belongs to -k
    coefficients = torch.complex(amplitude * noise[:, 0], -amplitude * noise[:, 1])
    spectrum = torch.zeros(samples, resolution, resolution // 2 + 1, dtype=torch.complex128)
    spectrum[:, first, second] = coefficients
    axis = second == 0  # rfft keeps both k and -k where the second wave number is zero
    spectrum[:, -first[axis], 0] = coefficients[:, axis].conj()
    field = torch.fft.irfft2(spectrum, s=(resolution, resolution), norm="forward")
    return field.to(device, dtype)


def _noise(highest: int, generator: torch.Generator) -> Float[Tensor, "2 modes"]:
    seed = int(torch.randint(2**63 - 1, (), generator=generator))  # one draw per field, whatever its resolution
    own = torch.Generator().manual_seed(seed)
    # one call per shell: torch.randn(m) is not the beginning of torch.randn(n)
    shells = [torch.randn(2, 4 * shell, generator=own, dtype=torch.float64) for shell in range(1, highest + 1)]
    return torch.cat(shells, dim=1)


@lru_cache(maxsize=8)
def _half_plane(highest: int) -> tuple[Tensor, Tensor]:
    """One of each pair of wave vectors `k, -k`, by growing `max(|k_1|, |k_2|)`: the `m`-th shell has `4 m`."""
    modes = [
        (first, second)
        for shell in range(1, highest + 1)
        for first in range(-shell, shell + 1)
        for second in range(shell + 1)
        if max(abs(first), second) == shell and (second > 0 or first > 0)
    ]
    first, second = torch.tensor(modes).T
    return first, second
