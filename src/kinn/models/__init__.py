"""Neural operators, tensor to tensor: `(B, C_in, *grid)` to `(B, C_out, *grid)`; image backbones, which need timm."""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

from kinn.models.cno import CNO
from kinn.models.fkno import FKNO
from kinn.models.fno import FNO
from kinn.models.peers import NeuralOperatorFNO, NeuralOperatorUNO
from kinn.models.registry import build, model_names, register_model
from kinn.models.ukno import UKNO, UKNO_DEEP, UKNO_SHALLOW
from kinn.models.unet import UNet

if TYPE_CHECKING:
    from kinn.models.vision import KINN, kinn_base, kinn_nano, kinn_small, kinn_tiny

__all__ = [
    "CNO",
    "FKNO",
    "FNO",
    "KINN",
    "UKNO",
    "UKNO_DEEP",
    "UKNO_SHALLOW",
    "NeuralOperatorFNO",
    "NeuralOperatorUNO",
    "UNet",
    "build",
    "kinn_base",
    "kinn_nano",
    "kinn_small",
    "kinn_tiny",
    "model_names",
    "register_model",
]

_NEED_TIMM = ("KINN", "kinn_base", "kinn_nano", "kinn_small", "kinn_tiny")


def __getattr__(name: str) -> Any:
    if name not in _NEED_TIMM:
        raise AttributeError(f"module 'kinn.models' has no attribute '{name}'")
    if importlib.util.find_spec("timm") is None:
        raise ImportError(f"kinn.models.{name} needs timm: pip install 'kinn-torch[vision]'")
    return getattr(importlib.import_module("kinn.models.vision"), name)
