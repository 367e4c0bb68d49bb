"""The pointwise layer on the CPU: the torch operators `kinn::channel_mix` and its backward, over numba kernels."""

from __future__ import annotations

import torch

from kinn.ops.cpu.compiled import like, load_kernels, run_items
from kinn.ops.cpu.fused import addresses_of, blocks_of, in_vectors, padded, register
from kinn.ops.reference import mix_reference


def _forward(x, field, matrix, bias, gelu):
    kernels = load_kernels("mix")
    x, field = x.contiguous(), field.contiguous()
    layer, _alive = _layer(kernels, x, matrix, bias, gelu)
    y, blocks = torch.empty_like(field), blocks_of(layer.rows, kernels.CHUNK)
    arguments = (layer, blocks, *addresses_of(x, field, y))
    run_items(kernels.forward, blocks, 4 * layer.rows * matrix.numel(), *arguments, like=like(torch.float32))
    return y


def _backward(dy, x, field, matrix, bias, gelu):
    kernels = load_kernels("mix")
    dy, x, field = dy.contiguous(), x.contiguous(), field.contiguous()
    layer, _alive = _layer(kernels, x, matrix, bias, gelu)
    blocks, (o, i) = blocks_of(layer.rows, kernels.CHUNK), matrix.shape
    sums = x.new_zeros(blocks, padded(o, 4), padded(i)), x.new_zeros(blocks, padded(o))
    dx, dfield = torch.empty_like(x), torch.empty_like(field)
    arguments = (layer, kernels.Sums(*addresses_of(*sums)), blocks, *addresses_of(x, field, dy, dx, dfield))
    run_items(kernels.backward, blocks, 8 * layer.rows * matrix.numel(), *arguments, like=like(torch.float32))
    to_matrix, to_bias = (t.sum(0) for t in sums)
    return dx, dfield, to_matrix[:o, :i].contiguous(), to_bias[:o].clone()


mix_cpu = register(
    "channel_mix",
    "Tensor x, Tensor field, Tensor matrix, Tensor? bias, bool gelu",
    shape=lambda x, field, *_: field.shape,
    forward=_forward,
    backward=_backward,
    reference=mix_reference,
)


def _layer(kernels, x, matrix, bias, gelu):
    addresses, alive = in_vectors(matrix, matrix.t(), bias)
    return kernels.Layer(x.numel() // max(x.shape[-1], 1), matrix.shape[1], matrix.shape[0], gelu, *addresses), alive
