"""How much a backbone computes for an image, in the units in which its field reports it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from kinn.models.vision.backbone import KINN
from kinn.nn import KirchhoffBlock, KirchhoffCell

__all__ = ["multiply_adds"]

_NORM = 5  # for each number


def multiply_adds(model: KINN, size: tuple[int, int] = (224, 224)) -> int:
    """Multiply-adds for one image, as VMamba counts them and its field prints them as "FLOPs".

    One for each multiply-add of convolutions and linear maps, `9 L D N + L D` for every scan of `L` positions, `D`
    channels and `N` potentials, and 5 for every number that a layer norm gives, as fvcore's counter has it. Activations
    and gates are not counted.

    Args:
        model: the backbone.
        size: height and width of the image.

    >>> model = KINN()
    >>> round(multiply_adds(model) / 1e9, 3)
    4.899
    """
    total = 0

    def count(module: nn.Module, inputs: Any, output: Any) -> None:
        nonlocal total
        if isinstance(module, KirchhoffBlock):
            total += inputs[0].shape[1:-1].numel() * _per_position(module)
        elif isinstance(module, nn.Conv2d):
            total += output.shape[2:].numel() * module.weight.numel()
        elif isinstance(module, nn.LayerNorm):
            total += _NORM * output.numel()
        elif isinstance(module, nn.Linear):
            total += output.shape[1:-1].numel() * module.weight.numel()

    within = {id(part) for block in model.modules() if isinstance(block, KirchhoffBlock) for part in block.modules()}
    counted = [m for m in model.modules() if isinstance(m, KirchhoffBlock) or id(m) not in within]
    handles = [module.register_forward_hook(count) for module in counted]
    mode = model.training
    try:
        like = next(model.parameters())
        with torch.no_grad():
            model.eval()(torch.zeros(1, model.in_chans, *size, device=like.device, dtype=like.dtype))
    finally:
        model.train(mode)
        for handle in handles:
            handle.remove()
    return total


def _per_position(block: KirchhoffBlock) -> int:
    """Multiply-adds of a block for one position of its grid: every weight once, but for what scans cost."""
    total = block.conv.weight.numel()
    for module in block.modules():
        if isinstance(module, nn.Linear):
            total += module.weight.numel()
        elif isinstance(module, nn.LayerNorm):
            total += _NORM * module.weight.numel()
        elif isinstance(module, KirchhoffCell):
            total += 9 * module.A_log.numel() + module.D.numel()
    return total
