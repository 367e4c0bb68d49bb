"""The operators on the CPU: numba kernels behind `torch.library` operators."""

from kinn.ops.cpu.branches import BRANCH_MOST_WEIGHTS, evolution_cpu, evolution_fits, gate_cpu
from kinn.ops.cpu.cascade import cascade_cpu, cascade_fits
from kinn.ops.cpu.compiled import unavailable
from kinn.ops.cpu.filters import filtered_cpu
from kinn.ops.cpu.fused import kernels_fit
from kinn.ops.cpu.mix import mix_cpu
from kinn.ops.cpu.mlp import MLP_MOST_WEIGHTS, mlp_cpu
from kinn.ops.cpu.scan import scan_cpu

__all__ = [
    "BRANCH_MOST_WEIGHTS",
    "MLP_MOST_WEIGHTS",
    "cascade_cpu",
    "cascade_fits",
    "evolution_cpu",
    "evolution_fits",
    "filtered_cpu",
    "gate_cpu",
    "kernels_fit",
    "mix_cpu",
    "mlp_cpu",
    "scan_cpu",
    "unavailable",
]
