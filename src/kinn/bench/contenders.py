"""Ways to compute a selective scan with its gradients: ours, and those of peers where they are installed."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kinn.ops import selective_scan, zoh


class Contender(NamedTuple):
    """A function of `x, dt, a, B, C, D` as :func:`kinn.ops.selective_scan` takes them, that gives `y`.

    `prepare` returns it, or raises with the reason why it cannot run here. `devices` are the kinds that it runs on.
    With more than `most` potentials in all (`b l d n`) or longer sequences it would take minutes, or all of the memory.
    """

    prepare: Callable[[], Callable[..., Any]]
    devices: tuple[str, ...] = ("cpu", "cuda")
    most: float = float("inf")
    longest: float = float("inf")


def _ours(backend: str) -> Callable[[], Callable[..., Any]]:
    def prepare() -> Callable[..., Any]:
        ones = torch.ones(1, 1, 1, device="cuda" if backend == "triton" else "cpu")
        selective_scan(ones, ones, ones[0], ones, ones, backend=backend)  # raises where it cannot run
        return functools.partial(selective_scan, backend=backend)

    return prepare


def _terms(x: Tensor, dt: Tensor, a: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
    """What every step multiplies the state by and adds to it, `(b, l, d, n)` each."""
    retain, inject = zoh(dt.unsqueeze(-1), a)
    return retain, inject * B.unsqueeze(2) * x.unsqueeze(-1)


def _read(h: Tensor, C: Tensor, D: Tensor, x: Tensor) -> Tensor:
    return torch.einsum("bldn,bln->bld", h, C) + D * x


def _stored_loop() -> Callable[..., Tensor]:
    """Coefficients of all steps first, then a loop over them: the manner of `selective_scan_ref` in mamba-ssm."""

    def scan(x, dt, a, B, C, D):
        retain, added = _terms(x, dt, a, B)
        h, outputs = torch.zeros_like(added[:, 0]), []
        for t in range(x.shape[1]):
            h = retain[:, t] * h + added[:, t]
            outputs.append(torch.einsum("bdn,bn->bd", h, C[:, t]))
        return torch.stack(outputs, 1) + D * x

    return scan


def _mambapy() -> Callable[..., Tensor]:
    pscan = importlib.import_module("mambapy.pscan").pscan

    def scan(x, dt, a, B, C, D):
        return _read(pscan(*_terms(x, dt, a, B)), C, D, x)

    return scan


def _associative() -> Callable[..., Tensor]:
    """PyTorch's own scan of an associative operation, compiled."""
    operation = importlib.import_module("torch._higher_order_ops.associative_scan").associative_scan

    def join(left, right):
        return left[0] * right[0], right[0] * left[1] + right[1]

    def scan(x, dt, a, B, C, D):
        _, h = operation(join, _terms(x, dt, a, B), 1, combine_mode="generic")
        return _read(h, C, D, x)

    return torch.compile(scan, dynamic=False)


def _mamba_ssm() -> Callable[..., Tensor]:
    """Mamba's CUDA kernel. It injects to first order; with one potential the drive can carry the difference to ours."""
    function = importlib.import_module("mamba_ssm.ops.selective_scan_interface").selective_scan_fn

    def scan(x, dt, a, B, C, D):
        if a.shape[1] > 1:
            raise ValueError(
                "it injects to first order; the exact injection can be handed to it for one potential only"
            )
        drive = x * zoh(dt, a[:, 0])[1] / dt
        u, delta, B, C = (t.transpose(1, 2).contiguous() for t in (drive, dt, B, C))
        return function(u, delta, -a, B, C).transpose(1, 2) + D * x

    return scan


CONTENDERS: dict[str, Contender] = {
    "kinn": Contender(_ours("cpu"), devices=("cpu",)),
    "kinn on the GPU": Contender(_ours("triton"), devices=("cuda",)),
    "kinn, plain loop": Contender(_ours("reference"), longest=2048),
    "stored loop (as mamba-ssm's reference)": Contender(_stored_loop, longest=2048, most=5e8),
    "mambapy": Contender(_mambapy, most=2.5e8),
    "associative_scan, compiled": Contender(_associative, most=6e7, longest=2048),
    "mamba-ssm": Contender(_mamba_ssm, devices=("cuda",)),
}


def prepare(name: str, device: torch.device) -> tuple[Callable[..., Tensor] | None, str]:
    """The contender's function, or None and the reason."""
    contender = CONTENDERS[name]
    if device.type not in contender.devices:
        return None, f"does not run on {device.type}"
    try:
        return contender.prepare(), ""
    except Exception as error:  # a peer may fail in any way; the others are still measured
        return None, reason_of(error)


def reason_of(error: Exception) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {(str(error).splitlines() or ['no message'])[0]}"
