"""The operators on the GPU: Triton kernels behind `torch.library` operators. Triton is imported when they first run."""

from kinn.ops.triton.available import interpreted, unavailable
from kinn.ops.triton.cascade import cascade_fits_triton, cascade_triton
from kinn.ops.triton.scan import scan_triton

__all__ = ["cascade_fits_triton", "cascade_triton", "interpreted", "scan_triton", "unavailable"]
