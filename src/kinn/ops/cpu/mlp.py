"""The channel MLP on the CPU: the torch operators `kinn::channel_mlp` and its backward, over numba kernels."""

from __future__ import annotations

import torch

from kinn.ops.cpu.compiled import like, load_kernels, run_items
from kinn.ops.cpu.fused import addresses_of, blocks_of, in_vectors, padded, register
from kinn.ops.reference import mlp_reference

MLP_MOST_WEIGHTS = 1 << 15  # of a matrix, so that all of them stay in the near caches; beyond, libraries do as well


def _shape(x, norm_weight, norm_bias, eps, first, first_bias, second, second_bias):
    return x.shape[0], second.shape[0]


def _forward(x, norm_weight, norm_bias, eps, first, first_bias, second, second_bias):
    """Compiled counterpart of :func:`kinn.ops.reference.mlp_reference`: `(rows, inputs)` to `(rows, outputs)`."""
    kernels = load_kernels("mlp")
    x = x.contiguous()
    layer, _alive = _layer(kernels, x, norm_weight, norm_bias, eps, first, first_bias, second, second_bias)
    y = x.new_empty(len(x), len(second))
    blocks = blocks_of(len(x), kernels.CHUNK)
    work = 16 * x.numel() * first.shape[0]
    run_items(kernels.forward, blocks, work, layer, blocks, *addresses_of(x, y), like=like(torch.float32))
    return y


def _backward(dy, x, norm_weight, norm_bias, eps, first, first_bias, second, second_bias):
    kernels = load_kernels("mlp")
    x, dy = x.contiguous(), dy.contiguous()
    layer, _alive = _layer(kernels, x, norm_weight, norm_bias, eps, first, first_bias, second, second_bias)
    blocks = blocks_of(len(x), kernels.CHUNK)
    (hidden, inputs), outputs = first.shape, second.shape[0]
    ip, hp, op = padded(inputs), padded(hidden), padded(outputs)
    sums = (
        x.new_zeros(blocks, 2, ip),
        x.new_zeros(blocks, padded(hidden, 4), ip),
        x.new_zeros(blocks, hp),
        x.new_zeros(blocks, padded(outputs, 4), hp),
        x.new_zeros(blocks, op),
    )
    dx = torch.empty_like(x)
    run_items(
        kernels.backward, blocks, 32 * x.numel() * hidden,
        layer, kernels.Sums(*addresses_of(*sums)), blocks, *addresses_of(x, dy, dx),
        like=like(torch.float32),
    )  # fmt: skip
    norm, to_first, to_first_bias, to_second, to_second_bias = (t.sum(0) for t in sums)
    return (
        dx, norm[0, :inputs].clone(), norm[1, :inputs].clone(), to_first[:hidden, :inputs].contiguous(),
        to_first_bias[:hidden].clone(), to_second[:outputs, :hidden].contiguous(), to_second_bias[:outputs].clone(),
    )  # fmt: skip


mlp_cpu = register(
    "channel_mlp",
    "Tensor x, Tensor? norm_weight, Tensor? norm_bias, float eps, Tensor first, Tensor? first_bias, Tensor second, "
    "Tensor? second_bias",
    shape=_shape,
    forward=_forward,
    backward=_backward,
    reference=mlp_reference,
)


def _layer(kernels, x, norm_weight, norm_bias, eps, first, first_bias, second, second_bias):
    """The kernels' view of the parameters, and the tensors that keep it alive."""
    addresses, alive = in_vectors(norm_weight, norm_bias, first, first.t(), first_bias, second, second.t(), second_bias)
    return kernels.Layer(len(x), first.shape[1], first.shape[0], second.shape[0], eps, *addresses), alive
