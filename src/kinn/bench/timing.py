"""Measuring time: in turns, so that a change of the machine's load meets all contenders alike."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch


def take_turns(
    steps: Mapping[str, Callable[[], Any]],
    repeats: int,
    *,
    warm_up: int = 1,
    least: float = 0.0,
    budget: float = float("inf"),
) -> dict[str, list[float]]:
    """Let every step take its turn, `repeats` times after `warm_up` turns that do not count.

    Args:
        steps: by name.
        repeats: turns that count.
        warm_up: turns before them, at least 1.
        least: seconds that a turn lasts at least: short steps are called again and again, as in a training, so that
            none is measured with the caches that another one has left.
        budget: seconds after which a step takes no further turn, once three have counted, nor one that does not count.

    Returns:
        the seconds of one call in each turn, by the step's name. On a GPU a turn ends when the device's work is done.

    >>> {name: len(seconds) for name, seconds in take_turns({"a": list, "b": dict}, 3).items()}
    {'a': 3, 'b': 3}
    """
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    calls, spent = dict.fromkeys(steps, 1), dict.fromkeys(steps, 0.0)
    for turn in range(warm_up + repeats):
        for name, step in steps.items():
            if spent[name] > budget and (turn < warm_up or len(seconds[name]) >= 3):
                continue
            _finish()
            start = time.perf_counter()
            for _ in range(calls[name]):
                step()
            _finish()
            spent[name] += (passed := time.perf_counter() - start)
            one = passed / calls[name]
            if turn >= warm_up:
                seconds[name].append(one)
            else:
                calls[name] = max(1, math.ceil(least / one))
    return seconds


def summary(seconds: list[float]) -> dict[str, Any]:
    """Median, minimum and quartiles in seconds, and the number of runs."""
    low, _, high = statistics.quantiles(seconds, n=4, method="inclusive") if len(seconds) > 1 else (seconds[0],) * 3
    return {
        "median_s": statistics.median(seconds), "min_s": min(seconds), "quartiles_s": [low, high], "runs": len(seconds),
    }  # fmt: skip


def _finish() -> None:
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()
