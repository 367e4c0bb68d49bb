from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from kinn.report import load_records
from kinn.report.costs import place_labels
from kinn.report.sections import sections_of
from kinn.report.style import LIGHT, Series, label_ends, series, spread_apart


def pictures(records):
    """Of curves, by the end of their names."""
    (section,) = sections_of(load_records(records))
    return {p.name.rsplit("-", 1)[1]: p for p in section.pictures() if p.kind == "svg"}


def data_lines(axes):
    """Lines of data: those in the axes' own coordinates belong to labels."""
    return [line for line in axes.lines if line.get_transform() == axes.transData and len(line.get_xdata()) > 1]


def test_pictures_follow_from_what_the_records_hold(records):
    assert set(pictures(records[:2])) == {"losses", "spectrum"}
    assert set(pictures(records[2:])) == {"losses", "rollout", "spectrum"}
    for record in records[:2]:
        del record["curves"], record["fields"]
    assert pictures(records[:2]) == {}


def test_lines_are_the_curves(records):
    training, validation = pictures(records[:2])["losses"].draw(LIGHT).axes
    for axes, key in ((training, "train_loss"), (validation, "validation_loss")):
        assert axes.get_yscale() == "log"
        for line, record in zip(data_lines(axes), records):
            np.testing.assert_array_equal(line.get_ydata(), record["curves"][key])
    assert training.get_ylim() == validation.get_ylim()
    (dot,) = [line for line in validation.lines if list(line.get_xdata()) == [18] and line.get_color() == "#0072b2"]
    assert dot.get_ydata()[0] == records[1]["curves"]["validation_loss"][17]


def test_each_line_is_named_in_words(records):
    axes = pictures(records[:2])["losses"].draw(LIGHT).axes[-1]
    assert {text.get_text() for text in axes.texts} == {"UKNO K=0", "UKNO K=2"}
    assert "UKNO K=0" in pictures(records[:2])["losses"].alt


def test_only_one_kind_of_loss_and_gaps_in_it(records):
    for record in records[:2]:
        del record["curves"]["validation_loss"]
        record["curves"]["train_loss"][3] = None
    (axes,) = pictures(records[:2])["losses"].draw(LIGHT).axes
    assert all(len(line.get_xdata()) == 19 for line in data_lines(axes))


def test_every_seed_has_its_line(records):
    runs = [{**records[i], "seed": seed} for i in (0, 1) for seed in range(3)]
    picture = pictures(runs)["losses"]
    assert "One line per seed" in picture.caption
    assert len(data_lines(picture.draw(LIGHT).axes[0])) == 6


def test_styles_differ_by_more_than_colour(records):
    runs = [{**records[1], "variant": f"UKNO K={k}"} for k in (1, 2, 3)] + [records[0]]
    (experiment,) = load_records(runs)
    styles = series(experiment.variants, LIGHT).values()
    for what in ("color", "dashes", "marker"):
        assert len({getattr(style, what) for style in styles}) == 4


def test_costs_from_three_variants_on(records):
    third = {**records[1], "variant": "UKNO K=4", "parameters": 3_311_910}
    picture = pictures([*records[:2], third])["costs"]
    axes = picture.draw(LIGHT).axes
    assert [a.get_xlabel() for a in axes] == ["parameters", "training time in seconds"]
    assert {text.get_text() for text in axes[0].texts} == {"UKNO K=0", "UKNO K=2", "UKNO K=4"}
    assert [limits[0] for a in axes for limits in (a.get_xlim(), a.get_ylim())] == [0] * 4
    assert "do not compare" not in picture.caption
    third["hardware"] = {"cpu": "other"}
    assert "their times do not compare" in pictures([*records[:2], third])["costs"].caption


def test_costs_that_hardly_differ_are_named_not_drawn(tables):
    picture = pictures(tables("ns-routes"))["costs"]
    assert [a.get_xlabel() for a in picture.draw(LIGHT).axes] == ["training time in seconds"]
    assert "Not drawn: parameters, which differ by 5.1 % at most." in picture.caption


