"""What surrounds the cascade in a block: the torch operators `kinn::evolution_branch` and `kinn::gated_output`."""

from __future__ import annotations

import torch

from kinn.ops.cpu.compiled import like, load_kernels, run_items
from kinn.ops.cpu.fused import addresses_of, blocks_of, in_vectors, padded, register
from kinn.ops.reference import evolution_reference, gate_reference

BRANCH_MOST_WEIGHTS = 1 << 16  # of a matrix, so that all of them stay in the nearer caches
_MOST_ROW = 1 << 17  # width times channels of a grid row, of which several must stay there too


def evolution_fits(x, filters, periodic) -> bool:
    """Whether the grid is one that the kernels walk through: 2-D, and its rows not too long."""
    if x.dim() != 4:
        return False
    taps, width = filters.shape[-1], x.shape[2]
    return taps * width * filters.shape[0] <= _MOST_ROW and not (periodic and taps // 2 > min(x.shape[1:3]))


def _gate_forward(x, y, norm_weight, norm_bias, gate, inner_weight, inner_bias, out, eps, inner_eps):
    kernels = load_kernels("gate")
    x, y = x.contiguous(), y.contiguous()
    layer, _alive = _gate(kernels, x, norm_weight, norm_bias, gate, inner_weight, inner_bias, out, eps, inner_eps)
    result, blocks = torch.empty_like(x), blocks_of(layer.rows, kernels.CHUNK)
    work = 4 * layer.rows * gate.numel()
    run_items(kernels.forward, blocks, work, layer, blocks, *addresses_of(x, y, result), like=like(torch.float32))
    return result


def _gate_backward(dout, x, y, norm_weight, norm_bias, gate, inner_weight, inner_bias, out, eps, inner_eps):
    kernels = load_kernels("gate")
    dout, x, y = dout.contiguous(), x.contiguous(), y.contiguous()
    layer, _alive = _gate(kernels, x, norm_weight, norm_bias, gate, inner_weight, inner_bias, out, eps, inner_eps)
    blocks, (d, c) = blocks_of(layer.rows, kernels.CHUNK), gate.shape
    sums = (
        x.new_zeros(blocks, 2, padded(c)),
        x.new_zeros(blocks, padded(d, 4), padded(c)),
        x.new_zeros(blocks, 2, padded(d)),
        x.new_zeros(blocks, padded(c, 4), padded(d)),
    )
    dx, dy = torch.empty_like(x), torch.empty_like(y)
    arguments = (layer, kernels.Sums(*addresses_of(*sums)), blocks, *addresses_of(x, y, dout, dx, dy))
    run_items(kernels.backward, blocks, 8 * layer.rows * gate.numel(), *arguments, like=like(torch.float32))
    norm, to_gate, inner_norm, to_out = (t.sum(0) for t in sums)
    return (
        dx, dy, norm[0, :c].clone(), norm[1, :c].clone(), to_gate[:d, :c].contiguous(),
        inner_norm[0, :d].clone(), inner_norm[1, :d].clone(), to_out[:c, :d].contiguous(),
    )  # fmt: skip


gate_cpu = register(
    "gated_output",
    "Tensor x, Tensor y, Tensor norm_weight, Tensor norm_bias, Tensor gate, Tensor? inner_weight, Tensor? inner_bias, "
    "Tensor out, float eps, float inner_eps",
    shape=lambda x, *_: x.shape,
    forward=_gate_forward,
    backward=_gate_backward,
    reference=gate_reference,
)


def _gate(kernels, x, norm_weight, norm_bias, gate, inner_weight, inner_bias, out, eps, inner_eps):
    (d, c), rows = gate.shape, x.numel() // max(x.shape[-1], 1)
    addresses, alive = in_vectors(norm_weight, norm_bias, gate, gate.t(), inner_weight, inner_bias, out, out.t())
    return kernels.Layer(rows, c, d, eps, inner_eps, *addresses), alive


def _evolution_forward(x, norm_weight, norm_bias, matrix, filters, filter_bias, mix, mix_bias, eps, periodic):
    kernels = load_kernels("evolution")
    x = x.contiguous()
    layer, _alive = _evolution(
        kernels, x, norm_weight, norm_bias, matrix, filters, filter_bias, mix, mix_bias, eps, periodic
    )
    y = x.new_empty(*x.shape[:-1], len(matrix))
    work = 16 * y.numel() * (layer.outer + layer.inner)
    run_items(kernels.forward, layer.batch * layer.bands, work, layer, *addresses_of(x, y), like=like(torch.float32))
    return y


def _evolution_backward(dy, x, norm_weight, norm_bias, matrix, filters, filter_bias, mix, mix_bias, eps, periodic):
    kernels = load_kernels("evolution")
    dy, x = dy.contiguous(), x.contiguous()
    layer, _alive = _evolution(
        kernels, x, norm_weight, norm_bias, matrix, filters, filter_bias, mix, mix_bias, eps, periodic
    )
    (d, c), taps, blocks = matrix.shape, layer.taps, min(8 * torch.get_num_threads(), max(1, layer.batch * layer.bands))
    sums = (
        x.new_zeros(blocks, 2, padded(c)),
        x.new_zeros(blocks, padded(d, 4), padded(c)),
        x.new_zeros(blocks, taps, taps, padded(d)),
        x.new_zeros(blocks, padded(d)),
        x.new_zeros(blocks, padded(d, 4), padded(d)),
        x.new_zeros(blocks, padded(d)),
    )
    dx = torch.empty_like(x)
    work = 32 * dy.numel() * (c + d)
    arguments = (layer, kernels.Sums(*addresses_of(*sums)), blocks, *addresses_of(x, dy, dx))
    run_items(kernels.backward, blocks, work, *arguments, like=like(torch.float32))
    norm, to_matrix, to_filters, to_filter_bias, to_mix, to_mix_bias = (t.sum(0) for t in sums)
    return (
        dx, norm[0, :c].clone(), norm[1, :c].clone(), to_matrix[:d, :c].contiguous(),
        to_filters[..., :d].permute(2, 0, 1).unsqueeze(1).contiguous(), to_filter_bias[:d].clone(),
        to_mix[:d, :d].contiguous(), to_mix_bias[:d].clone(),
    )  # fmt: skip


evolution_cpu = register(
    "evolution_branch",
    "Tensor x, Tensor norm_weight, Tensor norm_bias, Tensor matrix, Tensor filters, Tensor? filter_bias, Tensor mix, "
    "Tensor? mix_bias, float eps, bool periodic",
    shape=lambda x, norm_weight, norm_bias, matrix, *_: (*x.shape[:-1], matrix.shape[0]),
    forward=_evolution_forward,
    backward=_evolution_backward,
    reference=evolution_reference,
)


def _evolution(kernels, x, norm_weight, norm_bias, matrix, filters, filter_bias, mix, mix_bias, eps, periodic):
    batch, height, width, outer = x.shape
    bands = max(1, min(-(-2 * torch.get_num_threads() // max(batch, 1)), height // (4 * filters.shape[-1])))
    addresses, alive = in_vectors(
        norm_weight, norm_bias, matrix, matrix.t(), filters[:, 0].permute(1, 2, 0), filter_bias, mix, mix.t(), mix_bias
    )
    sizes = (batch, height, width, outer, len(matrix), filters.shape[-1], periodic, bands, eps)
    return kernels.Layer(*sizes, *addresses), alive
