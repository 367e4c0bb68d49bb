"""Tables and figures across experiments, across resolutions, and along the number that sets variants apart."""

from __future__ import annotations

import numpy as np
import pytest

from kinn.models import registry
from kinn.models.parts import OnTrainingGrid
from kinn.report import load_records
from kinn.report.curves import overview_pictures
from kinn.report.factors import factor_pictures
from kinn.report.overview import overview_table, overviews, transfer_table
from kinn.report.style import LIGHT
from kinn.report.transfer import transfer_pictures


def cells(table, header):
    return next(column for column in table.columns if column.header == header).cells


def drawn(axes):
    """Places and values of every line in data coordinates, but for those that mark one place or level."""
    lines = [line for line in axes.lines if line.get_transform() == axes.transData and len(line.get_xdata()) > 1]
    return {tuple(np.round(np.asarray(line.get_ydata(), dtype=float), 9)): list(line.get_xdata()) for line in lines}


def texts(axes):
    return {text.get_text().replace("\n", " ") for text in axes.texts}


def test_overview_of_experiments_that_share_variants(tables, demo):
    (overview,) = overviews(load_records([*tables("ns-rollout"), *tables("ns-routes"), *tables("darcy")]))
    assert (
        overview.title == "Navier–Stokes, 32 × 32, 40 steps ahead: trained by unrolling 3 steps, 5 steps and 10 steps"
    )
    table = overview_table(overview)
    headers = [column.header for column in table.columns]
    assert headers == ["Model", "Role", "3 steps", "5 steps", "10 steps", "10 steps, paper"]
    assert cells(table, "3 steps") == ("0.0810", "0.0660")
    assert cells(table, "10 steps, paper") == ("0.0128", "–")
    assert [sorted(column.best) for column in table.columns[2:5]] == [[1], [1], [0]]
    assert overviews(load_records(demo)) == []  # one recipe, but no model in common


def test_overview_says_misses_as_plainly_as_wins(tables):
    (overview,) = overviews(load_records(tables("ns-rollout")))
    (note,) = overview_table(overview).notes
    assert "better in 2 of 3" in note
    assert "3 steps: FKNO-4 is 19 % lower than FNO" in note
    assert "10 steps: FKNO-4 is 9.4 % higher than FNO" in note


def test_overview_leaves_room_for_what_is_missing(tables):
    records = [r for r in tables("ns-rollout") if (r["experiment"], r["variant"]) != ("unroll-5", "FKNO-4")]
    for record in records:
        record["title"] = record["experiment"]
    (overview,) = overviews(load_records(records))
    assert overview.title == "ns-rollout: 3 steps, 5 steps and 10 steps"
    table = overview_table(overview)
    assert cells(table, "5 steps") == ("0.0620", "–")
    assert "better in 1 of 3" in table.notes[0]
    assert "5 steps: no finite results to compare" in table.notes[0]


def test_metrics_and_budgets_are_not_mixed_in_an_overview(tables):
    first, second = tables("ns-rollout")[:2], tables("ns-rollout")[2:4]
    assert overviews(load_records([*first, *({**record, "budget": "full"} for record in second)])) == []
    assert overviews(load_records([*first, *({**record, "primary_metric": "rmse"} for record in second)])) == []


def test_overview_of_rollouts_shares_its_scale(tables):
    records = tables("ns-rollout")
    (overview,) = overviews(load_records(records))
    (picture,) = overview_pictures(overview)
    axes = picture.draw(LIGHT).axes
    assert [a.get_title() for a in axes] == ["3 steps", "5 steps", "10 steps"]
    assert len({a.get_ylim() for a in axes}) == 1
    for panel, pair in zip(axes, (records[:2], records[2:4], records[4:])):
        assert drawn(panel).keys() == {tuple(np.round(r["curves"]["rollout_relative_l2"], 9)) for r in pair}
    assert texts(axes[-1]) == {"FNO", "FKNO-4"}
    for record in records[2:]:
        del record["curves"]["rollout_relative_l2"]
    assert list(overview_pictures(overviews(load_records(records))[0])) == []


def test_transfer_table(tables):
    (darcy,) = load_records(tables("darcy"))
    table = transfer_table(darcy)
    assert table is not None
    assert [column.header for column in table.columns] == ["Model", "32 (training)", "64", "128", "128 vs 32"]
    assert cells(table, "128 vs 32") == ("1.04×", "3.61×", "1.69×")  # squares of 1.02, 1.9 and 1.3
    mean = 0.0153 * 1.02 * 1.03 * 1.69
    assert float(cells(table, "128")[2].split(" ±")[0]) == pytest.approx(mean, abs=5e-5)
    assert transfer_table(load_records(tables("poisson-order"))[0]) is None


