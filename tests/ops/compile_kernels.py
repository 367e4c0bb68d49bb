"""Compile the Triton kernels for NVIDIA GPUs of compute capability 8.0 and 9.0, without one.

    python tests/ops/compile_kernels.py

Prints each kernel with the size of its binary, the shared memory of a program, and the bytes that a thread spills where
the tool that counts them came with Triton. Run in a process of its own: kernels are either compiled or interpreted.
"""

from __future__ import annotations

import re
import subprocess
import tempfile

import torch
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia import compiler
from triton.compiler import ASTSource

from kinn.ops.path import Path
from kinn.ops.triton import _cascade_kernels, _kernels
from kinn.ops.triton.cascade import cascade_options
from kinn.ops.triton.scan import kernel_options

INPUTS = ("x", "dt", "B", "C", "dy", "ddt")  # of any floating-point type
POINTER = {tl.float32: "*fp32", tl.float64: "*fp64", tl.bfloat16: "*bf16"}
OTHERS = ("a", "D", "start", "state", "kept", "ends", "total", "da", "dB", "dC", "dD", "dstart", "projection", "lift",
          "bias", "states", "drives", "dprojection", "dlift", "dbias")  # fmt: skip
HARDWARE = ("num_warps", "num_stages", "maxnreg", "enable_fp_fusion")


def compile_kernel(kernel, capability: int, given, options: dict, narrow: tuple[str, ...]) -> str:
    """Sizes of a kernel whose inputs, and outputs in `narrow`, have the type `given`.

    Of the small sizes in double precision every number that Triton makes a constant where it is one, is one.
    """
    ones = given == tl.float64 and options["BLOCK_D"] <= 8
    constants = {k: v for k, v in options.items() if k in kernel.arg_names}
    signature = {}
    for name in kernel.arg_names:
        if name in constants:
            signature[name] = "constexpr"
        elif name in INPUTS or name in narrow:
            signature[name] = POINTER[given]
        elif name in OTHERS or name in ("y", "dx"):
            signature[name] = POINTER[options["TYPE"]]
        elif name.startswith("scale"):
            signature[name] = "fp32"
        elif ones and name not in kernel.do_not_specialize:
            signature[name], constants[name] = "constexpr", 1
        else:
            signature[name] = "i32"
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
    target = GPUTarget("cuda", capability, 32)
    compiled = triton.compile(source, target=target, options={k: v for k, v in options.items() if k in HARDWARE})
    binary = compiled.asm["cubin"]
    return f"{len(binary)} bytes, {compiled.metadata.shared} shared, {spilled(binary)} spilled"


def spilled(binary: bytes) -> int:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        try:
            tool = triton.knobs.nvidia.cuobjdump.path
            usage = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
        except (AttributeError, OSError, RuntimeError, subprocess.CalledProcessError):
            return -1
    return max(map(int, re.findall(r"STACK:(\d+)", usage)), default=-1)


def main() -> None:
    ways = {"ZOH": True, "START": True, "KEEP": True, "SKIP": True}
    scans = [
        (40, 16, tl.float32, torch.float32),
        (192, 1, tl.bfloat16, torch.float32),
        (5, 3, tl.float64, torch.float64),
    ]
    cascades = [
        (40, 16, 2, tl.float32, torch.float32, {}),
        (8, 1, 6, tl.bfloat16, torch.float32, {"JOINED": False, "SERIES": False}),
        (5, 6, 5, tl.float64, torch.float64, {"ROUTES": 1, "ZOH": False, "KEEP": False}),
        (40, 16, 2, tl.float64, torch.float64, {}),  # products of few rows
    ]
    compiler.min_dot_size = lambda target: lambda left, right: (1, 1, 16)  # as in Triton 3.5 to 3.7
    for capability, kinds in ((80, 1), (90, 4)):
        for d, n, given, dtype in scans[:kinds]:
            for which in ("forward", "backward"):
                path = Path(1, 64, 1, True, False)
                options = kernel_options(d, n, path, dtype, which)
                options = {**options, **ways, "ADJOINT": which == "backward", "AHEAD": 4}
                piece = kernel_options(d, n, path, dtype, "forward")["PIECE"]  # of the ends, both ways
                # what enters segments: nothing in it is new to sm_80, or to half precision
                enter = ("local_ends", "carry") if capability == 90 and given != tl.bfloat16 else ()
                for name in (which, *enter):
                    changed = {"PIECE": piece} if name in enter else {}
                    kernel = getattr(_kernels, name)
                    sizes = compile_kernel(kernel, capability, given, {**options, **changed}, ("y", "dx"))
                    print(f"sm_{capability} {name:10} d {d:3} n {n:2} {given}: {sizes}")
        for d, n, rank, given, dtype, changes in cascades[:kinds]:
            for which in ("forward", "backward"):
                options = {"ROUTES": 4, "JOINED": True, "SERIES": True, "ZOH": True, "KEEP": True, **changes}
                options |= cascade_options(2, d, n, rank, dtype, which)
                sizes = compile_kernel(getattr(_cascade_kernels, which), capability, given, options, ())
                print(f"sm_{capability} cascade's {which:10} d {d:3} n {n:2} {given}: {sizes}")


if __name__ == "__main__":
    main()
