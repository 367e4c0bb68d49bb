"""Kirchhoff-Inspired Neural Networks: sequence and field models whose layers are RC circuits.

Equations and symbols: docs/theory.md. Names are imported on first use, so that `kinn --help` does not load PyTorch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from kinn._timm import register_when_loaded
from kinn._version import __version__

if TYPE_CHECKING:
    from kinn.circuit import Bank, Cascade, RCNode
    from kinn.models import FKNO, FNO, UKNO
    from kinn.nn import KirchhoffBlock, KirchhoffCell
    from kinn.ops import grid_scan, selective_scan
    from kinn.train import load_model, save_model

__all__ = [
    "FKNO",
    "FNO",
    "UKNO",
    "Bank",
    "Cascade",
    "KirchhoffBlock",
    "KirchhoffCell",
    "RCNode",
    "__version__",
    "grid_scan",
    "load_model",
    "save_model",
    "selective_scan",
]

_HOMES = {
    "Bank": "circuit",
    "Cascade": "circuit",
    "FKNO": "models",
    "FNO": "models",
    "KirchhoffBlock": "nn",
    "KirchhoffCell": "nn",
    "RCNode": "circuit",
    "UKNO": "models",
    "grid_scan": "ops",
    "load_model": "train",
    "save_model": "train",
    "selective_scan": "ops",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'kinn' has no attribute '{name}'")
    value = getattr(importlib.import_module(f"kinn.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


register_when_loaded()