def test_transfer_figure(tables):
    records = tables("darcy")
    (darcy,) = load_records(records)
    (picture,) = transfer_pictures(darcy)
    (axes,) = picture.draw(LIGHT).axes
    assert axes.get_xscale() == "log"
    assert list(axes.get_xticks()) == [32, 64, 128]
    assert texts(axes) == {"training", "FNO", "U-Net", "UKNO"}
    lines = {name: places for name, places in drawn(axes).items() if len(places) == 3}
    assert sorted(lines) == sorted(
        tuple(round(m.mean, 9) for m in v.at_resolutions("nrmse").values()) for v in darcy.variants
    )
    assert list(map(list, lines.values())) == [[32, 64, 128]] * 3
    mark = next(line for line in axes.lines if list(line.get_xdata()) == [32, 32])
    assert mark.get_transform() != axes.transData
    assert "UKNO is told the ratio of the grid spacings" in picture.caption
    assert "and not those of the table" in picture.caption
    public = [{**record, "data": {**record["data"], "files": [{"name": "x.h5"}]}} for record in records]
    assert "and those of the table’s test." in next(transfer_pictures(load_records(public)[0])).caption
    for record in records:
        record["transfer"] = record["transfer"][:1]
    assert list(transfer_pictures(load_records(records)[0])) == []


def test_models_that_work_on_the_grid_of_their_training_are_named(tables, monkeypatch):
    own = {"Own": type("Own", (OnTrainingGrid,), {})}
    monkeypatch.setattr(registry, "_MODELS", {**registry._MODELS, **own})
    for model, named in (("UKNO", True), ("Own", True), ("FKNO", False), ("Unknown", False)):
        records = [{**record, "model": model} for record in tables("darcy")]
        (picture,) = transfer_pictures(load_records(records)[0])
        assert ("UKNO works on the grid of training" in picture.caption) == named


def test_diverged_at_a_resolution_is_said(tables):
    records = [record for record in tables("darcy") if record["seed"] == 0]
    for place in records[1]["transfer"]:
        place["metrics"]["nrmse"] = None
    (darcy,) = load_records(records)
    (picture,) = transfer_pictures(darcy)
    assert "Not drawn, for want of a finite result: FNO" in picture.caption
    table = transfer_table(darcy)
    assert table is not None
    assert cells(table, "64")[0] == "diverged"
    assert cells(table, "128 vs 32")[0] == "–"


def test_not_evaluated_elsewhere_is_said(tables):
    records = [record for record in tables("darcy") if record["seed"] == 0]
    records[1]["transfer"] = []
    (picture,) = transfer_pictures(load_records(records)[0])
    assert "Not evaluated at other resolutions: FNO." in picture.caption
    assert "finite" not in picture.caption


def test_error_against_order(tables):
    (orders,) = load_records(tables("poisson-order"))
    (picture,) = factor_pictures(orders)
    assert picture.name == "poisson-order-small-order"
    (axes,) = picture.draw(LIGHT).axes
    assert axes.get_xlabel() == "order K"
    lines = drawn(axes)
    test = (0.0131, 0.0104, 0.0098, 0.0113, 0.0091)
    assert lines[test] == [0, 1, 2, 3, 4]
    assert lines[tuple(round(1.4 * value, 9) for value in test)] == [0, 1, 2, 3, 4]
    assert lines[0.00307, 0.00292, 0.0039, 0.00268] == [1, 2, 3, 4]
    levels = {line.get_ydata()[0] for line in axes.lines if list(line.get_xdata()) == [0, 1]}
    assert {0.0121, 1.4 * 0.0121} <= levels
    both = [f"{name}, {split}" for name in ("UKNO", "CNO") for split in ("test", "out of distribution")]
    assert texts(axes) == {*both, "UKNO, out of distribution, paper"}


def test_error_against_routes_spreads_over_seeds(tables):
    (routes,) = load_records(tables("ns-routes"))
    (picture,) = factor_pictures(routes)
    (axes,) = picture.draw(LIGHT).axes
    assert texts(axes) == {"FKNO", "FNO"}
    assert [text.get_text() for text in axes.get_xticklabels()] == ["1", "2", "4"]
    assert len(axes.collections) == 1  # bars of one line
    bars = [np.ptp(path[:, 1]) for path in axes.collections[0].get_segments()]
    expected = [2 * v.metric("relative_l2").spread for v in routes.variants if v.factor]  # pyright: ignore
    assert bars == pytest.approx(expected)
    (band,) = axes.patches  # of the level
    (fno,) = [v.metric("relative_l2") for v in routes.variants if not v.factor]
    assert (band.get_y(), band.get_height()) == pytest.approx((fno.mean - fno.spread, 2 * fno.spread))  # pyright: ignore
    assert "Bars and bands show the standard deviation over seeds" in picture.caption


def test_two_families_have_a_line_each(tables):
    runs = tables("ns-routes")
    more = [{**run, "variant": f"other {run['variant']}", "model": "other"} for run in runs if run.get("factor")]
    (picture,) = factor_pictures(load_records([*runs, *more])[0])
    assert "other" in picture.alt
    assert "FKNO" in picture.alt


def test_one_value_of_a_factor_is_no_figure(tables):
    records = [r for r in tables("ns-routes") if r["variant"] in ("FNO", "FKNO-4")]
    assert list(factor_pictures(load_records(records)[0])) == []
    for record in (records := tables("ns-routes")):
        if record["variant"] == "FKNO-2":
            record["metrics"]["test"]["relative_l2"] = None
    (picture,) = factor_pictures(load_records(records)[0])
    assert "Not drawn, for want of a finite result: FKNO-2" in picture.caption
