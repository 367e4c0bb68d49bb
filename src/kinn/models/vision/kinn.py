"""The KINN and VMamba settings by name, in timm's registry.

The paper's counts (32.3 M parameters and 4.9 GFLOPs for T, 50.3 M and 8.2 G for S) do not determine its configuration:
these settings meet them, and are fitted, not recovered.
"""

from __future__ import annotations

from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model

from kinn.models.vision.backbone import KINN

__all__ = ["VMAMBA", "kinn_base", "kinn_nano", "kinn_small", "kinn_tiny"]

#: Arguments that make KINN's block VMamba's (arXiv 2401.10166): one cell, first-order injection, no gate.
VMAMBA: dict[str, Any] = {"order": 1, "injection": "euler", "gate": False, "expand": 2.0, "mlp_ratio": 4.0}

_CFG = {
    "url": "",
    "num_classes": 1000,
    "input_size": (3, 224, 224),
    "pool_size": (7, 7),
    "crop_pct": 0.875,
    "interpolation": "bicubic",
    "mean": IMAGENET_DEFAULT_MEAN,
    "std": IMAGENET_DEFAULT_STD,
    "first_conv": "stem.down1.conv",
    "classifier": "head.fc",
    "license": "apache-2.0",
    "paper_ids": "arXiv:2603.23977",
}
default_cfgs = generate_default_cfgs(
    {
        "kinn_tiny.untrained": _CFG,
        "kinn_small.untrained": _CFG,
        "kinn_base.untrained": _CFG,
        "kinn_nano.untrained": {**_CFG, "input_size": (3, 64, 64), "pool_size": (2, 2)},
    }
)


def _create(variant: str, pretrained: bool, settings: dict[str, Any], given: dict[str, Any]) -> KINN:
    arguments = {**settings, **given}
    stages = tuple(range(len(arguments["depths"])))
    return build_model_with_cfg(
        KINN, variant, pretrained, feature_cfg={"out_indices": stages, "flatten_sequential": True}, **arguments
    )


@register_model
def kinn_tiny(pretrained: bool = False, **kwargs: Any) -> KINN:
    """KINN-T: 32.3 M parameters, 4.9 G multiply-adds at 224 x 224."""
    return _create("kinn_tiny", pretrained, {"depths": (3, 2, 6, 3), "dims": (96, 192, 384, 768)}, kwargs)


@register_model
def kinn_small(pretrained: bool = False, **kwargs: Any) -> KINN:
    """KINN-S: 50.3 M parameters, 8.2 G multiply-adds at 224 x 224."""
    return _create("kinn_small", pretrained, {"depths": (2, 2, 18, 3), "dims": (96, 192, 384, 768)}, kwargs)


@register_model
def kinn_base(pretrained: bool = False, **kwargs: Any) -> KINN:
    """KINN-B: 88.7 M parameters, 14.4 G multiply-adds at 224 x 224."""
    return _create("kinn_base", pretrained, {"depths": (2, 2, 18, 3), "dims": (128, 256, 512, 1024)}, kwargs)


@register_model
def kinn_nano(pretrained: bool = False, **kwargs: Any) -> KINN:
    """KINN-N: 1.0 M parameters, for small images and for tests."""
    return _create("kinn_nano", pretrained, {"depths": (1, 1, 2, 1), "dims": (24, 48, 96, 192)}, kwargs)
