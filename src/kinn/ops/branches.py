"""What surrounds the cascade in a block, as one operation before it and one behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from kinn.ops.autograd import transformed
from kinn.ops.backends import kernels_fit
from kinn.ops.cpu import BRANCH_MOST_WEIGHTS, evolution_cpu, evolution_fits, gate_cpu
from kinn.ops.expect import expect_shapes
from kinn.ops.reference import evolution_reference, gate_reference

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = ["evolution_branch", "gated_output"]

_REACH = 2.0**50  # far below the root of the largest float32: a norm sums squares


def evolution_branch(
    x: Float[Tensor, "b *grid c"],
    matrix: Float[Tensor, "d c"],
    filters: Float[Tensor, "d 1 *taps"],
    filter_bias: Float[Tensor, "d"] | None,
    mix: Float[Tensor, "d d"] | None,
    mix_bias: Float[Tensor, "d"] | None,
    *,
    norm: tuple[Float[Tensor, "c"], Float[Tensor, "c"]],
    eps: float = 1e-5,
    periodic: bool = False,
) -> Float[Tensor, "b *grid d"]:
    """What drives the cascade, Eq. (19): `silu(mix filter(norm(x) matrix^T))`.

    In single precision on a CPU, on 2-D grids and with matrices that stay in the near caches, compiled kernels walk
    through the grid row by row: nothing between `x` and the result reaches memory, neither forth nor back. Otherwise,
    and under autocast, compilers and function transforms, it is PyTorch's own operations. Differentiable at will either
    way.

    Args:
        x: fields `(b, *grid, c)` on one to three axes.
        matrix: `(d, c)`.
        filters: one per channel, `(d, 1, *taps)`, of one odd width along all axes, centred.
        filter_bias: `(d,)`, or None.
        mix: matrix across channels behind the filters, `(d, d)`, or None.
        mix_bias: `(d,)`, or None.
        norm: weight and bias `(c,)` of the layer norm over channels.
        eps: what the norm adds to the variance.
        periodic: the grid closes on itself; otherwise zeros lie around it.

    Returns:
        `(b, *grid, d)`.

    Raises:
        ValueError: shapes that do not fit each other.
    """
    c, d = x.shape[-1], len(matrix)
    taps = tuple(int(width) for width in filters.shape[2:])  # torch.jit.trace makes tensors of them
    if len(taps) != x.dim() - 2 or len(set(taps)) > 1 or not taps[0] % 2:
        raise ValueError(f"evolution_branch: expected filters of one odd width on {x.dim() - 2} axes, got {taps}")
    expect_shapes(
        "evolution_branch", matrix=(matrix, (d, c)), filters=(filters, (d, 1, *taps)), filter_bias=(filter_bias, (d,)),
        mix=(mix, (d, d)), mix_bias=(mix_bias, (d,)), weight=(norm[0], (c,)), bias=(norm[1], (c,)),
    )  # fmt: skip
    arguments = (x, *norm, matrix, filters, filter_bias, mix, mix_bias)
    fits = mix is not None and kernels_fit(x, arguments[1:], BRANCH_MOST_WEIGHTS)
    if fits and evolution_fits(x, filters, periodic):
        return evolution_cpu(*arguments, eps, periodic)
    return evolution_reference(*arguments, eps, periodic)


def gated_output(
    x: Float[Tensor, "b *grid c"],
    y: Float[Tensor, "b *grid d"],
    gate: Float[Tensor, "d c"] | None,
    out: Float[Tensor, "c d"],
    *,
    norm: tuple[Float[Tensor, "c"], Float[Tensor, "c"]],
    inner_norm: tuple[Float[Tensor, "d"], Float[Tensor, "d"]] | None = None,
    eps: float = 1e-5,
    inner_eps: float = 1e-5,
    factor: Float[Tensor, "b"] | None = None,
) -> Float[Tensor, "b *grid c"]:
    """The cascade's output, gated and added to the input, Eqs. (25), (26).

    `x + factor (norm(y) * silu(norm(x) gate^T)) out^T`.

    Computed as :func:`evolution_branch` is, on grids of any shape. Cells in series multiply their drives, so that `y`
    may be huge; a norm of `y` takes that away, and is kept from overflowing on the way.

    Args:
        x: the block's input `(b, *grid, c)`.
        y: the cascade's output `(b, *grid, d)`.
        gate: matrix `(d, c)`; None for no gate.
        out: matrix `(c, d)`.
        norm: weight and bias `(c,)` of the layer norm of `x`.
        inner_norm: weight and bias `(d,)` of a layer norm of `y`; None for no norm.
        eps: what the norm of `x` adds to the variance.
        inner_eps: what the norm of `y` adds to it.
        factor: on what is added to each batch element `(b,)`, or None.

    Returns:
        `(b, *grid, c)`.

    Raises:
        ValueError: shapes that do not fit each other.
    """
    weight, bias = norm
    inner_weight, inner_bias = inner_norm or (None, None)
    c, d = x.shape[-1], out.shape[-1]
    expect_shapes(
        "gated_output", y=(y, (*x.shape[:-1], d)), gate=(gate, (d, c)), out=(out, (c, d)), weight=(weight, (c,)),
        bias=(bias, (c,)), inner_weight=(inner_weight, (d,)), inner_bias=(inner_bias, (d,)),
        factor=(factor, (x.shape[0],)),  # not len(x), which would fix the batch size of an export
    )  # fmt: skip
    if inner_weight is not None and inner_bias is not None:
        y = _within_reach(y)
        # a cascade in float32 between layers of half precision
        if torch.promote_types(y.dtype, inner_weight.dtype) != inner_weight.dtype:
            y = F.layer_norm(y, (d,), inner_weight.to(y.dtype), inner_bias.to(y.dtype), inner_eps).to(x.dtype)
            inner_weight = inner_bias = None
    arguments = (x, y, weight, bias, gate, inner_weight, inner_bias, out, eps, inner_eps)
    fits = gate is not None and factor is None and y.dtype == x.dtype and y.device == x.device
    if fits and kernels_fit(x, (weight, bias, gate, inner_weight, inner_bias, out), BRANCH_MOST_WEIGHTS):
        return gate_cpu(*arguments)
    return gate_reference(*arguments, factor)


def _within_reach(y: Tensor) -> Tensor:
    """Rows whose squares would overflow, scaled down: a norm that follows gives the same."""
    eager = y.device.type == "cpu" and type(y) is Tensor and not torch.compiler.is_compiling() and not transformed()
    if y.numel() == 0:
        return y
    if eager:
        least, greatest = y.detach().aminmax()
        if greatest <= _REACH and least >= -_REACH:  # false where there is a NaN
            return y
    least, greatest = y.detach().aminmax(dim=-1, keepdim=True)
    size = torch.maximum(greatest, -least)
    return y * torch.where(size > _REACH, _REACH / size, torch.ones_like(size))
