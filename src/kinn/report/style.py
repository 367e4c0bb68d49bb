"""How figures look: themes for light and dark pages, colour-blind-safe series, labels beside the lines they name."""

from __future__ import annotations

import base64
import io
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from kinn.report.records import Variant

WIDTH = 7.2
"""Width of every figure in inches: a text column of a page, so that all are scaled alike."""

FONT = 8.0

LABEL = 22
"""Letters to a line of a label."""

DASHES: dict[str, tuple[Any, ...]] = {
    "ours": ("solid", (0, (9, 2)), (0, (9, 2, 1.5, 2)), (0, (9, 2, 1.5, 2, 1.5, 2))),
    "baseline": ((0, (4, 1.6)), (0, (1.2, 1.2)), (0, (4, 1.6, 1.2, 1.6)), (0, (7, 3)), (0, (2.5, 1))),
}
MARKERS = {"ours": "oD^v*", "baseline": "sXPdh"}


@dataclass(frozen=True)
class Theme:
    """Colours for one background. The series colours are Okabe and Ito's, in the order of contrast."""

    ink: str
    faint: str
    baseline: tuple[str, ...]
    ours: tuple[str, ...]
    background: str = "none"


LIGHT = Theme(
    ink="#1f2328",
    faint="#d5d9de",
    baseline=("#1f2328", "#6a7078", "#8a9098"),
    ours=("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"),
)
DARK = Theme(
    ink="#dfe3e8",
    faint="#3a4048",
    baseline=("#dfe3e8", "#9aa1a9", "#737a82"),
    ours=("#56b4e9", "#e69f00", "#009e73", "#cc79a7", "#f0e442", "#d55e00"),
)
PAPER = Theme(ink="#000000", faint="#cccccc", baseline=LIGHT.baseline, ours=LIGHT.ours, background="#ffffff")


_UNDATED = {"svg": "Date", "png": "Software", "pdf": "CreationDate"}
"""Kinds of files, and what they would say of when or with what they were written."""


@dataclass(frozen=True)
class Picture:
    """A figure that can be drawn in any theme, with the words that belong to it."""

    name: str
    kind: Literal["svg", "png"]  # on the page
    caption: str
    alt: str
    draw: Callable[[Theme], Figure]

    def render(self, theme: Theme) -> bytes:
        """Draw it and return the file's bytes: the same for the same records."""
        return self.files(theme, (self.kind,))[self.kind]

    def files(self, theme: Theme, kinds: Iterable[str] = tuple(_UNDATED)) -> dict[str, bytes]:
        """Draw it once and return the bytes of several files by their kind."""
        written = {}
        with mpl.rc_context(_settings(theme)):  # pyright: ignore[reportArgumentType]
            figure = self.draw(theme)
            for kind in kinds:
                buffer = io.BytesIO()
                figure.savefig(
                    buffer, format=kind, dpi=220, facecolor=theme.background, metadata={_UNDATED[kind]: None}
                )
                written[kind] = buffer.getvalue()
        return written

    def data_uri(self, theme: Theme) -> str:
        """The picture as an address that holds it."""
        mime = {"svg": "image/svg+xml", "png": "image/png"}[self.kind]
        return f"data:{mime};base64,{base64.b64encode(self.render(theme)).decode()}"


def _settings(theme: Theme) -> dict[str, Any]:
    return {
        "font.family": "DejaVu Sans",
        "font.size": FONT,
        "text.color": theme.ink,
        "text.parse_math": False,  # names come from files: a dollar sign is a dollar sign
        "axes.edgecolor": theme.ink,
        "axes.facecolor": "none",
        "axes.grid": True,
        "axes.labelcolor": theme.ink,
        "axes.linewidth": 0.6,
        "axes.spines.right": False,
        "axes.spines.top": False,
        "axes.titlelocation": "left",
        "axes.titlesize": FONT,
        "axes.axisbelow": True,
        "grid.color": theme.faint,
        "grid.linewidth": 0.5,
        "xtick.color": theme.ink,
        "ytick.color": theme.ink,
        "xtick.labelsize": FONT - 1,
        "ytick.labelsize": FONT - 1,
        "xtick.major.width": 0.6,
        "ytick.major.width": 0.6,
        "xtick.minor.size": 0,
        "ytick.minor.size": 0,
        "svg.fonttype": "path",
        "pdf.fonttype": 42,
        "svg.hashsalt": "kinn",
    }


@dataclass(frozen=True)
class Series:
    """Colour, dash and marker of one variant; the same in every figure of its experiment."""

    color: str
    dashes: Any
    marker: str

    def line(self) -> dict[str, Any]:
        """Keyword arguments for a line."""
        return {"color": self.color, "linestyle": self.dashes}


