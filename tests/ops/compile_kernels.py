"""Compile the scan's Triton kernels for NVIDIA GPUs of compute capability 8.0 and 9.0, without one.

    python tests/ops/compile_kernels.py

Prints each kernel with the size of its binary. Run in a process of its own: kernels are either compiled or interpreted.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from kinn.ops.path import Path
from kinn.ops.triton import _kernels
from kinn.ops.triton.scan import kernel_options

INPUTS = ("x", "dt", "B", "C", "y", "dy", "dx", "ddt")  # of any floating-point type
WIDE = ("a", "D", "start", "state", "kept", "ends", "total", "da", "dB", "dC", "dD", "dstart")  # computed in
POINTER = {tl.float32: "*fp32", tl.float64: "*fp64", tl.bfloat16: "*bf16"}


def compile_kernel(kernel, capability: int, given, options: dict) -> int:
    warps = options["num_warps"]
    constants = {k: v for k, v in options.items() if k in kernel.arg_names}
    signature = {}
    for name in kernel.arg_names:
        if name in constants:
            signature[name] = "constexpr"
        elif name in INPUTS:
            signature[name] = POINTER[given]
        else:
            signature[name] = POINTER[options["TYPE"]] if name in WIDE else "i32"
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
    target = GPUTarget("cuda", capability, 32)
    compiled = triton.compile(source, target=target, options={"num_warps": warps, "enable_fp_fusion": True})
    return len(compiled.asm["cubin"])


def main() -> None:
    ways = {"ZOH": True, "START": True, "KEEP": True, "SKIP": True}
    for capability in (80, 90):
        for d, n, given, dtype in (
            (40, 16, tl.float32, torch.float32),
            (192, 1, tl.bfloat16, torch.float32),
            (5, 3, tl.float64, torch.float64),
        ):
            for which in ("forward", "backward"):
                options = kernel_options(d, n, Path(1, 64, 1, True, False), dtype, which)
                options = {**options, **ways, "ADJOINT": which == "backward"}
                for name in (which, "local_ends", "carry"):
                    size = compile_kernel(getattr(_kernels, name), capability, given, options)
                    print(f"sm_{capability} {name:10} d {d:3} n {n:2} {given}: {size} bytes")


if __name__ == "__main__":
    main()
