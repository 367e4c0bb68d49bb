"""The figures of speed draw what the records hold."""

from __future__ import annotations

import io

from kinn.report.speed import draw_scaling, draw_scans


def svg(figure) -> str:
    file = io.BytesIO()
    figure.savefig(file, format="svg")
    return file.getvalue().decode()


def test_scans():
    timed = {"median_s": 2e-3, "quartiles_s": [1e-3, 3e-3]}
    contenders = {"kinn": timed, "peer": {"reason": "absent"}}
    results = [
        {"name": "one", "shape": [1, 2, 3, 4], "least_s": 1e-4, "contenders": contenders},
        {"name": "two", "shape": [5, 6, 7, 8], "least_s": 1e-4, "contenders": {"kinn": timed, "peer": timed}},
    ]
    figure = draw_scans({"results": results})
    (axes,) = figure.axes
    assert sorted(round(bar.get_width(), 9) for bar in axes.patches) == [2.0, 2.0, 2.0]
    drawn = svg(figure)
    assert all(word in drawn for word in ("1 x 2 x 3, N 4", "5 x 6 x 7, N 8", "kinn", "the machine's limit"))


def test_scaling():
    results = {name: {"sizes": [1, 2, 4], "median_s": [1, 2, 4], "exponent": 1.0} for name in ("length", "cells")}
    figure = draw_scaling({"results": results})
    assert [axes.get_xlabel() for axes in figure.axes] == ["length", "cells"]
    guide, measured = figure.axes[0].lines
    assert list(guide.get_ydata()) == list(measured.get_ydata()) == [1000, 2000, 4000]
    assert "slope 1.00" in svg(figure)