def series(variants: Iterable[Variant], theme: Theme) -> dict[str, Series]:
    """Styles by variant: ours in colour from a solid line on, baselines in ink and greys, dashed."""
    styles, counts = {}, {"ours": 0, "baseline": 0}
    for variant in variants:
        colors = theme.ours if variant.role == "ours" else theme.baseline
        dashes, markers, i = DASHES[variant.role], MARKERS[variant.role], counts[variant.role]
        styles[variant.name] = Series(colors[i % len(colors)], dashes[i % len(dashes)], markers[i % len(markers)])
        counts[variant.role] += 1
    return styles


def log_axis(axes: Axes, which: Literal["x", "y"]) -> None:
    """A logarithmic axis with labels as plain numbers, more of them where it spans less than two decades."""
    axis, limits = (axes.xaxis, axes.get_xlim()) if which == "x" else (axes.yaxis, axes.get_ylim())
    axes.set_xscale("log") if which == "x" else axes.set_yscale("log")
    decades = np.log10(limits[1] / limits[0]) if min(limits) > 0 else 9.0
    axis.set_major_locator(LogLocator(subs=log_steps(*limits), numticks=12))
    axis.set_major_formatter(FuncFormatter(lambda value, _: plain_number(value, powers=decades > 4)))
    axis.set_minor_formatter(NullFormatter())


def log_steps(low: float, high: float) -> tuple[float, ...]:
    """The ticks of a decade: more of them where a logarithmic scale spans less than two."""
    return (1.0, 2.0, 5.0) if low > 0 and high < 100 * low else (1.0,)


def plain_number(value: float, *, powers: bool = False) -> str:
    """A tick label without markup, as a power of ten if asked for or far from one.

    >>> plain_number(0.02), plain_number(1e-6), plain_number(476698)
    ('0.02', '10⁻⁶', '476,698')
    """
    if value > 0 and (powers or not 1e-4 <= value < 1e7):
        exponent = int(np.floor(np.log10(value * (1 + 1e-9))))
        digits = str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
        factor = value / 10.0**exponent
        return f"10{digits}" if abs(factor - 1) < 1e-6 else f"{factor:g}·10{digits}"
    return f"{value:,.0f}" if value >= 1000 else f"{value:g}"


def spread_apart(positions: Sequence[float], gap: float, low: float = 0.0, high: float = 1.0) -> list[float]:
    """Move positions apart to at least `gap`, in their order and as little as a few sweeps find.

    >>> [round(p, 6) for p in spread_apart([0.5, 0.5, 0.9], 0.1)]
    [0.45, 0.55, 0.9]
    """
    order = np.argsort(positions, kind="stable")
    placed = np.clip(np.asarray(positions, dtype=float)[order], low, high)
    for _ in range(200):
        short = np.maximum(gap - np.diff(placed), 0)
        if short.max(initial=0) < 1e-9:
            break
        placed[:-1] -= short / 2
        placed[1:] += short / 2
        placed += max(low - placed[0], 0) if placed[0] < low else -max(placed[-1] - high, 0)
    result = np.empty_like(placed)
    result[order] = placed
    return result.tolist()


def label_width(names: Iterable[str]) -> float:
    """Inches that the labels of `label_ends` take at the right of the axes."""
    return 0.64 + 0.068 * max(min(len(name), LABEL) for name in names)


def label_ends(
    axes: Axes, ends: Mapping[str, float], styles: Mapping[str, Series], width: float, height: float
) -> None:
    """Write each variant's name at the right end of its line, after a sample of the line itself.

    Args:
        axes: axes whose limits and scales are final.
        ends: by variant, the value where its line ends.
        styles: by variant, the line's style.
        width: width of the axes in inches.
        height: height of the axes in inches.
    """
    to_fraction = axes.transScale + axes.transLimits
    x = axes.get_xlim()[1]
    start, end, text = (1 + inches / width for inches in (0.1, 0.5, 0.56))
    true = [float(to_fraction.transform((x, value))[1]) for value in ends.values()]
    lines = {name: wrap(name, LABEL) for name in ends}
    tallest = max((line.count("\n") + 1 for line in lines.values()), default=1)
    needed, beyond = tallest * 1.35 * FONT / 72 / height, 0.06
    crowded = needed * (len(true) - 1) > 1
    room = (-beyond, 1 + beyond) if crowded else (0.0, 1.0)  # where they do not fit they touch, but none is lost
    places = spread_apart(true, min(needed, (room[1] - room[0]) / max(len(true) - 1, 1)), *room)
    for name, place in zip(ends, places):
        axes.plot([start, end], [place] * 2, **styles[name].line(), lw=1.6, transform=axes.transAxes, clip_on=False)
        axes.text(text, place, lines[name], transform=axes.transAxes, va="center", fontsize=FONT - 0.5)


def wrap(text: str, width: int) -> str:
    """Break a long name into at most two lines."""
    parts = textwrap.wrap(text, width, break_long_words=True)
    if len(parts) > 2:
        parts = [parts[0], parts[1][: max(width - 1, 1)] + "…"]
    return "\n".join(parts)
