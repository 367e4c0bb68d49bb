"""Layers that act at every position alike, as one operation each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from kinn.ops.backends import kernels_fit
from kinn.ops.cpu import MLP_MOST_WEIGHTS, mix_cpu, mlp_cpu
from kinn.ops.expect import expect_shapes
from kinn.ops.reference import mix_reference, mlp_reference

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = ["channel_mix", "channel_mlp"]


def channel_mlp(
    x: Float[Tensor, "*grid i"],
    first: Float[Tensor, "h i"],
    first_bias: Float[Tensor, "h"] | None,
    second: Float[Tensor, "o h"],
    second_bias: Float[Tensor, "o"] | None,
    *,
    norm: tuple[Float[Tensor, "i"], Float[Tensor, "i"]] | None = None,
    eps: float = 1e-5,
) -> Float[Tensor, "*grid o"]:
    """`gelu(norm(x) first^T + first_bias) second^T + second_bias` at every position.

    In single precision on a CPU, with many positions and small matrices, compiled kernels take the positions in short
    pieces and form the hidden channels again in the backward: they never reach memory. Otherwise, and under autocast,
    compilers and function transforms, it is PyTorch's own operations. Differentiable at will either way.

    Args:
        x: fields `(..., i)`.
        first: matrix `(h, i)`.
        first_bias: `(h,)`, or None.
        second: matrix `(o, h)`.
        second_bias: `(o,)`, or None.
        norm: weight and bias `(i,)` of a layer norm over channels before the first matrix; None for no norm.
        eps: what the norm adds to the variance.

    Returns:
        `(..., o)`.

    Raises:
        ValueError: shapes that do not fit each other.

    >>> import torch
    >>> channel_mlp(torch.rand(5, 7, 3), torch.rand(8, 3), None, torch.rand(2, 8), None).shape
    torch.Size([5, 7, 2])
    """
    weight, bias = norm or (None, None)
    i, (h, o) = x.shape[-1], (len(first), len(second))
    expect_shapes(
        "channel_mlp", first=(first, (h, i)), first_bias=(first_bias, (h,)), second=(second, (o, h)),
        second_bias=(second_bias, (o,)), weight=(weight, (i,)), bias=(bias, (i,)),
    )  # fmt: skip
    parameters = (weight, bias, eps, first, first_bias, second, second_bias)
    if not kernels_fit(x, (weight, bias, first, first_bias, second, second_bias), MLP_MOST_WEIGHTS):
        return mlp_reference(x, *parameters)
    return mlp_cpu(x.reshape(-1, x.shape[-1]), *parameters).view(*x.shape[:-1], second.shape[0])


def channel_mix(
    x: Float[Tensor, "*grid i"],
    field: Float[Tensor, "*grid o"],
    matrix: Float[Tensor, "o i"],
    bias: Float[Tensor, "o"] | None,
    *,
    gelu: bool = True,
) -> Float[Tensor, "*grid o"]:
    """`gelu(field + x matrix^T + bias)` at every position: how a Fourier layer ends.

    Computed as :func:`channel_mlp` is.

    Args:
        x: fields `(..., i)`.
        field: what is added `(..., o)`.
        matrix: `(o, i)`.
        bias: `(o,)`, or None.
        gelu: whether a GELU follows.

    Returns:
        `(..., o)`.

    Raises:
        ValueError: shapes that do not fit each other.

    >>> import torch
    >>> channel_mix(torch.rand(5, 7, 3), torch.rand(5, 7, 2), torch.rand(2, 3), None).shape
    torch.Size([5, 7, 2])
    """
    i, o = x.shape[-1], len(matrix)
    expect_shapes("channel_mix", field=(field, (*x.shape[:-1], o)), matrix=(matrix, (o, i)), bias=(bias, (o,)))
    alike = field.dtype == x.dtype and field.device == x.device
    if alike and kernels_fit(x, (matrix, bias), MLP_MOST_WEIGHTS):
        return mix_cpu(x, field, matrix, bias, gelu)
    return mix_reference(x, field, matrix, bias, gelu)
