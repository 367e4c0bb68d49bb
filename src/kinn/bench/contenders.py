"""Who takes part: ours, and peers where they are installed."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from kinn.bench import cascades, peers
from kinn.ops import selective_scan


class Contender(NamedTuple):
    """A function of the arguments of a scan, or of a cascade (`work`), that gives `y`.

    `prepare` returns it, or raises with the reason why it cannot run here. `devices` are the kinds that it runs on.
    `injection` is the one it is held against. `ours` are no alternatives to ours. Sequences longer than `longest` are
    not tried, because its time grows with the square of the length. Where `steps_last`, sequences lie in memory as it
    wants them, `(b, d, l)`, so that no copy is timed.
    """

    prepare: Callable[[], Callable[..., Any]]
    devices: tuple[str, ...] = ("cpu", "cuda")
    work: str = "scan"
    injection: str = "euler"
    ours: bool = False
    longest: float = float("inf")
    steps_last: bool = False


def _ours(backend: str, injection: str = "euler") -> Callable[[], Callable[..., Any]]:
    def prepare() -> Callable[..., Any]:
        ones = torch.ones(1, 1, 1, device="cuda" if backend == "triton" else "cpu")
        selective_scan(ones, ones, ones[0], ones, ones, backend=backend)  # raises where it cannot run
        return functools.partial(selective_scan, backend=backend, injection=injection)

    return prepare


CONTENDERS: dict[str, Contender] = {
    "kinn": Contender(_ours("cpu"), devices=("cpu",), ours=True),
    "kinn, exact hold": Contender(_ours("cpu", "zoh"), devices=("cpu",), injection="zoh", ours=True),
    "kinn on the GPU": Contender(_ours("triton"), devices=("cuda",), ours=True),
    "kinn, plain loop": Contender(_ours("reference")),
    "stored loop (as mamba-ssm's reference)": Contender(peers.stored_loop, longest=2048),
    "transformers, without kernels": Contender(peers.transformers, longest=2048),
    "mambapy": Contender(peers.mambapy),
    "associative_scan, compiled": Contender(peers.associative),
    "mamba-ssm": Contender(peers.mamba_ssm, devices=("cuda",), steps_last=True),
    "HGRN of flash-linear-attention": Contender(peers.hgrn, devices=("cuda",)),
    "kinn, one operation": Contender(lambda: cascades.as_one, work="cascade", injection="zoh", ours=True),
    "kinn, cell by cell": Contender(lambda: cascades.cell_by_cell, work="cascade", injection="zoh"),
    "copied routes (as VMamba's)": Contender(lambda: cascades.copied_routes, work="cascade", injection="zoh"),
}


def prepare(name: str, device: torch.device) -> tuple[Callable[..., Any] | None, str]:
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
