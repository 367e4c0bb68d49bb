"""Shallow water over a flat bottom, by finite volumes of second order.

    h_t + (h u)_x + (h v)_y = 0
    (h u)_t + (h u^2 + g h^2 / 2)_x + (h u v)_y = 0
    (h v)_t + (h u v)_x + (h v^2 + g h^2 / 2)_y = 0

with depth `h` and velocity `(u, v)`; water flows freely out of the domain (the outermost cells go on beyond it). Depth
and velocity are reconstructed linearly in each cell, with van Leer's (1977) monotonised central slopes; the HLLC flux
(Toro 2001) with Einfeldt's (1988) bounds on the wave speeds keeps depths non-negative, dry beds included; Heun's method
advances both directions at once. A state is `(b, 3, nx, ny)`: means over square cells of `h, h u, h v`, the first grid
axis being `x`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float

# Up to dt max(|u| + |v| + 2 c) = dx / 2 no face takes more water than lies on its side of a cell
GREATEST_COURANT = 0.5
_MAX_STEPS = 1e6  # between two frames
_DRY = 1e-6  # of the greatest depth: thinner films have no velocity of their own
_CELLS_AT_ONCE = 2**16  # on a CPU: what a step works on stays in its caches


def dam_break(
    radius: Float[Tensor, " b"],
    resolution: int,
    *,
    half_width: float = 2.5,
    inner: float = 2.0,
    outer: float = 1.0,
) -> Float[Tensor, "b 3 n n"]:
    """Water at rest, `inner` deep within a centred disc and `outer` beyond it.

    Cells have the depth at their centres, as in PDEBench's data (Takamoto et al. 2022). Where the disc's share of a
    cell matters, average the state of a finer grid.

    Args:
        radius: of the discs, in the domain's unit; float32 or float64.
        resolution: cells along each axis, `n`.
        half_width: the domain is `[-half_width, half_width]^2`.
        inner: depth within.
        outer: depth beyond.

    Returns:
        `(b, 3, n, n)`, of the type and on the device of `radius`.

    Raises:
        ValueError: if a number is out of range.

    Example:
        >>> state = dam_break(torch.tensor([0.5]), 64)
        >>> state[0, 0, 32, ::8]
        tensor([1., 1., 1., 1., 2., 1., 1., 1.])
    """
    if resolution < 1 or not (inner >= 0 and outer >= 0 and half_width > 0 and (radius >= 0).all()):
        raise ValueError(
            f"resolution and half_width must be positive, depths and radii not negative, but they are {resolution}, "
            f"{half_width}, {inner}, {outer} and {radius.tolist()}"
        )
    x = half_width * ((2 * torch.arange(resolution, device=radius.device, dtype=torch.float64) + 1) / resolution - 1)
    within = (x[:, None].square() + x.square()) <= radius.double()[:, None, None].square()
    depth = torch.where(within, inner, outer).to(radius.dtype)
    still = torch.zeros_like(depth)
    return torch.stack((depth, still, still), dim=1)


def solve_shallow_water(
    state: Float[Tensor, "b 3 nx ny"],
    n_frames: int,
    *,
    spacing: float,
    frame_interval: float,
    gravity: float = 1.0,
    courant: float = 0.45,
) -> Float[Tensor, "b t 3 nx ny"]:
    """States at the times `frame_interval, 2 frame_interval, ...`; the arguments of `shallow_water_frames`.

    Example:
        >>> state = dam_break(torch.tensor([0.5]), 32)
        >>> later = solve_shallow_water(state, 2, spacing=5 / 32, frame_interval=0.1)
        >>> change = later[:, -1, 0].sum() / state[:, 0].sum() - 1
        >>> bool(change.abs() < 1e-6)  # no water is lost
        True
    """
    frames = shallow_water_frames(
        state, n_frames, spacing=spacing, frame_interval=frame_interval, gravity=gravity, courant=courant
    )
    return torch.stack(list(frames), dim=1)


def shallow_water_frames(
    state: Float[Tensor, "b 3 nx ny"],
    n_frames: int,
    *,
    spacing: float,
    frame_interval: float,
    gravity: float = 1.0,
    courant: float = 0.45,
) -> Iterator[Float[Tensor, "b 3 nx ny"]]:
    """Advance a batch of flows and yield their states frame by frame.

    Every flow chooses its steps from its own speed, anew after each of them, so that its solution does not depend on
    the flows beside it; the last step before a frame ends there.

    Args:
        state: at time 0, float32 or float64, on any device; depths not negative.
        n_frames: how many frames follow; the initial one is not repeated.
        spacing: width of a cell, in both directions.
        frame_interval: time between frames.
        gravity: `g > 0`.
        courant: `dt max(|u| + |v| + 2 sqrt(g h)) / spacing` to aim at, at most 0.5.

    Yields:
        `(b, 3, nx, ny)` at the times `frame_interval, 2 frame_interval, ...`

    Raises:
        TypeError: if `state` is not float32 or float64.
        ValueError: if shapes or numbers do not fit, or a flow asks for more than a million steps between two frames.
    """
    _check(state, n_frames, spacing, frame_interval, gravity, courant)
    at_once = len(state)
    if state.device.type == "cpu":
        at_once = max(1, _CELLS_AT_ONCE // (state.shape[-2] * state.shape[-1]))
    for frame in range(1, n_frames + 1):
        parts = [_interval(part, frame_interval, spacing, gravity, courant) for part in state.split(at_once)]
        state = torch.cat(parts)
        if not torch.isfinite(state).all():
            raise ValueError(
                f"the flow became too fast before t = {frame * frame_interval:g}: it asks for more than "
                f"{_MAX_STEPS:,.0f} steps from one frame to the next"
            )
        yield state


def _interval(state: Tensor, interval: float, spacing: float, gravity: float, courant: float) -> Tensor:
    """Advance each flow to the end of the interval with steps of its own; NaN where that would take too many."""
    result, rows = state.clone(), torch.arange(len(state))
    left = torch.full((len(state),), interval, dtype=torch.float64)
    while len(rows):
        flow = _primitive(state)
        steps = (left * _speed(flow, gravity) / (spacing * courant)).ceil().clamp(min=1)
        steps[~(steps <= _MAX_STEPS)] = torch.nan
        dt = left / steps  # equal steps to the end, as far as can be seen from here
        rate = (dt / spacing).to(state)[:, None, None, None]
        first = state + rate * _inflow(flow, gravity)
        state = (state + first + rate * _inflow(_primitive(first), gravity)) / 2
        going = steps > 1
        if not going.all():
            arrived = ~going
            result[rows[arrived].to(state.device)] = state[arrived.to(state.device)]
            rows, left, dt, state = rows[going], left[going], dt[going], state[going.to(state.device)]
        left = left - dt
    return result


def _primitive(state: Tensor) -> Tensor:
    """`h, u, v`; thin films have no velocity."""
    depth = state[:, :1].clamp(min=0)  # rounding can leave a cell a grain below dry
    wet = depth > _DRY * depth.amax(dim=(-2, -1), keepdim=True)
    return torch.cat((depth, torch.where(wet, state[:, 1:] / depth, 0.0)), dim=1)


def _speed(flow: Tensor, gravity: float) -> Float[Tensor, " b"]:
    """Greatest `|u| + |v| + 2 sqrt(g h)` of each flow, float64 on the CPU."""
    depth, u, v = flow.unbind(1)
    return (u.abs() + v.abs() + 2 * (gravity * depth).sqrt()).amax(dim=(-2, -1)).double().cpu()


def _inflow(flow: Tensor, gravity: float) -> Tensor:
    """What flows into each cell through its four faces, per time and length of a face."""
    depth, u, v = flow.unbind(1)
    mass_x, along_x, across_x = _net_outflow(torch.stack((depth, u, v)), -2, gravity)
    mass_y, along_y, across_y = _net_outflow(torch.stack((depth, v, u)), -1, gravity)
    return -torch.stack((mass_x + mass_y, along_x + across_y, across_x + along_y), dim=1)


def _net_outflow(flow: Float[Tensor, "3 b nx ny"], axis: int, gravity: float) -> tuple[Tensor, Tensor, Tensor]:
    """Differences across cells of the HLLC fluxes of mass, normal and tangential momentum along an axis.

    Args:
        flow: depth, velocity along the axis, velocity across it.
        axis: a grid axis.
        gravity: `g`.
    """
    n = flow.shape[axis]
    first, last = flow.narrow(axis, 0, 1), flow.narrow(axis, n - 1, 1)
    padded = torch.cat((first, first, flow, last, last), dim=axis)
    jumps = torch.diff(padded, dim=axis)
    before, after = jumps.narrow(axis, 0, n + 2), jumps.narrow(axis, 1, n + 2)
    bound = torch.where(before * after > 0, torch.minimum(before.abs(), after.abs()), 0.0)
    half = ((before + after) / 4).clamp(-bound, bound)  # of the slope: values at faces lie between those of cells
    cells = padded.narrow(axis, 1, n + 2)
    hl, ul, tl = (cells + half).narrow(axis, 0, n + 1)
    hr, ur, tr = (cells - half).narrow(axis, 1, n + 1)

    # Einfeldt's bounds: the outer waves of either side and of Roe's mean of both
    cl2, cr2 = gravity * hl, gravity * hr
    cl, cr = cl2.sqrt(), cr2.sqrt()
    mean = (cl * ul + cr * ur) / (cl + cr).clamp(min=torch.finfo(flow.dtype).tiny)
    middle = ((cl2 + cr2) / 2).sqrt()
    slowest = torch.minimum(ul - cl, mean - middle).clamp(max=0)
    fastest = torch.maximum(ur + cr, mean + middle).clamp(min=0)
    width = (fastest - slowest).clamp(min=torch.finfo(flow.dtype).tiny)
    share_l, share_r = fastest / width, -slowest / width

    forth, back = share_l * (ul - slowest) * hl, share_r * (ur - fastest) * hr
    mass = forth + back
    normal = forth * ul + back * ur + (share_l * cl2 * hl + share_r * cr2 * hr) / 2
    # two waves carry depth and normal momentum; the tangential velocity changes where the waters of both sides meet
    tangential = mass * torch.where(mass > 0, tl, tr)
    return torch.diff(mass, dim=axis), torch.diff(normal, dim=axis), torch.diff(tangential, dim=axis)


def _check(state: Tensor, n_frames: int, spacing: float, frame_interval: float, gravity: float, courant: float) -> None:
    if state.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"state must be float32 or float64, but is {state.dtype}")
    if state.dim() != 4 or state.shape[1] != 3 or 0 in state.shape:
        raise ValueError(f"state must have the shape (b, 3, nx, ny), but has {tuple(state.shape)}")
    if not (torch.isfinite(state).all() and (state[:, 0] >= 0).all()):
        raise ValueError("state must be finite with depths that are not negative")
    for name, value in (("spacing", spacing), ("frame_interval", frame_interval), ("gravity", gravity)):
        if not (value > 0 and math.isfinite(value)):
            raise ValueError(f"{name} must be positive, but is {value}")
    if n_frames < 1:
        raise ValueError(f"n_frames must be positive, but is {n_frames}")
    if not 0 < courant <= GREATEST_COURANT:
        raise ValueError(f"courant must lie in (0, {GREATEST_COURANT}], but is {courant}")
