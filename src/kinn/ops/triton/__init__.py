"""The operators on the GPU: Triton kernels behind `torch.library` operators. Triton is imported when they first run."""

from kinn.ops.triton.available import interpreted, unavailable
from kinn.ops.triton.scan import scan_triton

__all__ = ["interpreted", "scan_triton", "unavailable"]
