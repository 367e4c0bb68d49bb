from __future__ import annotations

import json
import math

import pytest

from kinn.report import load_records
from kinn.report.records import measure


def test_folder_is_searched_at_every_depth_and_grouped(records, save):
    folder = save(records)
    (folder / "model.json").write_text('{"model": "UKNO", "arguments": {}}')  # metadata of something else
    experiments = load_records(folder)
    assert [(e.name, [v.name for v in e.variants]) for e in experiments] == [
        ("navier-stokes", ["FNO", "FKNO"]),
        ("poisson", ["UKNO K=0", "UKNO K=2"]),
    ]


def test_seeds_become_mean_and_sample_spread(records):
    run = records[1]
    runs = [{**run, "seed": s, "metrics": {"test": {"relative_l2": v}}} for s, v in ((1, 0.04), (0, 0.02))]
    (experiment,) = load_records(runs)
    (variant,) = experiment.variants
    assert [r.seed for r in variant.records] == [0, 1]
    found = variant.metric("relative_l2")
    assert found is not None
    assert found.mean == pytest.approx(0.03)
    assert found.spread == pytest.approx(math.sqrt(2) * 0.01)
    assert measure([0.1]).spread is None  # pyright: ignore[reportOptionalMemberAccess]


def test_budgets_are_never_mixed(records):
    assert len(load_records([records[0], {**records[0], "budget": "full"}])) == 2


def test_variants_stand_in_natural_order(records):
    runs = [{**records[1], "variant": f"UKNO K={k}"} for k in (10, 2, 1)]
    (experiment,) = load_records([*runs, records[0]])
    assert [v.name for v in experiment.variants] == ["UKNO K=0", "UKNO K=1", "UKNO K=2", "UKNO K=10"]


def test_experiments_stand_in_natural_order_under_their_labels(tables):
    experiments = load_records(tables("ns-rollout")[::-1])
    assert [(e.name, e.label) for e in experiments] == [
        ("unroll-3", "3 steps"),
        ("unroll-5", "5 steps"),
        ("unroll-10", "10 steps"),
    ]
    for record in (plain := tables("ns-rollout")):
        del record["experiment_label"]
    assert [e.label for e in load_records(plain)] == ["unroll-3", "unroll-5", "unroll-10"]


def test_optional_keys_are_read(tables):
    (darcy,) = load_records(tables("darcy"))
    ukno = darcy.variants[2]
    places = ukno.at_resolutions("nrmse")
    assert list(places) == [32, 64, 128]
    assert places[64].mean == pytest.approx(1.3 * 1.02 * 0.0153 * 1.03)  # seeds at 1 and 1.06 times
    assert places[64].count == 2
    assert darcy.resolution == 32
    assert [v.published_ratio("nrmse") for v in darcy.variants] == [6.4, 4.5, None]
    assert darcy.notes == ("Ours are steady solutions; the public file’s are snapshots of a transient.",)
    (orders,) = load_records(tables("poisson-order"))
    assert [v.factor for v in orders.variants] == [None, *(("order", float(k)) for k in range(5))]
    assert orders.splits == ("test", "out_of_distribution")


@pytest.mark.parametrize(
    "change", [{"error": [1.0]}, {"samples": None}, {"truth": "flat"}, {"error": [1.0, "x"]}, {"step": "last"}]
)
def test_a_spectrum_that_is_none_is_refused(records, change):
    spectrum = {"step": None, "samples": 3, "truth": [1.0, 0.5], "error": [0.1, None]}
    load_records({**records[0], "spectra": [spectrum]})
    with pytest.raises(ValueError, match="expected each of spectra to hold samples"):
        load_records({**records[0], "spectra": [{**spectrum, **change}]})


def test_null_stands_for_absent(records):
    names = ("factor", "transfer", "notes", "paper_ratio", "experiment_label")
    (experiment,) = load_records({**records[0], **dict.fromkeys(names)})
    (variant,) = experiment.variants
    assert (variant.factor, variant.at_resolutions("nrmse"), experiment.notes) == (None, {}, ())


