"""The operators on the CPU: numba kernels behind `torch.library` operators."""

from kinn.ops.cpu.cascade import cascade_cpu, cascade_fits
from kinn.ops.cpu.compiled import unavailable
from kinn.ops.cpu.mlp import mlp_cpu, mlp_fits
from kinn.ops.cpu.scan import scan_cpu

__all__ = ["cascade_cpu", "cascade_fits", "mlp_cpu", "mlp_fits", "scan_cpu", "unavailable"]
