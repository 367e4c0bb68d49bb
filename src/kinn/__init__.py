"""Kirchhoff-Inspired Neural Networks: sequence and field models whose layers are RC circuits.

Equations and symbols: docs/theory.md. The trainer, the report and the command line are imported only where used.
"""

from kinn._version import __version__
from kinn.circuit import Cascade, RCNode
from kinn.models import FKNO, FNO, UKNO
from kinn.nn import KirchhoffBlock, KirchhoffCell
from kinn.ops import grid_scan, selective_scan
from kinn.train import load_model, save_model

__all__ = [
    "FKNO",
    "FNO",
    "UKNO",
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
