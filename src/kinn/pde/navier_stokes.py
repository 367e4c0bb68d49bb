"""Incompressible Navier-Stokes flow on the unit torus in vorticity form, solved pseudo-spectrally.

    w_t + u . grad w = nu Laplace w + f,    Laplace psi = -w,    u = (d psi / dy, -d psi / dx)

on `[0, 1)^2`, periodic, the first grid axis being `x`. Products are formed on the grid and freed of aliasing by the 2/3
rule: waves `|k| >= n / 3` along an axis are dropped. Advection and forcing are advanced by the fourth-order exponential
Runge-Kutta method of Cox and Matthews (2002), which integrates diffusion exactly. Li et al. (2021) made their data with
Crank-Nicolson diffusion and explicit advection at `dt = 1e-4`: another way to the same solution, at a hundred times the
number of steps.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Complex, Float

# RK4 is stable up to 2.83 on the imaginary axis; the highest wave number is 2 pi n / 3, hence 1.35 in units of dx
STABLE_COURANT = 1.35
_MAX_RETRIES = 6


def default_forcing(resolution: int, *, dtype: torch.dtype = torch.float64) -> Float[Tensor, "n n"]:
    """The benchmark's forcing `f = 0.1 (sin 2 pi (x + y) + cos 2 pi (x + y))` at the points `i / n`.

    Example:
        >>> default_forcing(4, dtype=torch.float32)[0]
        tensor([ 0.1000,  0.1000, -0.1000, -0.1000])
    """
    i = torch.arange(resolution, dtype=torch.float64) / resolution
    phase = 2 * math.pi * (i[:, None] + i)
    return (0.1 * (torch.sin(phase) + torch.cos(phase))).to(dtype)


def solve_navier_stokes(
    w0: Float[Tensor, "b n n"],
    n_frames: int,
    *,
    viscosity: float,
    frame_interval: float = 1.0,
    forcing: Float[Tensor, "n n"] | None = None,
    courant: float = 1.0,
    steps_per_frame: int | None = None,
) -> Float[Tensor, "b t n n"]:
    """Vorticity at the times `frame_interval, 2 frame_interval, ...`; the arguments of `navier_stokes_frames`.

    Example:
        >>> x = torch.arange(32) / 32
        >>> w0 = torch.cos(2 * math.pi * x)[:, None] * torch.cos(2 * math.pi * x)   # Taylor-Green: decays in place
        >>> w = solve_navier_stokes(w0[None], 2, viscosity=1e-2, forcing=torch.zeros(32, 32))
        >>> bool(torch.allclose(w[0, 1], w0 * math.exp(-1e-2 * 8 * math.pi**2 * 2), atol=1e-6))
        True
    """
    frames = navier_stokes_frames(
        w0,
        n_frames,
        viscosity=viscosity,
        frame_interval=frame_interval,
        forcing=forcing,
        courant=courant,
        steps_per_frame=steps_per_frame,
    )
    return torch.stack(list(frames), dim=1)


def navier_stokes_frames(
    w0: Float[Tensor, "b n n"],
    n_frames: int,
    *,
    viscosity: float,
    frame_interval: float = 1.0,
    forcing: Float[Tensor, "n n"] | None = None,
    courant: float = 1.0,
    steps_per_frame: int | None = None,
) -> Iterator[Float[Tensor, "b n n"]]:
    """Advance a batch of flows and yield their vorticity frame by frame.

    Every flow chooses its own number of steps between two frames from its own speed, so that its solution does not
    depend on the flows beside it; an interval at whose end the flow has become too fast is repeated with more steps.

    Args:
        w0: vorticity at time 0, zero mean, float32 or float64, on any device.
        n_frames: how many frames follow; the initial one is not repeated.
        viscosity: `nu >= 0`.
        frame_interval: time between frames.
        forcing: `f`, zero mean, `(n, n)` or one per flow; `default_forcing` if None.
        courant: `dt max(|u| + |v|) / dx` to aim at, at most 1.35, the limit of stability.
        steps_per_frame: a fixed number of steps instead.

    Yields:
        `(b, n, n)` at the times `frame_interval, 2 frame_interval, ...`

    Raises:
        TypeError: if `w0` is not of a real floating type.
        ValueError: if shapes or numbers do not fit, a mean is not zero, or the solution blows up.
    """
    _check(w0, n_frames, viscosity=viscosity, frame_interval=frame_interval, courant=courant, steps=steps_per_frame)
    n = w0.shape[-1]
    force = default_forcing(n).to(w0) if forcing is None else forcing.to(w0)
    if force.shape not in (w0.shape, w0.shape[1:]):
        raise ValueError(
            f"forcing must have the shape {tuple(w0.shape[1:])} or {tuple(w0.shape)}, but has {tuple(force.shape)}"
        )
    for field, name in ((w0, "w0"), (force, "forcing")):
        mean, size = field.mean(dim=(-2, -1)).abs().max(), field.abs().max()
        if not mean <= 1e-4 * size:  # also catches NaN
            raise ValueError(
                f"{name} must be finite with zero mean on the torus, but its mean is {mean:.3g} of {size:.3g}"
            )
    torus = _Torus(n, viscosity=viscosity, like=w0)
    w = torus.keep * torus.to_spectrum(w0)
    force_spectrum = (torus.keep * torus.to_spectrum(force)).expand_as(w)
    for frame in range(1, n_frames + 1):
        if steps_per_frame is None:
            w = _adaptive_interval(torus, w, force_spectrum, frame_interval, courant)
        else:
            w = _advance(torus, w, force_spectrum, frame_interval, steps_per_frame)
        if not torch.isfinite(torch.view_as_real(w)).all():
            raise ValueError(
                f"the flow blew up before t = {frame * frame_interval:g}: "
                + (
                    "its speed cannot be followed with time steps of any sensible size"
                    if steps_per_frame is None
                    else f"{steps_per_frame} steps_per_frame are too few (None chooses by itself)"
                )
            )
        yield torus.to_grid(w)


class _Torus:
    """Transforms, wave numbers and what follows from them; the step's coefficients, made once per step size.

    Spectra are `(..., m, k)`: the wave number `k` of the first grid axis is last, and of the second axis only the kept
    `0 <= m < n / 3` exist. Two one-dimensional transforms in this order are 2 to 3 times as fast as `irfft2`, which
    spends its time on copies.
    """

    def __init__(self, n: int, *, viscosity: float, like: Tensor) -> None:
        k = torch.fft.fftfreq(n, 1 / n, dtype=torch.float64)
        m = torch.arange((n + 2) // 3, dtype=torch.float64)[:, None]
        keep = (3 * k.abs() < n).double().expand(len(m), n).clone()
        keep[0, 0] = 0.0  # no mean vorticity on a torus
        square = (2 * math.pi) ** 2 * (k**2 + m**2)
        inverse = keep / square.clamp(min=1.0)
        self.n, self.like = n, like
        self.decay = viscosity * square  # float64 on the CPU: the step's coefficients are made there
        self.keep = keep.to(like)
        # u = i 2 pi m w / |2 pi k|^2,  v = -i 2 pi k w / |2 pi k|^2
        self.velocity = 1j * torch.stack([2 * math.pi * m * inverse, -2 * math.pi * k * inverse]).to(like)[:, None]
        # -u . grad w = (d_x^2 - d_y^2)(-u v) + d_x d_y (u^2 - v^2): two products instead of four derivatives
        pi2 = (2 * math.pi) ** 2
        self.advection = torch.stack([pi2 * (k**2 - m**2) * keep, -pi2 * k * m * keep]).to(like)[:, None]
        self._coefficients: dict[float, _Coefficients] = {}

    def to_spectrum(self, field: Float[Tensor, "... n n"]) -> Complex[Tensor, "... m k"]:
        return torch.fft.fft(torch.fft.rfft(field)[..., : len(self.keep)].transpose(-1, -2))

    def to_grid(self, spectrum: Complex[Tensor, "... m k"]) -> Float[Tensor, "... n n"]:
        return torch.fft.irfft(torch.fft.ifft(spectrum).transpose(-1, -2), n=self.n)

    def velocities(self, w: Complex[Tensor, "b m k"]) -> Float[Tensor, "2 b n n"]:
        return self.to_grid(self.velocity * w)

    def tendency(self, w: Complex[Tensor, "b m k"], force: Complex[Tensor, "b m k"]) -> Complex[Tensor, "b m k"]:
        u, v = self.velocities(w)
        products = self.to_spectrum(torch.stack([u * v, u * u - v * v]))
        return force + (self.advection * products).sum(0)

    def coefficients(self, dt: float) -> _Coefficients:
        if dt not in self._coefficients:
            self._coefficients[dt] = _Coefficients.of(-dt * self.decay, dt, self.like)
        return self._coefficients[dt]


@dataclass(frozen=True)
class _Coefficients:
    """Cox and Matthews (2002), eqs. (26) to (29), for `z = -nu |k|^2 dt`."""

    whole: Tensor
    half: Tensor
    stage: Tensor
    first: Tensor
    middle: Tensor
    last: Tensor

    @classmethod
    def of(cls, z: Tensor, dt: float, like: Tensor) -> _Coefficients:
        phi1, phi2, phi3 = _phi(z)
        tables = (
            z.exp(),
            (z / 2).exp(),
            dt / 2 * _phi(z / 2)[0],
            dt * (phi1 - 3 * phi2 + 4 * phi3),
            dt * (2 * phi2 - 4 * phi3),
            dt * (4 * phi3 - phi2),
        )
        return cls(*(table.to(like) for table in tables))


def _phi(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`phi_j(z) = sum_i z^i / (i + j)!` for `j = 1, 2, 3` and `z <= 0`: series below 1, recurrence beyond."""
    small = z.clamp(min=-1.0)
    series = []
    for j in (1, 2, 3):
        total = torch.zeros_like(z)
        for i in reversed(range(18)):
            total = total * small + 1 / math.factorial(i + j)
        series.append(total)
    large = z.clamp(max=-1.0)
    phi1 = torch.expm1(large) / large
    phi2 = (phi1 - 1) / large
    phi3 = (phi2 - 0.5) / large
    one, two, three = (torch.where(z > -1, s, r) for s, r in zip(series, (phi1, phi2, phi3), strict=True))
    return one, two, three


