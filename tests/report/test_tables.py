from __future__ import annotations

import io
import math

import pytest
from rich.console import Console

from kinn.report import load_records, print_table
from kinn.report.comparison import METRICS, comparison_table
from kinn.report.tables import latex_text, to_html, to_latex, to_markdown


def with_error(record, error, **changes):
    metrics = {**record["metrics"]["test"], "relative_l2": error}
    return {**record, "metrics": {"test": metrics}, **changes}


def table_of(records):
    (experiment,) = load_records(records)
    return comparison_table(experiment)


def column(table, header):
    return next(c for c in table.columns if c.header == header)


def test_cells_are_the_numbers_of_the_records(records):
    table = table_of(records[:2])
    assert [float(cell) for cell in column(table, "Relative L2").cells] == [0.0312, 0.0187]
    for key, header in (("rmse", "RMSE"), ("nrmse", "nRMSE"), ("max_error", "Max error")):
        shown = [float(cell) for cell in column(table, header).cells]
        assert shown == pytest.approx([r["metrics"]["test"][key] for r in records[:2]], rel=5e-3)
    assert column(table, "Parameters").cells == ("2,301,441", "2,834,726")
    assert column(table, "vs UKNO K=0").cells == ("1.00×", "0.60×")
    assert column(table, "Relative L2").best == {1}


def test_memory_is_that_of_the_device_that_trained(records):
    cpu, gpu = records[:2]
    cpu |= {"device": "cpu", "memory": {"peak_rss_bytes": 700 * 2**20, "peak_gpu_bytes": 5 * 2**20}}
    assert not [c for c in table_of([cpu]).columns if "GPU" in c.header]
    gpu |= {"device": "cuda", "memory": {"peak_rss_bytes": 900 * 2**20, "peak_gpu_bytes": 300 * 2**20}}
    table = table_of([cpu, gpu])
    assert column(table, "Peak memory (MiB)").cells == ("700", "–")
    assert column(table, "Peak GPU memory (MiB)").cells == ("–", "300")


def test_verdict_turns_when_the_baseline_wins(records):
    baseline, ours = records[:2]
    won, lost = table_of([baseline, ours]), table_of([baseline, with_error(ours, 0.0624)])
    assert won.notes[0].startswith("Ours was better: UKNO K=2")
    assert "40 % lower" in won.notes[0]
    assert lost.notes[0].startswith("Ours was worse: the baseline UKNO K=0")
    assert "2.0 times higher" in lost.notes[0]
    assert column(lost, "Relative L2").best == {0}
    assert "<strong>0.0312" in to_html(lost)
    assert "**0.0624**" not in to_markdown(lost)
    assert r"\textbf{0.0312}" in to_latex(lost)


def test_reference_is_the_hardest_baseline_and_no_loser_is_left_out(records):
    baseline, ours = records[:2]
    harder = with_error(baseline, 0.02, variant="V-Net")
    loser = with_error(ours, 0.025, variant="UKNO K=1")
    table = table_of([baseline, harder, ours, loser])
    assert column(table, "vs V-Net").cells == ("1.56×", "1.00×", "1.25×", "0.94×")
    assert "Worse than that baseline: UKNO K=1" in table.notes[0]


@pytest.mark.parametrize(
    ("factor", "said"), [(1, True), (0.9997, True), (1.0003, True), (0.999, False), (1.001, False)]
)
def test_figures_that_show_no_difference_are_level(records, factor, said):
    baseline, ours = records[:2]
    error = baseline["metrics"]["test"]["relative_l2"]
    assert table_of([baseline, with_error(ours, factor * error)]).notes[0].endswith("are level.") == said


def test_ours_is_chosen_on_validation_data(records):
    baseline, ours = records[:2]
    lucky = with_error(ours, 0.010, variant="UKNO K=1")
    told = "{} is the best of our 2 on {}."
    table = table_of([baseline, ours, lucky])  # a record without validation: by the test alone
    assert told.format("UKNO K=1", "this test") in table.notes
    lucky["metrics"]["validation"] = {"relative_l2": 0.03}
    table = table_of([baseline, ours, lucky])
    assert told.format("UKNO K=2", "validation data") in table.notes
    assert table.notes[0].startswith("Ours was better: UKNO K=2")


def test_metrics_that_turn_the_order_are_named(records):
    ours = records[1]
    ours["metrics"]["test"]["max_error"] = 9.0
    (note,) = [n for n in table_of(records[:2]).notes if "reversed" in n]
    assert "UKNO K=0 leads on Max error" in note
    assert "RMSE" not in note