def test_names_of_costs_lie_clear_of_points_bars_and_each_other(tables):
    figure = pictures(tables("ns-routes"))["costs"].draw(LIGHT)
    FigureCanvasAgg(figure).draw()
    (axes,) = figure.axes
    boxes = [Text.get_window_extent(name) for name in axes.texts]  # without their leaders
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    bars = [bar.get_paths()[0].get_extents(axes.transData) for bar in axes.collections]
    marks = [line.get_window_extent() for line in axes.lines]
    assert len(boxes) == len(bars) == len(marks) == 4
    assert not any(box.overlaps(drawn) for box in boxes for drawn in (*bars, *marks))


def test_a_name_moves_away_from_a_crowd():
    points = {"first": (1.0, 1.0), "second": (1.05, 1.0), "third": (1.0, 1.05)}
    places = place_labels(points, [], 3, 2)
    assert places["first"][1] == 1.0  # beside its point, where there is room
    boxes = [(x - 0.15, y - 0.07, x + 0.15, y + 0.07) for x, y in places.values()]
    for i, (left, bottom, right, top) in enumerate(boxes):
        assert all(left >= b[2] or b[0] >= right or bottom >= b[3] or b[1] >= top for b in boxes[:i])
    bar = (1.2, 0.0, 1.3, 2.0)
    assert place_labels({"first": (1.0, 1.0)}, [bar], 3, 2)["first"][0] < 1.0 < places["first"][0]


def test_ticks_of_costs_are_where_they_say(records):
    third = {**records[1], "variant": "UKNO K=4", "time": {"train_seconds": 54.1}}
    records[0]["time"]["train_seconds"], records[1]["time"]["train_seconds"] = 44.5, 49.3
    axes = pictures([*records[:2], third])["costs"].draw(LIGHT).axes[1]
    ticks = axes.get_xticks()
    shown = [axes.xaxis.get_major_formatter()(tick) for tick in ticks]
    assert [float(text) for text in shown] == pytest.approx(ticks)


def test_spectra_of_the_test_set_are_drawn_where_each_variant_has_them(records):
    runs = records[2:]
    few = pictures(runs)["spectrum"]
    assert "over the one test sample shown" in few.caption
    for record, samples in zip(runs, (32, 1)):
        record["spectra"] = [
            {"step": step, "samples": samples, "truth": [4.0, 2.0, 1.0], "error": [size, size / 2, size / 4]}
            for step, size in ((1, 0.1), (40, 0.4))
        ]
    picture = pictures(runs)["spectrum"]
    assert "over 32 test samples (FKNO: 1), of the last step." in picture.caption
    assert "last step" not in pictures(records[:2])["spectrum"].caption
    drawn = [line.get_ydata().tolist() for line in data_lines(picture.draw(LIGHT).axes[0])]
    assert drawn == [[4.0, 2.0, 1.0], [0.4, 0.2, 0.1], [0.4, 0.2, 0.1]]  # of the last step
    del runs[1]["spectra"]
    assert pictures(runs)["spectrum"].caption == few.caption


def test_labels_keep_their_order_and_distance():
    places = np.array(spread_apart([0.5, 0.51, 0.0, 0.52, 1.0], 0.15))
    assert np.diff(places[[2, 0, 1, 3, 4]]).min() > 0.149
    assert places.min() >= 0
    assert places.max() <= 1


def test_more_labels_than_fit_are_all_on_the_page():
    figure = Figure(figsize=(7.2, 2.7))
    axes = figure.add_axes((0.1, 0.2, 0.6, 0.7))
    names = [f"Model {i}, out of distribution" for i in range(9)]
    styles = dict.fromkeys(names, Series("k", "solid", "o"))
    label_ends(axes, dict.fromkeys(names, 0.99), styles, 7.2 * 0.6, 2.7 * 0.7)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    boxes = [text.get_window_extent() for text in axes.texts]
    assert len(boxes) == 9
    assert min(box.y0 for box in boxes) >= 0
    assert max(box.y1 for box in boxes) <= figure.bbox.height


def test_five_baselines_look_different(records):
    (section,) = sections_of(load_records(records[:2]))
    variants = [replace(section.source.variants[0], name=name, role="baseline") for name in "ABCDE"]
    styles = series(variants, LIGHT).values()
    assert len({(style.color, str(style.dashes)) for style in styles}) == 5
    assert len({style.marker for style in styles}) == 5


def test_same_records_give_the_same_bytes(records):
    first, second = (pictures(records[:2])["losses"].render(LIGHT) for _ in range(2))
    assert first == second
    assert not re.search(rb"<script|href=.http", first)
