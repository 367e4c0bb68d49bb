"""The recipes by their names: what each consists of, that it runs, and that the committed records are its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kinn import recipes
from kinn.models import model_names
from kinn.recipes import headers
from kinn.report import load_records

RESULTS = Path(__file__).parents[2] / "results"
TABLES = [name for name in recipes.names() if name not in ("demo", "ukno-layouts")]
EVERY = [(name, budget) for name in recipes.names() for budget in recipes.budgets(name)]


def test_unknown_recipe_budget_and_no_seed(tmp_path):
    with pytest.raises(ValueError, match="unknown recipe 'drcy'; known recipes: demo"):
        recipes.run("drcy", output=tmp_path)
    with pytest.raises(ValueError, match="recipe 'demo' has no budget 'huge'; it has: demo"):
        recipes.run("demo", budget="huge", output=tmp_path)
    with pytest.raises(ValueError, match="at least one seed"):
        recipes.run("demo", seeds=(), output=tmp_path)
    with pytest.raises(ValueError, match="recipe 'ns-routes' has no variant 'FKNO'; it has: FNO, U-Net, FKNO-1"):
        recipes.run("ns-routes", variants=["FKNO"], output=tmp_path)


@pytest.mark.parametrize(("name", "budget"), EVERY)
def test_every_recipe_and_budget_fits_together(name, budget):
    for experiment in recipes.experiments(name, budget):
        parameters = experiment.source.parameters
        assert sum(experiment.sizes.values()) == parameters["samples"]
        assert {"train", "validation", "test"} == set(experiment.sizes)
        assert {variant.model for variant in experiment.variants if not variant.solve} <= set(model_names())
        assert len({variant.name for variant in experiment.variants}) == len(experiment.variants)
        if name != "ukno-layouts":
            assert {variant.role for variant in experiment.variants} == {"ours", "baseline"}
        if name in TABLES:  # on other grids, too, beside FNO and U-Net
            assert parameters["resolution"] in experiment.resolutions
            assert len(experiment.resolutions) > 1
            assert {"FNO", "U-Net"} < {variant.name for variant in experiment.variants}
        if experiment.rollout and experiment.resolutions:  # one solution at all resolutions
            assert all(parameters["solver_resolution"] % points == 0 for points in experiment.resolutions)
        for source in experiment.tests.values():
            seeds = (source.parameters["seed"], source.parameters["max_mode"])
            assert seeds != (parameters["seed"], parameters["max_mode"])


@pytest.mark.parametrize("name", recipes.names())
def test_committed_records_are_what_the_recipe_would_make(name):
    """Whoever runs it over them trains nothing again; when a recipe or a default changes this tells."""
    paths = sorted(RESULTS.glob(f"{name}/*/*.json"))
    for path in paths:
        record = json.loads(path.read_text())
        [experiment] = [e for e in recipes.experiments(name, record["budget"]) if e.name == path.parent.name]
        [variant] = [v for v in experiment.variants if v.name == record["variant"]]
        assert headers.is_done(path, headers.identity_of(experiment, variant, record["seed"]))
    assert len(paths) >= 4


@pytest.mark.parametrize("name", TABLES)
def test_the_demo_of_every_table_runs(tmp_path, name):
    paths = recipes.run(name, budget="demo", output=tmp_path, device="cpu", progress=False)
    for experiment in load_records(tmp_path / "records"):
        for variant in experiment.variants:
            score = variant.metric(experiment.primary_metric)
            assert score is not None
            assert score.finite
    assert len(paths) == sum(len(experiment.variants) for experiment in recipes.experiments(name, "demo"))


def test_chosen_contenders_alone_are_run_wherever_they_occur(monkeypatch, tmp_path):
    ran = []
    monkeypatch.setattr("kinn.recipes.runner.run_experiment", lambda experiment, **_: ran.append(experiment) or [])
    recipes.run("ns-rollout", variants=["FNO"], output=tmp_path)
    assert [(e.name, [v.name for v in e.variants]) for e in ran] == [(f"unroll-{n}", ["FNO"]) for n in (3, 5, 10)]
