"""What else computes a selective scan with its gradients: functions of `x, dt, a, B, C, D` that give `y`, by peers.

All of them inject to first order, as Mamba does. Each function here imports its peer when it is called.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def _terms(x: Tensor, dt: Tensor, a: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
    """What every step multiplies the state by and adds to it, `(b, l, d, n)` each."""
    return torch.exp(-dt.unsqueeze(-1) * a), (dt * x).unsqueeze(-1) * B.unsqueeze(2)


def _read(h: Tensor, C: Tensor, D: Tensor, x: Tensor) -> Tensor:
    return (h @ C.unsqueeze(-1)).squeeze(-1) + D * x


def stored_loop() -> Callable[..., Any]:
    """Coefficients of all steps first, then a loop over them: the manner of `selective_scan_ref` in mamba-ssm."""

    def scan(x, dt, a, B, C, D):
        retain, added = _terms(x, dt, a, B)
        h, outputs = torch.zeros_like(added[:, 0]), []
        for t in range(x.shape[1]):
            h = retain[:, t] * h + added[:, t]
            outputs.append(torch.einsum("bdn,bn->bd", h, C[:, t]))
        return torch.stack(outputs, 1) + D * x

    return scan


def mambapy() -> Callable[..., Any]:
    """The parallel scan of mambapy."""
    pscan = importlib.import_module("mambapy.pscan").pscan

    def scan(x, dt, a, B, C, D):
        return _read(pscan(*_terms(x, dt, a, B)), C, D, x)

    return scan


def associative() -> Callable[..., Any]:
    """PyTorch's own scan of an associative operation, compiled."""
    operation = importlib.import_module("torch._higher_order_ops.associative_scan").associative_scan
    dynamo: Any = importlib.import_module("torch._dynamo.config")
    dynamo.recompile_limit = max(64, dynamo.recompile_limit)  # every shape is compiled, and a small one for its check

    def join(left, right):
        return left[0] * right[0], right[0] * left[1] + right[1]

    def scan(x, dt, a, B, C, D):
        _, h = operation(join, _terms(x, dt, a, B), 1, combine_mode="generic")
        return _read(h, C, D, x)

    return torch.compile(scan, dynamic=False)


def transformers() -> Callable[..., Any]:
    """What Mamba's mixer in transformers falls back to without its kernels."""
    module = importlib.import_module("transformers.models.mamba.modeling_mamba")
    if not hasattr(module, "mamba_selective_scan"):
        raise ImportError("its scan is not a function of its own before transformers 5")

    def scan(x, dt, a, B, C, D):
        x, dt, B, C = (t.transpose(1, 2) for t in (x, dt, B, C))
        return module.mamba_selective_scan(x, dt, -a, B, C, D=D).transpose(1, 2)

    return scan


def mamba_ssm() -> Callable[..., Any]:
    """The CUDA kernel of mamba-ssm."""
    function = importlib.import_module("mamba_ssm.ops.selective_scan_interface").selective_scan_fn

    def scan(x, dt, a, B, C, D):
        x, dt, B, C = (t.transpose(1, 2) for t in (x, dt, B, C))  # copied by the function unless steps lie last
        return function(x, dt, -a, B, C, D=D).transpose(1, 2)

    return scan


def hgrn() -> Callable[..., Any]:
    """The recurrence `h[t] = exp(g[t]) h[t-1] + x[t]` of flash-linear-attention: a scan of one potential."""
    function = importlib.import_module("fla.ops.hgrn").chunk_hgrn

    def scan(x, dt, a, B, C, D):
        if a.shape[1] != 1:
            raise ValueError(f"it has one potential per channel, not {a.shape[1]}")
        h, _ = function(dt * x * B, -dt * a[:, 0])
        return h * C + D * x

    return scan