def test_spread_over_seeds_is_shown_and_judged(records):
    baseline, ours = records[:2]
    runs = [with_error(baseline, e, seed=s) for s, e in enumerate((0.020, 0.024))]
    runs += [with_error(ours, e, seed=s) for s, e in enumerate((0.018, 0.025))]
    table = table_of(runs)
    assert column(table, "Relative L2").cells == ("0.0220 ± 0.0028", "0.0215 ± 0.0049")
    assert table.notes[0].startswith("Not separated: on Relative L2")
    assert any("single seed" in note for note in table_of(records[:2]).notes)


@pytest.mark.parametrize("value", [None, math.nan, math.inf])
def test_divergence_is_said(records, value):
    table = table_of([records[0], with_error(records[1], value)])
    assert column(table, "Relative L2").cells[1] == "diverged"
    assert "No Kirchhoff variant has a finite result to compare." in table.notes
    assert any(note.startswith("Diverged") and "UKNO K=2" in note for note in table.notes)


def test_unlike_runs_are_called_so(records):
    def unlike(*runs):
        return [note for note in table_of(runs).notes if "like for like" in note or "machines" in note]

    baseline, ours = records[:2]
    assert not unlike(baseline, ours)
    assert "config.epochs" in unlike(baseline, {**ours, "config": {**ours["config"], "epochs": 40}})[0]
    rates = [
        {**run, "config": {**run["config"], "optimizer": {"lr": lr}}} for run, lr in ((baseline, 8e-3), (ours, 1e-3))
    ]
    assert not unlike(*rates)
    named = "Each model has its own learning rate: UKNO K=0 0.008, UKNO K=2 0.001."
    assert named in table_of(rates).notes
    shorter = [
        {**run, "config": {"rollout": {"unroll": unroll}, "training": {"epochs": epochs}}}
        for run, unroll, epochs in ((baseline, 10, 2), (ours, 2, 10))
    ]
    told = (
        "Each model unrolls its own number of steps, the more the fewer its epochs: UKNO K=0 10 in 2, UKNO K=2 2 in 10."
    )
    assert not unlike(*shorter)
    assert told in table_of(shorter).notes
    shorter[0]["config"]["training"]["epochs"] = 10
    assert "config.rollout.unroll" in unlike(*shorter)[0]
    for config in ({}, {"solver": {"iterations": 50}}):
        solved = {**ours, "variant": "PINN", "config": config}
        assert not unlike(*rates, solved)
        assert named in table_of([*rates, solved]).notes
    assert "same seeds" in unlike(baseline, {**ours, "seed": 1})[0]
    assert "machines" in unlike(baseline, {**ours, "hardware": {"cpu": "other"}})[0]
    assert "devices" in unlike({**baseline, "device": "cpu"}, {**ours, "device": "cuda"})[0]
    pair = [{**run, "seed": 1, "config": {**run["config"], "epochs": 40}} for run in (baseline, ours)]
    changed = "Not like for like: the seeds of UKNO K=2 differ in config.epochs."
    assert changed in unlike(baseline, ours, *pair)


def test_paper_and_further_splits_have_columns(records):
    records[3]["metrics"]["out_of_distribution"] = {"relative_l2": 0.07}
    table = table_of(records[2:])
    assert column(table, "Paper").cells == ("–", "0.0101")
    assert column(table, "Relative L2, out of distribution").cells == ("–", "0.0700")


def test_ratios_of_the_paper_stand_beside_ours(tables):
    records = tables("darcy")
    table = table_of(records)
    assert column(table, "UKNO against it").cells == (
        "4.26× lower (paper: 6.4× lower)",
        "3.08× lower (paper: 4.5× lower)",
        "–",
    )
    header = "Max error, UKNO against it"
    assert column(table, header).cells[0] == "4.26× lower (paper: 3× lower)"
    assert header in [c.header for c in table.further()["Further metrics"].columns]
    for record in records:
        if record["role"] == "ours":
            record["metrics"]["test"]["nrmse"] *= 10
    assert column(table_of(records), "UKNO against it").cells[0] == "2.35× higher (paper: 6.4× lower)"


def test_figures_of_the_paper_for_another_test_set_stand_beside_that(tables):
    table = table_of(tables("poisson-order"))
    headers = [c.header for c in table.main().columns]
    assert "Paper" not in headers
    place = headers.index("Relative L2, out of distribution")
    assert headers[place + 1] == "Out of distribution, paper"
    assert table.main().columns[place + 1].cells == ("–", "–", "0.00307", "0.00292", "0.0039", "0.00268")
    assert table.main().columns[place].best == {5}


def test_training_times_of_the_paper_stand_beside_ours(tables):
    records = tables("ns-routes")
    assert "Training, paper (s)" not in [c.header for c in table_of(records).columns]
    for record in records:
        record["paper"] = {"train_seconds": 54.12 if record["variant"] == "FNO" else 83.26}
    table = table_of(records)
    headers = [c.header for c in table.main().columns]
    assert headers[headers.index("Training (s)") + 1] == "Training, paper (s)"
    assert column(table, "Training, paper (s)").cells == ("54.12", "83.26", "83.26", "83.26")
    assert "FKNO-4 has 1.05 times the parameters of FNO and took 1.67 times its training time (paper: 1.54 times)." in (
        table.notes
    )


