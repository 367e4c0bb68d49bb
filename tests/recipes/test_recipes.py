"""Recipes: records that hold what the tables need, alike for all variants, made once."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from kinn import recipes
from kinn.data import generate_navier_stokes, generate_poisson
from kinn.recipes import runner
from kinn.recipes.demo import navier_stokes, poisson
from kinn.recipes.experiment import Experiment, Variant
from kinn.report import load_records
from kinn.train import OptimizerSettings, Rollout, TrainSettings

POISSON = Experiment(
    name="tiny-poisson",
    title="Tiny Poisson",
    generate=lambda path, progress: generate_poisson(path, samples=12, resolution=16, max_mode=4, progress=progress),
    data={"samples": 12, "resolution": 16, "max_mode": 4},
    sizes={"train": 8, "validation": 2, "test": 2},
    variants=(
        Variant("UKNO K=0", "UKNO", "baseline", {"order": 0, "width": 4}),
        Variant("UKNO K=1", "UKNO", "ours", {"order": 1, "width": 4}, paper={"relative_l1_median": 0.307}),
    ),
    loss="relative_l1",
    primary_metric="relative_l1_median_normalized",
    normalize="min-max",
    optimizer=OptimizerSettings(),
    training=TrainSettings(epochs=2, batch_size=4, device="cpu"),
)
FLOW = Experiment(
    name="tiny-flow",
    title="Tiny flow",
    generate=lambda path, progress: generate_navier_stokes(
        path, samples=4, resolution=16, solver_resolution=16, final_time=6, progress=progress
    ),
    data={"samples": 4},
    sizes={"train": 2, "validation": 1, "test": 1},
    variants=(Variant("FNO", "FNO", "baseline", {"width": 4, "n_modes": [4, 4]}),),
    loss="relative_l2",
    primary_metric="relative_l2",
    normalize="none",
    optimizer=OptimizerSettings(),
    training=TrainSettings(epochs=1, batch_size=4, device="cpu"),
    rollout=Rollout(n_history=2),
    unroll=2,
    field_steps=(1, -1),
)


def run(experiment, output, seeds=(0,)):
    return runner.run_experiment(
        experiment, recipe="test", budget="demo", seeds=seeds, device="cpu", output=output, progress=False
    )


def test_records_hold_the_tables_and_are_made_once(tmp_path, monkeypatch):
    paths = run(POISSON, tmp_path, seeds=(0, 1))
    assert len(paths) == 4
    records = [json.loads(path.read_text()) for path in paths]
    assert len({json.dumps(r["config"]["optimizer"]) for r in records}) == 1
    assert records[0]["config"]["training"]["seed"] == 0
    assert records[2]["config"]["training"]["seed"] == 1
    for record in records:
        assert set(record["metrics"]) == {"test", "validation"}
        assert len(record["curves"]["validation_loss"]) == 2
        assert record["curves"]["validation_loss"][record["best_epoch"] - 1] == min(record["curves"]["validation_loss"])
        assert len(record["fields"][0]["truth"]) == 16
        assert record["hardware"]["cpu"]
        assert record["versions"]["torch"] == torch.__version__
    assert records[1]["parameters"] > records[0]["parameters"]
    assert records[0]["metrics"] != records[2]["metrics"], "seeds must differ"
    experiment = load_records(tmp_path / "records")[0]
    assert {variant.name for variant in experiment.variants} == {"UKNO K=0", "UKNO K=1"}

    monkeypatch.setattr(runner, "fit", lambda *a, **k: pytest.fail("a finished variant was trained again"))
    before = [path.read_bytes() for path in paths]
    assert run(POISSON, tmp_path, seeds=(0, 1)) == paths
    assert [path.read_bytes() for path in paths] == before


def test_same_seed_gives_the_same_numbers(tmp_path):
    one, other = (run(POISSON, tmp_path / name)[1] for name in ("a", "b"))
    assert json.loads(one.read_text())["metrics"] == json.loads(other.read_text())["metrics"]


def test_initial_weights_do_not_depend_on_the_surrounding_random_state(tmp_path):
    torch.manual_seed(1)
    one = run(replace(FLOW, name="one"), tmp_path)[0]
    torch.manual_seed(2)
    two = run(replace(FLOW, name="two"), tmp_path)[0]
    assert json.loads(one.read_text())["metrics"] == json.loads(two.read_text())["metrics"]


def test_rollout_records_have_an_error_per_step_and_fields_at_the_steps_asked_for(tmp_path):
    record = json.loads(run(FLOW, tmp_path)[0].read_text())
    assert record["curves"]["rollout_step"] == [1, 2, 3, 4]
    assert len(record["curves"]["rollout_relative_l2"]) == 4
    assert [field["step"] for field in record["fields"]] == [1, 4]


def test_a_folder_of_another_run_is_refused(tmp_path):
    run(FLOW, tmp_path)
    with pytest.raises(ValueError, match=r"result of another run: its config"):
        run(replace(FLOW, unroll=1), tmp_path)


def test_unknown_recipe_budget_and_no_seed(tmp_path):
    with pytest.raises(ValueError, match="unknown recipe 'drcy'; known recipes: demo"):
        recipes.run("drcy", output=tmp_path)
    with pytest.raises(ValueError, match="recipe 'demo' has no budget 'huge'; it has: demo"):
        recipes.run("demo", budget="huge", output=tmp_path)
    with pytest.raises(ValueError, match="at least one seed"):
        recipes.run("demo", seeds=(), output=tmp_path)


@pytest.mark.parametrize("make", [poisson, navier_stokes])
def test_the_demo_compares_ours_with_a_baseline_of_the_same_training(make):
    experiment = make()
    assert {variant.role for variant in experiment.variants} == {"ours", "baseline"}
    assert sum(experiment.sizes.values()) == experiment.data["samples"]


def test_a_record_does_not_depend_on_whether_steps_are_compiled():
    def identity(compile_):
        experiment = replace(FLOW, training=replace(FLOW.training, compile=compile_))
        return runner._identity(experiment, experiment.variants[0], 0)

    assert identity("kernels") == identity("none")