def _advance(torus: _Torus, w: Tensor, force: Tensor, interval: float, steps: int) -> Tensor:
    c = torus.coefficients(interval / steps)
    for _ in range(steps):
        now = torus.tendency(w, force)
        half = c.half * w
        a = half + c.stage * now
        at_a = torus.tendency(a, force)
        at_b = torus.tendency(half + c.stage * at_a, force)
        at_c = torus.tendency(c.half * a + c.stage * (2 * at_b - now), force)
        w = c.whole * w + c.first * now + c.middle * (at_a + at_b) + c.last * at_c
    return w


def _adaptive_interval(torus: _Torus, w: Tensor, force: Tensor, interval: float, courant: float) -> Tensor:
    """Advance each flow with its own number of steps; again with more where it became too fast."""
    target = _courant_numbers(torus, w, interval) / courant
    result = w.clone()
    waiting = torch.arange(len(w))
    for _ in range(_MAX_RETRIES):
        steps = torch.tensor([_round_up(number) for number in target.tolist()])
        for count in steps.unique().tolist():
            rows = waiting[steps == count]
            result[rows] = _advance(torus, w[rows], force[rows], interval, count)
        after = _courant_numbers(torus, result[waiting], interval)
        late = ~(after <= STABLE_COURANT * steps)  # also catches NaN
        if not late.any():
            return result
        waiting, steps, after = waiting[late], steps[late], after[late]
        # an unstable speed says little: no more than eight times the steps at once
        target = torch.clamp(torch.nan_to_num(after / courant, nan=torch.inf), 2 * steps, 8 * steps)
    result[waiting] = torch.nan
    return result