def test_training_times_are_the_quickest_seeds_and_of_one_machine(tables):
    records = tables("ns-routes")
    for record in records:  # 20 epochs, the first of which compiled
        record["time"] = {"train_seconds": 500.0, "seconds_per_epoch": 2.0 + record["seed"] + bool(record["factor"])}
    records[0]["time"] = {"train_seconds": 500.0}  # FNO's seed 0
    table = table_of(records)
    assert column(table, "Training (s)").cells == ("60.0", "60.0", "60.0", "60.0")
    assert any("took 1.00 times its training time" in note for note in table.notes)
    records[1]["hardware"] = {"cpu": "other"}
    notes = table_of(records).notes
    assert not any("training time" in note for note in notes)
    assert any("their times do not compare" in note for note in notes)


def test_whether_the_error_falls_with_the_number_in_which_variants_differ_is_said(tables):
    runs = tables("ns-routes")
    assert "With the number of routes the error falls at every step from FKNO-1 to FKNO-4." in table_of(runs).notes
    runs = [with_error(run, 0.0467) if run["variant"] == "FKNO-4" else run for run in runs]
    two = sum(run["metrics"]["test"]["relative_l2"] for run in runs if run["variant"] == "FKNO-2") / 3
    rise = f"With the number of routes the error rises from FKNO-2 to FKNO-4 (by {100 * (0.0467 / two - 1):.0f} %)."
    assert rise in table_of(runs).notes
    assert any(
        note.startswith("With the order K the error out of distribution")
        for note in table_of(tables("poisson-order")).notes
    )


@pytest.mark.parametrize("variants", [("UKNO K=2",), ("UKNO K=1", "UKNO K=2", "UKNO K=3", "UKNO K=4")])
def test_no_trend_is_said_of_a_further_test_on_which_some_diverged(tables, variants):
    runs = tables("poisson-order")
    for run in runs:
        if run["variant"] in variants:
            run["metrics"] = {**run["metrics"], "out_of_distribution": {"relative_l2": None}}
    trends = [note for note in table_of(runs).notes if note.startswith("With the order K")]
    assert len(trends) == 1
    assert "out of distribution" not in trends[0]


def test_a_diverged_seed_counts_wherever_its_siblings_have_a_figure(tables):
    runs = tables("darcy")
    (lost,) = [run for run in runs if run["variant"] == "UKNO" and run["seed"] == 1]
    lost["metrics"] = {"test": {"nrmse": None}}
    del lost["transfer"]
    lost["time"], lost["hardware"] = {}, {}
    table = table_of(runs)
    place = [v.name for v in load_records(runs)[0].variants].index("UKNO")
    lost_on = [column for column in table.columns if "diverged" in column.cells[place]]
    assert {column.header for column in lost_on} >= {"nRMSE", "RMSE"}
    assert not any(place in column.best for column in table.columns)
    assert not load_records(runs)[0].variants[place].at_resolutions("nrmse")[64].finite
    assert not any("different machines" in note for note in table.notes)


def test_two_families_have_no_common_trend(tables):
    runs = tables("ns-routes")
    more = [{**run, "variant": f"other {run['variant']}", "model": "other"} for run in runs if run.get("factor")]
    assert not any(note.startswith("With the number") for note in table_of([*runs, *more]).notes)


def test_a_rise_from_nothing_has_no_percentage(tables):
    runs = [with_error(r, 0.0) if r["variant"] == "FKNO-1" else r for r in tables("ns-routes")]
    assert "With the number of routes the error rises from FKNO-1 to FKNO-2." in table_of(runs).notes


def test_a_few_steps_rank_nothing(tables, records):
    assert "rank nothing" in table_of(tables("darcy", "demo")).notes[1]
    assert not any(column.best for column in table_of(tables("darcy", "demo")).columns)
    assert any(column.best for column in table_of(tables("darcy")).columns)
    assert any(column.best for column in table_of(records[:2]).columns)
    assert not any("rank nothing" in note for note in table_of(records[:2]).notes)  # the demo trains for minutes


def test_a_part_of_the_test_set_is_said_beside_the_figure(records):
    records[0]["test_samples"], records[1]["test_samples"] = 1, 32  # of 32
    (experiment,) = load_records(records[:2])
    table = comparison_table(experiment)
    for part in (table, *table.further().values()):
        assert part.columns[0].cells == ("UKNO K=0 (on 1 of 32 samples)", "UKNO K=2")
    assert "Not like for like: UKNO K=0 is measured on 1 of the 32 test samples." in table.notes


