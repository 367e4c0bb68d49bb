"""The channel MLP on the CPU: the torch operators `kinn::channel_mlp` and its backward, over numba kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from kinn.ops.cpu.compiled import address, load_kernels, run_items, unavailable
from kinn.ops.cpu.records import TILE
from kinn.ops.reference import mlp_reference

if TYPE_CHECKING:
    from collections.abc import Sequence

_MOST_WEIGHTS = 1 << 15  # of a matrix, so that all of them stay in the near caches; beyond, libraries do as well
_LEAST_ROWS = 1 << 9  # positions; fewer are not worth the call


def mlp_fits(x: Tensor, parameters: Sequence[Tensor | None]) -> bool:
    """Whether the compiled kernels take this: plain single precision on the CPU, with small matrices."""
    given = [t for t in parameters if t is not None]
    return (
        not torch.compiler.is_compiling()  # compilers fuse by themselves, exporters know nothing of our operators
        and x.device.type == "cpu"
        and all(type(t) in (Tensor, torch.nn.Parameter) and t.dtype == torch.float32 for t in (x, *given))
        and x.numel() >= _LEAST_ROWS * x.shape[-1]
        and all(t.numel() <= _MOST_WEIGHTS for t in given)
        and not torch.is_autocast_enabled("cpu")
        and torch._C._functorch.peek_interpreter_stack() is None  # pyright: ignore[reportAttributeAccessIssue]
        and torch.autograd.forward_ad._current_level < 0
        and unavailable() is None
    )


_SCHEMA = (
    "Tensor x, Tensor? norm_weight, Tensor? norm_bias, float eps, Tensor first, Tensor? first_bias, Tensor second, "
    "Tensor? second_bias"
)


@torch.library.custom_op("kinn::channel_mlp", mutates_args=(), device_types="cpu", schema=f"({_SCHEMA}) -> Tensor")
def mlp_cpu(x, norm_weight, norm_bias, eps, first, first_bias, second, second_bias):
    """Compiled counterpart of :func:`kinn.ops.reference.mlp_reference`: `(rows, inputs)` to `(rows, outputs)`."""
    kernels = load_kernels("mlp")
    x = x.contiguous()
    layer, _alive = _layer(kernels, x, norm_weight, norm_bias, eps, first, first_bias, second, second_bias)
    y = _fake(x, norm_weight, norm_bias, eps, first, first_bias, second, second_bias)
    blocks = kernels.blocks_for(len(x), torch.get_num_threads())
    work = 16 * x.numel() * first.shape[0]
    run_items(kernels.forward, blocks, work, layer, blocks, x.data_ptr(), y.data_ptr(), like=np.empty(0, np.float32))
    return y


@torch.library.register_fake("kinn::channel_mlp")
def _fake(x, norm_weight, norm_bias, eps, first, first_bias, second, second_bias):
    return x.new_empty(x.shape[0], second.shape[0])


@torch.library.custom_op(
    "kinn::channel_mlp_backward",
    mutates_args=(),
    device_types="cpu",
    schema=f"(Tensor dy, {_SCHEMA}) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def _backward(dy, x, norm_weight, norm_bias, eps, first, first_bias, second, second_bias):
    kernels = load_kernels("mlp")
    x, dy = x.contiguous(), dy.contiguous()
    layer, _alive = _layer(kernels, x, norm_weight, norm_bias, eps, first, first_bias, second, second_bias)
    blocks = kernels.blocks_for(len(x), torch.get_num_threads())
    hidden, inputs = first.shape
    outputs = second.shape[0]
    ip, hp, op = (_padded(size, TILE) for size in (inputs, hidden, outputs))
    sums = (
        x.new_zeros(blocks, 2, ip),
        x.new_zeros(blocks, _padded(hidden, 4), ip),
        x.new_zeros(blocks, hp),
        x.new_zeros(blocks, _padded(outputs, 4), hp),
        x.new_zeros(blocks, op),
    )
    dx = torch.empty_like(x)
    run_items(
        kernels.backward, blocks, 32 * x.numel() * hidden,
        layer, kernels.Sums(*(t.data_ptr() for t in sums)), blocks, x.data_ptr(), dy.data_ptr(), dx.data_ptr(),
        like=np.empty(0, np.float32),
    )  # fmt: skip
    norm, to_first, to_first_bias, to_second, to_second_bias = (t.sum(0) for t in sums)
    return (
        dx, norm[0, :inputs].clone(), norm[1, :inputs].clone(), to_first[:hidden, :inputs].contiguous(),
        to_first_bias[:hidden].clone(), to_second[:outputs, :hidden].contiguous(), to_second_bias[:outputs].clone(),
    )  # fmt: skip


@torch.library.register_fake("kinn::channel_mlp_backward")
def _(dy, x, norm_weight, norm_bias, eps, first, first_bias, second, second_bias):
    hidden, inputs = first.shape
    outputs = second.shape[0]
    shapes = (x.shape, (inputs,), (inputs,), (hidden, inputs), (hidden,), (outputs, hidden), (outputs,))
    return tuple(x.new_empty(shape) for shape in shapes)


def _save_context(ctx, inputs, output):
    *tensors, ctx.eps = (*inputs[:3], *inputs[4:], inputs[3])
    ctx.save_for_backward(*tensors)


def _gradients(ctx, dy):
    x, norm_weight, norm_bias, *matrices = ctx.saved_tensors
    dx, *rest = torch.ops.kinn.channel_mlp_backward(dy, x, norm_weight, norm_bias, ctx.eps, *matrices)
    of_norm, of_matrices = rest[:2], rest[2:]
    of_norm = [None if t is None else g for t, g in zip((norm_weight, norm_bias), of_norm)]
    return (dx, *of_norm, None, *(None if t is None else g for t, g in zip(matrices, of_matrices)))


def _save_backward_context(ctx, inputs, output):
    *tensors, ctx.eps = (*inputs[:4], *inputs[5:], inputs[4])
    ctx.save_for_backward(*tensors)


def _second_order(ctx, *given):
    """The backward's own gradients, by differentiating the plain definition twice."""
    tensors: list[Any] = [None if t is None else t.detach().requires_grad_() for t in ctx.saved_tensors]
    dy, x, norm_weight, norm_bias, *matrices = tensors
    of = [t for t in (x, norm_weight, norm_bias, *matrices) if t is not None]
    taken = [
        g for t, g in zip((x, norm_weight, norm_bias, *matrices), given) if t is not None
    ]  # fmt: skip
    with torch.enable_grad():
        y = mlp_reference(x, norm_weight, norm_bias, ctx.eps, *matrices)
        first = torch.autograd.grad(y, of, dy, create_graph=True)
        pairs = [(f, g) for f, g in zip(first, taken) if g is not None and f.requires_grad]
        leaves = [dy, *of]
        found = dict(zip(map(id, leaves), torch.autograd.grad(
            [f for f, _ in pairs], leaves, [g for _, g in pairs], allow_unused=True)))  # fmt: skip
    second = [None if t is None else found[id(t)] for t in tensors]
    return (*second[:4], None, *second[4:])


torch.library.register_autograd("kinn::channel_mlp", _gradients, setup_context=_save_context)
torch.library.register_autograd("kinn::channel_mlp_backward", _second_order, setup_context=_save_backward_context)


def _layer(kernels, x, norm_weight, norm_bias, eps, first, first_bias, second, second_bias):
    """The kernels' view of the parameters, and the tensors that keep it alive."""

    def pad(tensor):
        return None if tensor is None else F.pad(tensor, (0, -tensor.shape[-1] % TILE)).contiguous()

    tensors = [
        pad(t) for t in (norm_weight, norm_bias, first, first.t(), first_bias, second, second.t(), second_bias)
    ]  # fmt: skip
    outputs = second.shape[0]
    sizes = (len(x), first.shape[1], first.shape[0], outputs, eps)
    return kernels.Layer(*sizes, *map(address, tensors)), tensors


def _padded(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple
