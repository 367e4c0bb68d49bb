"""How far a function, or a model, is from the definition in float64: what is wrong is not to be timed."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from kinn.ops import use_backend


def difference(
    function: Callable[..., Any],
    tensors: Mapping[str, Tensor],
    definition: Callable[..., Any],
    *,
    floor: float = 0.0,
) -> float:
    """The largest difference of the result and all gradients, each over its largest value, from float64.

    Args:
        function: of `tensors` by name, gives one tensor.
        tensors: to differentiate by.
        definition: the same function, which is given them in float64.
        floor: gradients count as if at least so large, as a share of the largest: some vanish but for rounding.

    Raises:
        ArithmeticError: if a result or a gradient is not finite, or of another shape.
    """
    exact = _differentiate(definition, {name: _wide(tensor) for name, tensor in tensors.items()})
    got = _differentiate(function, tensors)
    if any(g.shape != e.shape or not (g.isfinite().all() and e.isfinite().all()) for g, e in zip(got, exact)):
        raise ArithmeticError("wrong: a result or a gradient is not finite, or of another shape")
    scales = [e.abs().max().item() for e in exact]
    scales[1:] = [max(scale, floor * max(scales[1:])) for scale in scales[1:]]
    return max(_ratio((g - e).abs().max().item(), scale) for g, e, scale in zip(got, exact, scales))


def model_difference(model: nn.Module, x: Tensor) -> float:
    """The same for a model and the gradients of its input and weights, from itself in float64 on the reference.

    Args:
        model: in the mode in which it is to be timed.
        x: an input, small enough for loops in Python.
    """
    weights = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    definition = copy.deepcopy(model).double()

    def exact(x: Tensor, **weights: Tensor) -> Tensor:
        with use_backend("reference"):
            return functional_call(definition, weights, x)

    return difference(lambda x, **weights: functional_call(model, weights, x), {"x": x, **weights}, exact, floor=1e-3)


def refuse_wrong(what: str, error: float, *, most: float) -> None:
    """End a script before it times what is wrong.

    Args:
        what: is to be timed.
        error: its difference from float64.
        most: how far rounding may bring it.

    Raises:
        SystemExit: the difference is larger.
    """
    if error > most:
        raise SystemExit(f"{what} differs by {error:.1e} from float64: nothing is timed")


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.complex128 if tensor.is_complex() else torch.float64)


def _ratio(gap: float, scale: float) -> float:
    return gap / scale if scale else math.inf if gap else 0.0


def _differentiate(function: Callable[..., Any], tensors: Mapping[str, Tensor]) -> list[Tensor]:
    leaves = {name: tensor.detach().requires_grad_() for name, tensor in tensors.items()}
    y = function(**leaves)
    given = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y)
    return [y.detach(), *torch.autograd.grad(y, list(leaves.values()), given, materialize_grads=True)]
