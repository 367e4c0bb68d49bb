"""Where and with what a result was obtained, and the file that records it."""

from __future__ import annotations

import json
import math
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from kinn._version import __version__
from kinn.files import write_text

SCHEMA = 1  # of result records


def hardware() -> dict[str, Any]:
    """The machine: `cpu` (its name), `cores` (usable), `threads` (of PyTorch), `gpu` (name or None)."""
    return {
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def versions() -> dict[str, str]:
    """Versions of Python, this library and those that its numbers depend on."""
    found = {"kinn": __version__, "python": platform.python_version()}
    for package in ("torch", "numba", "numpy", "lightning"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def date() -> str:
    """Now, in UTC, to the second: `2026-01-31T12:00:00Z`."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def reset_peak_memory() -> None:
    """Start counting `peak_memory` anew, where the system allows it (Linux, CUDA)."""
    if torch.cuda.is_initialized():  # asking anything else would take a context on the GPU, also for a run on the CPU
        torch.cuda.reset_peak_memory_stats()
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def peak_memory() -> dict[str, int]:
    """Largest memory in bytes since `reset_peak_memory` (else since the process began).

    Returns:
        `peak_rss_bytes` of this process, and `peak_gpu_bytes` where it has used a CUDA device.
    """
    found = {"peak_rss_bytes": _peak_rss()}
    if torch.cuda.is_initialized():
        found["peak_gpu_bytes"] = torch.cuda.max_memory_allocated()
    return found


def command_line(words: Sequence[str]) -> str:
    """Words as they are typed, quoted where the machine's shell needs it.

    Example:
        >>> command_line(["kinn", "evaluate", "my file.h5"])  # doctest: +SKIP
        "kinn evaluate 'my file.h5'"
    """
    return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)


def write_record(path: str | Path, record: Mapping[str, Any]) -> None:
    """Write a result as JSON, in one piece. NaN and infinities, which JSON lacks, become null.

    Args:
        path: of the file.
        record: the result; tensors, paths and tuples become lists and strings. `schema`, `hardware`, `versions` and
            `date` are added.

    Raises:
        TypeError: if a value has no JSON form.
        OSError: if the file cannot be written.
    """
    where = {"hardware": hardware(), "versions": versions(), "date": date()}
    write_text(path, json.dumps(plain({"schema": SCHEMA, **record, **where}), indent=1, allow_nan=False) + "\n")


def plain(value: Any) -> Any:
    """The same value as plain JSON types: NaN and infinities become None.

    Example:
        >>> plain({"a": (1, float("nan")), "b": torch.ones(2)})
        {'a': [1, None], 'b': [1.0, 1.0]}
    """
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Path):
        return str(value)
    return value


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    told: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        told.setdefault(name.strip(), value.strip())
    if "model name" not in told:
        return platform.processor() or platform.machine()
    # A virtual machine may call very different processors "AMD EPYC".
    numbers = [f"{name} {told[key]}" for name, key in (("family", "cpu family"), ("model", "model")) if key in told]
    return f"{told['model name']} ({', '.join(numbers)})" if numbers else told["model name"]


def _peak_rss() -> int:
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        import resource
    except ImportError:  # Windows
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
