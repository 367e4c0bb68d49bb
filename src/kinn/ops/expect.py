"""What layers and operators expect of their arguments: compiled kernels would read past the end of what is smaller."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence


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


def expect_floating(where: str, **tensors: object) -> None:
    """Refuse, with a TypeError, the first that is not a floating-point tensor.

    >>> expect_floating("selective_scan", x=None)
    Traceback (most recent call last):
    TypeError: selective_scan: x must be a floating-point tensor, got NoneType
    """
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            kind = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
            raise TypeError(f"{where}: {name} must be a floating-point tensor, got {kind}")


def expect_tensors(where: str, device: torch.device, **expected: tuple[Tensor, Sequence[int]]) -> None:
    """Refuse the first that is not a floating-point tensor of its shape on the device, which is that of `x`."""
    for name, (tensor, shape) in expected.items():
        expect_floating(where, **{name: tensor})
        if tensor.shape != torch.Size(shape):
            raise ValueError(f"{where}: {name} must have shape {tuple(shape)}, got {tuple(tensor.shape)}")
        if tensor.device != device:
            raise ValueError(f"{where}: {name} must be on the device of x, {device}, got {tensor.device}")


def expect_at_least(where: str, least: int, **sizes: int) -> None:
    """Refuse, with a ValueError, the first size that is smaller.

    >>> expect_at_least("UNet", 1, width=32, levels=0)
    Traceback (most recent call last):
    ValueError: UNet: levels must be at least 1, got 0
    """
    for name, size in sizes.items():
        if size < least:
            raise ValueError(f"{where}: {name} must be at least {least}, got {size}")


def expect_one_of(where: str, known: Collection[object], **options: object) -> None:
    """Refuse, with a ValueError, the first option that is not among those known.

    >>> expect_one_of("KirchhoffBlock", ("series", "parallel"), wiring="ring")
    Traceback (most recent call last):
    ValueError: KirchhoffBlock: wiring must be one of 'series', 'parallel', got 'ring'
    """
    for name, option in options.items():
        if option not in known:
            raise ValueError(f"{where}: {name} must be one of {', '.join(map(repr, known))}, got {option!r}")


def expect_positive(where: str, **numbers: float) -> None:
    """Refuse, with a ValueError, the first number that is not positive, or infinite.

    >>> expect_positive("KirchhoffCell", dt_scale=-1.0)
    Traceback (most recent call last):
    ValueError: KirchhoffCell: dt_scale must be positive, got -1.0
    """
    for name, number in numbers.items():
        if not 0 < number < math.inf:
            raise ValueError(f"{where}: {name} must be positive{' and finite' * (number > 0)}, got {number}")
