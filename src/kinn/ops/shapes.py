"""Shapes that operators expect: compiled kernels would read past the end of what is smaller."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


def expect_shapes(operator: str, **given: tuple[Tensor | None, tuple[int, ...]]) -> None:
    """Compare tensors with the shapes that they must have; None is left out, and so are graphs that are compiled.

    Raises:
        ValueError: naming the operator, the argument and both shapes.

    >>> expect_shapes("gate", bias=(torch.zeros(3), (4,)))
    Traceback (most recent call last):
    ValueError: gate: expected bias of the shape (4,), got (3,)
    """
    if torch.compiler.is_compiling():
        return
    for name, (tensor, shape) in given.items():
        if tensor is not None and tuple(tensor.shape) != shape:
            raise ValueError(f"{operator}: expected {name} of the shape {shape}, got {tuple(tensor.shape)}")
