"""Measuring time: in turns, so that a change of the machine's load meets all contenders alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch


def take_turns(steps: Mapping[str, Callable[[], Any]], repeats: int, *, warm_up: int = 1) -> dict[str, list[float]]:
    """Call every step in turn, `repeats` times after `warm_up` calls that do not count.

    Returns:
        the seconds of each call, by the step's name. On a GPU a call ends when the device has done its work.

    >>> {name: len(seconds) for name, seconds in take_turns({"a": list, "b": dict}, 3).items()}
    {'a': 3, 'b': 3}
    """
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for run in range(warm_up + repeats):
        for name, step in steps.items():
            _finish()
            start = time.perf_counter()
            step()
            _finish()
            if run >= warm_up:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def summary(seconds: list[float]) -> dict[str, Any]:
    """Median, minimum and quartiles in seconds, and the number of runs."""
    low, _, high = statistics.quantiles(seconds, n=4) if len(seconds) > 1 else (seconds[0],) * 3
    return {
        "median_s": statistics.median(seconds), "min_s": min(seconds), "quartiles_s": [low, high], "runs": len(seconds),
    }  # fmt: skip


def _finish() -> None:
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()
