"""Figures of speed, from the records that `kinn bench` and `benchmarks/` write."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from kinn.report.style import FONT, LIGHT, WIDTH

_SETTINGS: dict[Any, Any] = {
    "font.size": FONT,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def draw_scans(record: Mapping[str, Any]) -> Figure:
    """Time of forward and backward of every contender at every shape, and what the machine needs at least.

    Args:
        record: what `kinn bench` wrote.
    """
    results = [result for result in record["results"] if result.get("work", "scan") == "scan"]
    names = [name for name in results[0]["contenders"] if any("median_s" in r["contenders"][name] for r in results)]
    colours = dict(zip(names, itertools.cycle((LIGHT.ours[0], *LIGHT.baseline[1:], *LIGHT.ours[2:]))))
    with mpl.rc_context(_SETTINGS):
        figure = Figure(figsize=(WIDTH, 0.55 * len(results) + 0.9), layout="constrained")
        axes = figure.add_subplot()
        height = 0.8 / len(names)
        for i, result in enumerate(results):
            for j, name in enumerate(names):
                row = result["contenders"][name]
                if "median_s" not in row:
                    continue
                at = i - 0.4 + height * (j + 0.5)
                low, high = row["quartiles_s"]
                axes.barh(at, 1e3 * row["median_s"], 0.9 * height, color=colours[name], label=name)
                axes.plot([1e3 * low, 1e3 * high], [at, at], color=LIGHT.ink, linewidth=0.8)
            least = 1e3 * result["least_s"]
            axes.plot([least, least], [i - 0.42, i + 0.42], color=LIGHT.ours[1], label="the machine's limit")
        titles = [f"{r['name']}\n{' x '.join(map(str, r['shape'][:3]))}, N {r['shape'][3]}" for r in results]
        axes.set_yticks(range(len(results)), titles)
        axes.invert_yaxis()
        axes.set_xscale("log")
        axes.set_xlabel("forward and backward (ms), median and quartiles")
        axes.grid(axis="x", color=LIGHT.faint, linewidth=0.5)
        axes.set_axisbelow(True)
        handles = {label: handle for axis in figure.axes for handle, label in zip(*axis.get_legend_handles_labels())}
        figure.legend(handles.values(), handles.keys(), loc="outside upper left", ncols=3, frameon=False)
    return figure


def draw_scaling(record: Mapping[str, Any]) -> Figure:
    """Time of the cascade against each of its sizes, with a line of slope one.

    Args:
        record: what `benchmarks/cascade_scaling.py` wrote.
    """
    results = record["results"]
    with mpl.rc_context(_SETTINGS):
        figure = Figure(figsize=(WIDTH, 2.1), layout="constrained")
        panels = figure.subplots(1, len(results), sharey=True)
        for axes, (name, found) in zip(panels, results.items()):
            sizes, milliseconds = found["sizes"], [1e3 * seconds for seconds in found["median_s"]]
            guide = [milliseconds[-1] * size / sizes[-1] for size in sizes]
            axes.loglog(sizes, guide, color=LIGHT.baseline[2], linewidth=1, linestyle="--", label="linear")
            axes.loglog(sizes, milliseconds, "o-", color=LIGHT.ours[0], markersize=3.5, label="measured")
            axes.set_xticks(sizes, [f"{s // 1024}k" if s >= 1024 else str(s) for s in sizes])
            axes.minorticks_off()
            axes.set_xlabel(name)
            axes.set_title(f"slope {found['exponent']:.2f}", fontsize=FONT)
            axes.grid(color=LIGHT.faint, linewidth=0.5)
        panels[0].set_yticks([10, 20, 50, 100, 200], ["10", "20", "50", "100", "200"])
        panels[0].set_ylabel("forward and backward (ms)")
        panels[0].legend(frameon=False)
    return figure
