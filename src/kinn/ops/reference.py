"""The definitions that every other backend is held against, in plain PyTorch: loops, parts of blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from kinn.ops.autograd import exporting, transformed
from kinn.ops.discretize import DISCRETIZATIONS

if TYPE_CHECKING:
    from collections.abc import Callable

    from jaxtyping import Float

    from kinn.ops.path import Path


# What drives the next cell in series is held to this: a cell is cubic in its drive, and three leave float32.
LARGEST_DRIVE = 2.0**32


def bounded(couplings: Float[Tensor, "*b n"]) -> Float[Tensor, "*b n"]:
    """Injection or readout with a root mean square over the potentials below 1; small ones stay nearly as they are."""
    return couplings * torch.rsqrt(1 + couplings.square().mean(-1, keepdim=True))


def scan_reference(
    x: Float[Tensor, "b m d"],
    dt: Float[Tensor, "b m d"],
    a: Float[Tensor, "d n"],
    B: Float[Tensor, "b m n"],
    C: Float[Tensor, "b m n"],
    D: Float[Tensor, "d"] | None,
    initial_state: Float[Tensor, "s d n"] | None,
    path: Path,
    injection: str,
) -> tuple[Float[Tensor, "b m d"], Float[Tensor, "s d n"]]:
    """Eqs. (20), (22), one position of the path after the other, in plain differentiable PyTorch.

    Args:
        x: drive `(b, m, d)` on a flattened grid of `m` positions.
        dt: step lengths `(b, m, d)`, non-negative.
        a: decay rates `(d, n)`, non-negative.
        B: injection `(b, m, n)`.
        C: readout `(b, m, n)`.
        D: skip `(d,)`, or None for none.
        initial_state: potentials before the first position of each sequence `(b * path.sequences, d, n)`, or None.
        path: order of visit.
        injection: "zoh" or "euler".

    Returns:
        `(y, state)`: output `(b, m, d)` and the potentials after the last position `(b * path.sequences, d, n)`.

    Raises:
        ValueError: a negative `dt` or `a`.
    """
    # values that cannot be looked at
    if not torch.compiler.is_compiling() and not transformed() and x.device.type != "meta":
        check_sign(dt.amin().item() if dt.numel() else 0.0, a.amin().item() if a.numel() else 0.0)
    batch, n = x.shape[0], a.shape[1]
    drive, dt, B, C = path.gather(x), path.gather(dt), path.gather(B), path.gather(C)
    state = x.new_zeros(drive.shape[0], x.shape[-1], n) if initial_state is None else initial_state

    def step(state: Tensor, now: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        drive_t, dt_t, B_t, C_t = now
        retain, inject = DISCRETIZATIONS[injection](dt_t[:, :, None], a)
        state = retain * state + inject * B_t[:, None, :] * drive_t[:, :, None]
        return state, (state * C_t[:, None, :]).sum(-1)

    if exporting() and path.steps:
        state, outputs = _exported_loop(step, state, (drive, dt, B, C))
    else:
        outputs = []
        for now in zip(*(t.unbind(1) for t in (drive, dt, B, C))):
            state, y_t = step(state, now)
            outputs.append(y_t)
        outputs = torch.stack(outputs, dim=1) if outputs else torch.zeros_like(drive)
    y = path.scatter(outputs, batch)
    return (y if D is None else y + D * x), state


def _exported_loop(
    step: Callable[[Tensor, tuple[Tensor, ...]], tuple[Tensor, Tensor]], state: Tensor, inputs: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor]:
    """The loop as one node of an exported program, which ONNX has, too, instead of as many as there are positions."""
    from torch._higher_order_ops.scan import scan

    state, outputs = scan(step, state, tuple(t.transpose(0, 1) for t in inputs))
    return state, outputs.transpose(0, 1)


def check_sign(least_dt: float, least_a: float) -> None:
    """Refuse a negative step length or decay rate: every backend's one sentence. NaN passes, and propagates."""
    if least_dt < 0:
        raise ValueError(f"dt must be non-negative (a step length), but its smallest value is {least_dt:g}")
    if least_a < 0:
        raise ValueError(f"a must be non-negative (a decay rate), but its smallest value is {least_a:g}")