def test_newer_of_two_records_of_one_run_counts(records):
    newer = {**records[0], "date": "2027-01-01T00:00:00Z", "best_epoch": 3}
    for order in ([records[0], newer], [newer, records[0]]):
        with pytest.warns(UserWarning, match="replaces"):
            (experiment,) = load_records(order)
        assert experiment.records[0].best_epoch == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2}, "newer kinn"),
        ({"schema": "one"}, "expected 1"),
        ({"variant": None}, "variant missing"),
        ({"role": "theirs"}, "baseline, ours"),
        ({"seed": "0"}, "seed to be a whole number"),
        ({"seed": True}, "seed to be a whole number"),
        ({"metrics": {"validation": {}}}, "'relative_l2' is not among its test metrics"),
        ({"metrics": {"test": {"relative_l2": "low"}}}, "names to numbers"),
        ({"curves": {"epoch": [1, 2], "train_loss": [0.1]}}, "train_loss has 1 values for 2"),
        ({"curves": {"train_loss": "falling"}}, "train_loss"),
        ({"time": {"train_seconds": "long"}}, "train_seconds"),
        ({"factor": {"name": "order"}}, "factor to hold a name and a number"),
        ({"factor": {"value": 2}}, "factor to hold a name and a number"),
        ({"paper_ratio": {"nrmse": "4.5x"}}, r"paper_ratio\.nrmse"),
        ({"notes": [1]}, "notes to be a list of texts"),
        ({"transfer": [{"metrics": {}}]}, "resolution of at least 1"),
        ({"transfer": [{"resolution": 64}]}, "transfer at resolution 64 to map names to numbers"),
        ({"transfer": [{"resolution": 64, "dt_scale": "half", "metrics": {}}]}, "dt_scale at resolution 64"),
        ({"fields": [{"label": "a", "truth": [[1.0]]}]}, "truth and prediction"),
        ({"fields": [{"label": "a", "truth": [[1.0]], "prediction": [[1.0, 2.0]]}]}, "differ in shape"),
        ({"fields": [{"label": "a", "truth": [[1], [1, 2]], "prediction": [[1]]}]}, "rectangular 2-D"),
        ({"fields": [{"label": "a", "step": "last", "truth": [[1]], "prediction": [[1]]}]}, "step"),
    ],
)
def test_what_is_wrong_in_a_record_is_named(records, save, change, message):
    folder = save([{**records[0], **change}])
    with pytest.raises(ValueError, match=message) as raised:
        load_records(folder / "poisson" / "0.json")
    assert "0.json" in str(raised.value)


def test_truncated_foreign_missing_and_empty(records, tmp_path):
    whole = json.dumps(records[0])
    path = tmp_path / "run.json"
    path.write_text(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"run\.json is not valid JSON"):
        load_records(tmp_path)
    path.write_text("[1, 2]")
    with pytest.raises(ValueError, match="not a kinn result record"):
        load_records(path)
    with pytest.raises(ValueError, match="no result records in"):
        load_records(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"other\.json"):
        load_records(tmp_path / "other.json")


def test_records_that_contradict_each_other(records):
    with pytest.raises(ValueError, match="disagree on their primary metric"):
        load_records([records[0], {**records[1], "primary_metric": "rmse"}])
    with pytest.raises(ValueError, match="disagree on parameters"):
        load_records([records[0], {**records[0], "seed": 1, "parameters": 5}])
    first, second = ({**records[0], "seed": k, "factor": {"name": "order", "value": k}} for k in (0, 1))
    with pytest.raises(ValueError, match="disagree on factor"):
        load_records([first, second])


def test_a_diverged_seed_knows_less_and_contradicts_none(records):
    bare = {name: value for name, value in records[0].items() if name != "parameters"}
    metric = records[0]["primary_metric"]
    [experiment] = load_records([{**bare, "seed": 1, "metrics": {"test": {metric: None}}}, records[0]])
    [variant] = experiment.variants
    assert variant.parameters == records[0]["parameters"]
    assert not variant.metric(metric).finite