def _courant_numbers(torus: _Torus, w: Tensor, dt: float) -> Float[Tensor, " b"]:
    speed = torus.velocities(w).abs().sum(0).amax(dim=(-2, -1))
    return (speed * dt * torus.n).double().cpu()


def _round_up(steps: float) -> int:
    """The next of 1, 2, 3, 4, 6, 8, 12, 16, ...: few step sizes, so that flows can be advanced together."""
    if not math.isfinite(steps):
        return 1  # the caller finds the blow-up
    power = 2 ** max(0, math.ceil(math.log2(max(steps, 1.0))))
    return 3 * power // 4 if power >= 4 and steps <= 3 * power / 4 else power


def _check(
    w0: Tensor, n_frames: int, *, viscosity: float, frame_interval: float, courant: float, steps: int | None
) -> None:
    if w0.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"w0 must be float32 or float64, but is {w0.dtype}")
    if w0.ndim != 3 or w0.shape[1] != w0.shape[2] or w0.shape[1] < 4 or len(w0) == 0:
        raise ValueError(f"w0 must have the shape (b, n, n) with b >= 1 and n >= 4, but has {tuple(w0.shape)}")
    if not (viscosity >= 0 and math.isfinite(viscosity)):
        raise ValueError(f"viscosity must not be negative, but is {viscosity}")
    if n_frames < 1 or not (frame_interval > 0 and math.isfinite(frame_interval)):
        raise ValueError(f"n_frames and frame_interval must be positive, but are {n_frames} and {frame_interval}")
    if not 0 < courant <= STABLE_COURANT:
        raise ValueError(f"courant must lie in (0, {STABLE_COURANT}], but is {courant}")
    if steps is not None and steps < 1:
        raise ValueError(f"steps_per_frame must be positive, but is {steps}")