def mlp_reference(
    x: Float[Tensor, "*grid i"],
    norm_weight: Float[Tensor, "i"] | None,
    norm_bias: Float[Tensor, "i"] | None,
    eps: float,
    first: Float[Tensor, "h i"],
    first_bias: Float[Tensor, "h"] | None,
    second: Float[Tensor, "o h"],
    second_bias: Float[Tensor, "o"] | None,
) -> Float[Tensor, "*grid o"]:
    """`gelu(norm(x) first^T + first_bias) second^T + second_bias`, without the norm if it has no weight."""
    if norm_weight is not None:
        x = F.layer_norm(x, x.shape[-1:], norm_weight, norm_bias, eps)
    return F.linear(F.gelu(F.linear(x, first, first_bias)), second, second_bias)


def separable_reference(
    x: Float[Tensor, "b *grid i"],
    filters: Float[Tensor, "i 1 *taps"],
    filter_bias: Float[Tensor, "i"] | None,
    mix: Float[Tensor, "o i"] | None,
    mix_bias: Float[Tensor, "o"] | None,
    periodic: bool,
) -> Float[Tensor, "b *grid o"]:
    """A centred filter for every channel, then a matrix across channels, if one is given.

    Around the grid lie zeros, or its copies.
    """
    axes, pad = x.dim() - 2, filters.shape[-1] // 2
    x = x.movedim(-1, 1)  # a view in channels-last memory format: nothing is copied
    if periodic:
        if pad > min(x.shape[2:]):  # F.pad goes around once at most
            for axis in range(2, x.dim()):
                size, turns = x.shape[axis], -(-pad // x.shape[axis])
                x = torch.cat([x] * (2 * turns + 1), axis).narrow(axis, turns * size - pad, size + 2 * pad)
        else:
            x = F.pad(x, 2 * axes * (pad,), mode="circular")
        pad = 0
    convolve = (F.conv1d, F.conv2d, F.conv3d)[axes - 1]
    y = convolve(x, filters, filter_bias, padding=pad, groups=x.shape[1]).movedim(1, -1)
    return y if mix is None else F.linear(y, mix, mix_bias)


def evolution_reference(
    x: Float[Tensor, "b *grid c"],
    norm_weight: Float[Tensor, "c"],
    norm_bias: Float[Tensor, "c"],
    matrix: Float[Tensor, "d c"],
    filters: Float[Tensor, "d 1 *taps"],
    filter_bias: Float[Tensor, "d"] | None,
    mix: Float[Tensor, "d d"] | None,
    mix_bias: Float[Tensor, "d"] | None,
    eps: float,
    periodic: bool,
) -> Float[Tensor, "b *grid d"]:
    """`silu(separable(norm(x) matrix^T))`, Eq. (19): what drives the cascade."""
    drive = F.linear(F.layer_norm(x, x.shape[-1:], norm_weight, norm_bias, eps), matrix)
    return F.silu(separable_reference(drive, filters, filter_bias, mix, mix_bias, periodic))


def gate_reference(
    x: Float[Tensor, "*grid c"],
    y: Float[Tensor, "*grid d"],
    norm_weight: Float[Tensor, "c"],
    norm_bias: Float[Tensor, "c"],
    gate: Float[Tensor, "d c"] | None,
    inner_weight: Float[Tensor, "d"] | None,
    inner_bias: Float[Tensor, "d"] | None,
    out: Float[Tensor, "c d"],
    eps: float,
    inner_eps: float,
    factor: Float[Tensor, "b"] | None = None,
) -> Float[Tensor, "*grid c"]:
    """`x + factor (norm(y) * silu(norm(x) gate^T)) out^T`, Eqs. (19), (25), (26).

    `y` as it is without an inner norm, open without a gate, all added without a factor.
    """
    if inner_weight is not None:
        y = F.layer_norm(y, y.shape[-1:], inner_weight, inner_bias, inner_eps)
    if gate is not None:
        y = y * F.silu(F.linear(F.layer_norm(x, x.shape[-1:], norm_weight, norm_bias, eps), gate))
    branch = F.linear(y, out)
    return x + (branch if factor is None else branch * factor.view(-1, *(1,) * (x.dim() - 1)))


def mix_reference(
    x: Float[Tensor, "*grid i"],
    field: Float[Tensor, "*grid o"],
    matrix: Float[Tensor, "o i"],
    bias: Float[Tensor, "o"] | None,
    gelu: bool,
) -> Float[Tensor, "*grid o"]:
    """`gelu(field + x matrix^T + bias)`, or without the GELU."""
    y = field + F.linear(x, matrix, bias)
    return F.gelu(y) if gelu else y