def test_notes_of_the_recipe_follow_the_verdict(tables):
    notes = table_of(tables("darcy")).notes
    assert notes[0].startswith("Ours was better")
    assert notes[-1].startswith("Ours are steady solutions")


def test_normalised_metrics_stand_apart_and_are_not_repeated(records):
    for record, scale in zip(records[:2], (1.0, 2.0)):
        test = record["metrics"]["test"]
        test |= {"relative_l2_normalized": test["relative_l2"], "rmse_normalized": scale * test["rmse"]}
    table = table_of(records[:2])
    parts = table.further()
    assert [c.header for c in parts["Metrics in normalised units"].columns] == ["Model", "RMSE (normalised)"]
    assert "RMSE" in [c.header for c in parts["Further metrics"].columns]
    for record in records[:2]:
        record["primary_metric"] = "relative_l2_normalized"
    table = table_of(records[:2])
    assert column(table, "Relative L2 (normalised)").best == {1}
    assert "Relative L2" not in [c.header for c in table.columns]


def test_no_baseline_and_least_record(records):
    required = ("schema", "experiment", "variant", "role", "seed", "primary_metric", "metrics")
    table = table_of([{key: records[1][key] for key in required}])
    assert table.notes[1] == "No baseline was trained."
    assert "Parameters" not in [c.header for c in table.columns]


def test_console_shows_every_metric_only_where_there_is_room(records):
    def printed(width):
        stream = io.StringIO()
        print_table(records, Console(file=stream, width=width))
        return stream.getvalue()

    narrow, wide = printed(80), printed(160)
    for text in (narrow, wide):
        assert "0.0187" in text
        assert "Ours was worse" in text
        assert "2,834,726" in text
    assert "nRMSE" in wide
    assert "nRMSE" not in narrow
    assert "Further metrics" in narrow
    assert max(map(len, narrow.splitlines())) <= 80


def test_console_cuts_no_word_and_shows_the_overview(tables):
    stream = io.StringIO()
    print_table([*tables("darcy"), *tables("ns-rollout"), *tables("poisson-order")], Console(file=stream, width=80))
    text = stream.getvalue()
    for words in ("0.0685 ± 0.0028", "7,762,465", "distribution", "Parameters", "10 steps", "better in 2 of 3"):
        assert words in text
    assert max(map(len, text.splitlines())) <= 80


def test_hostile_names_stay_text_everywhere(records):
    for record in records[:2]:
        record["title"] = "50 % & <b>_x_</b>"
    records[1]["variant"] = r"[red]K_0|{x}\$^~#<script>"
    table = table_of(records[:2])
    stream = io.StringIO()
    print_table(records[:2], Console(file=stream, width=200))
    assert records[1]["variant"] in stream.getvalue()
    assert "<script>" not in to_html(table)
    markdown = to_markdown(table)
    assert "<script>" not in markdown
    assert r"\[red\]K\_0\|" in markdown
    assert r"{[}red]K\_0|\{x\}\textbackslash{}\$\textasciicircum{}\textasciitilde{}\#\textless{}" in to_latex(table)
    assert r"50 \% \& " in to_latex(table)


def test_latex_caption_ends_once(records):
    for title, caption in (("Does it pay?", r"\caption{Does it pay?}"), ("Darcy", r"\caption{Darcy.}")):
        assert caption in to_latex(table_of([{**record, "title": title} for record in records[:2]]))


def test_latex_keeps_columns_and_rows(records):
    lines = to_latex(table_of(records[:2])).splitlines()
    rows = [line for line in lines if line.endswith(r"\\")]
    (spec,) = [line for line in lines if "begin{tabular}" in line]
    assert {row.count("&") + 1 for row in rows} == {len(spec.split("{")[2].rstrip("}"))}
    (memory,) = [table for name, table in table_of(records[:2]).further().items() if name == METRICS]
    assert r"\shortstack[r]{Peak memory \\ (MiB)}" in to_latex(memory)
    assert latex_text("0.1 ± 0.2 × – %") == r"0.1 $\pm$ 0.2 $\times$ -- \%"


@pytest.mark.parametrize("width", [40, 60, 80])
def test_no_cell_is_cut_on_a_narrow_console(tables, width):
    records = tables("poisson-order")
    for record in records:  # a published figure for both sets takes two more columns
        name = record["primary_metric"]
        record["paper"] = {name: 0.21, f"out_of_distribution.{name}": 0.27}
    stream = io.StringIO()
    print_table(records, Console(file=stream, width=width))
    rows = [line for line in stream.getvalue().splitlines() if line.startswith("│")]
    assert {line.split("│")[1].strip() for line in rows} == {record["variant"] for record in records}
