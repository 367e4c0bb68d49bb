"""Functions on tensors: scans of RC nodes along sequences and grids, and cascades of them.

Arguments are checked here; what computes them is chosen in :mod:`kinn.ops.backends`.
"""

from kinn.ops.backends import use_backend
from kinn.ops.branches import evolution_branch, gated_output
from kinn.ops.cascade import cascade_scan
from kinn.ops.discretize import euler, zoh
from kinn.ops.filtered import filtered_activation
from kinn.ops.mlp import channel_mix, channel_mlp
from kinn.ops.scan import grid_scan, selective_scan

__all__ = [
    "cascade_scan",
    "channel_mix",
    "channel_mlp",
    "euler",
    "evolution_branch",
    "filtered_activation",
    "gated_output",
    "grid_scan",
    "selective_scan",
    "use_backend",
    "zoh",
]
