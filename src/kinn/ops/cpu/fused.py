"""How a fused operation becomes a torch operator: `kinn::<name>` and its backward, differentiable at will.

Kernels give values and first derivatives; further ones, which nobody needs fast, are the plain definition's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from kinn.ops.autograd import transformed
from kinn.ops.cpu.compiled import address
from kinn.ops.cpu.records import TILE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_LEAST_ROWS = 1 << 9  # positions; fewer are not worth the call


def kernels_fit(x: Tensor, parameters: Sequence[Tensor | None], most_weights: int) -> bool:
    """Whether kernels, if there are any, take this: plain single precision on the CPU, matrices for the near caches."""
    given = [t for t in parameters if t is not None]
    return (
        # compilers fuse by themselves, exporters and TorchScript know nothing of our operators
        not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and all(type(t) in (Tensor, torch.nn.Parameter) and t.dtype == torch.float32 for t in (x, *given))
        and all(t.device.type == "cpu" for t in (x, *given))
        and x.numel() >= _LEAST_ROWS * x.shape[-1]
        and all(t.numel() <= most_weights for t in given)
        and not torch.is_autocast_enabled("cpu")
        and not transformed()
    )


def register(
    name: str,
    schema: str,
    *,
    shape: Callable[..., Sequence[int]],
    forward: Callable[..., Tensor],
    backward: Callable[..., Sequence[Tensor | None]],
    reference: Callable[..., Tensor],
) -> Callable[..., Tensor]:
    """Make an operator of its kernels.

    Args:
        name: of the operator.
        schema: its arguments, as `torch.library` writes them; the first one is a tensor.
        shape: of the result, from the arguments.
        forward: the result, from the arguments.
        backward: the gradients of all arguments that are tensors, from the result's gradient and the arguments.
        reference: the definition in plain PyTorch, for second derivatives.
    """
    tensor = [argument.strip().startswith("Tensor") for argument in schema.split(",")]

    def split(arguments):
        return (
            [a for a, is_tensor in zip(arguments, tensor) if is_tensor],
            [a for a, is_tensor in zip(arguments, tensor) if not is_tensor],
        )

    def merge(tensors, options):
        tensors, options = iter(tensors), iter(options)
        return [next(tensors if is_tensor else options) for is_tensor in tensor]

    def empty_like(like, arguments):
        return unless_one([like.new_empty(() if t is None else t.shape) for t in split(arguments)[0]])

    def unless_one(found):
        return tuple(found) if len(found) > 1 else found[0]  # a schema with one result has no tuple

    def first_order(dy, *arguments):
        given = split(arguments)[0]
        gradients = backward(dy, *arguments)
        return unless_one([dy.new_empty(()) if t is None else g for t, g in zip(given, gradients, strict=True)])

    operator = torch.library.custom_op(
        f"kinn::{name}", forward, mutates_args=(), device_types="cpu", schema=f"({schema}) -> Tensor"
    )
    outputs = ", ".join("Tensor" for is_tensor in tensor if is_tensor)
    derivative = torch.library.custom_op(
        f"kinn::{name}_backward",
        first_order,
        mutates_args=(),
        device_types="cpu",
        schema=f"(Tensor dy, {schema}) -> ({outputs})",
    )
    operator.register_fake(lambda *arguments: arguments[0].new_empty(shape(*arguments)))
    derivative.register_fake(lambda dy, *arguments: empty_like(dy, arguments))

    def save(ctx, inputs, output):
        tensors, ctx.options = split(inputs)
        ctx.save_for_backward(*tensors)

    def gradients(ctx, dy):
        tensors: Any = ctx.saved_tensors
        found = derivative(dy, *merge(tensors, ctx.options))
        found = (found,) if isinstance(found, Tensor) else found
        return tuple(merge([None if t is None else g for t, g in zip(tensors, found)], [None] * len(ctx.options)))

    def save_first_order(ctx, inputs, output):
        tensors, ctx.options = split(inputs[1:])
        ctx.save_for_backward(inputs[0], *tensors)

    def second_order(ctx, *given):
        further = torch.is_grad_enabled()  # third derivatives are wanted: the graph goes on

        def apart(t):
            return t.view_as(t) if further and t.requires_grad else t.detach().requires_grad_()

        dy, *tensors = (None if t is None else apart(t) for t in ctx.saved_tensors)
        of = [t for t in tensors if t is not None]
        with torch.enable_grad():
            y = reference(*merge(tensors, ctx.options))
            first = torch.autograd.grad(y, of, dy, create_graph=True)
            taken = [g for t, g in zip(tensors, given) if t is not None]
            pairs = [(f, g) for f, g in zip(first, taken) if g is not None and f.requires_grad]
            leaves: list[Any] = [dy, *of]
            found = torch.autograd.grad(
                [f for f, _ in pairs], leaves, [g for _, g in pairs], allow_unused=True, create_graph=further
            )
        by_leaf = dict(zip(map(id, leaves), found))
        second = [None if t is None else by_leaf[id(t)] for t in tensors]
        return (by_leaf[id(dy)], *merge(second, [None] * len(ctx.options)))

    operator.register_autograd(gradients, setup_context=save)
    derivative.register_autograd(second_order, setup_context=save_first_order)
    return operator


def padded(size: int, multiple: int = TILE) -> int:
    """`size` rounded up."""
    return -(-size // multiple) * multiple


def blocks_of(rows: int, chunk: int) -> int:
    """Blocks of positions to sum gradients in: enough to even out the threads' speeds, each worth its own sums."""
    return max(1, min(8 * torch.get_num_threads(), rows // (4 * chunk)))


def addresses_of(*tensors: Tensor) -> list[int]:
    """Where tensors begin."""
    return [t.data_ptr() for t in tensors]


def in_vectors(*tensors: Tensor | None) -> tuple[list[int], list[Tensor | None]]:
    """Addresses of parameters whose rows are padded with zeros to whole vectors, and what keeps them alive."""
    kept = [None if t is None else F.pad(t, (0, -t.shape[-1] % TILE)).contiguous() for t in tensors]
    return [address(t) for t in kept], kept
