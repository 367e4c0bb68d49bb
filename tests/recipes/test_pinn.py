"""The physics-informed baseline: what it solves, what it leaves of the process as it was, what it keeps."""

from __future__ import annotations

import json
import sys
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

from kinn import recipes
from kinn.data import (
    TrajectoryDataset,
    export_dataset,
    from_trajectories,
    generate_shallow_water,
    open_dataset,
)
from kinn.recipes import headers, pinn, runner


def still_water(n: int = 8) -> torch.Tensor:
    return torch.ones(n, n)


def test_water_at_rest_is_learned_from_equations_and_initial_field_alone():
    before = pinn.forecast_by_pinn(still_water(), [0.0, 0.5, 1.0], pinn.PINNSettings(0))[0]
    after, parameters = pinn.forecast_by_pinn(still_water(), [0.0, 0.5, 1.0], pinn.PINNSettings(400))
    assert parameters == 3 * 40 + 40 + 5 * (40 * 40 + 40) + 40 * 3 + 3
    assert (before - 1).abs().max() > 0.2
    assert (after - 1).abs().max() < 0.1  # the last frame has no data: it comes from the equations


def test_same_seed_same_forecast_and_nothing_else_is_seeded_or_moved():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    one = pinn.forecast_by_pinn(still_water(), [0.5], pinn.PINNSettings(3), seed=1)[0]
    assert torch.equal(torch.rand(1), expected)
    assert np.array_equal(np.random.get_state()[1], state)  # noqa: NPY002
    assert torch.get_default_device() == torch.device("cpu")
    assert torch._C._len_torch_function_stack() == 0, "a default device that torch.compile cannot trace"
    assert torch.equal(one, pinn.forecast_by_pinn(still_water(), [0.5], pinn.PINNSettings(3), seed=1)[0])
    assert not torch.equal(one, pinn.forecast_by_pinn(still_water(), [0.5], pinn.PINNSettings(3), seed=2)[0])


def test_cells_are_the_centres_of_the_domain_with_x_along_the_first_axis():
    cells = pinn._cells(4, 2.0).reshape(4, 4, 2)
    assert cells[:, 0, 0].tolist() == [-1.5, -0.5, 0.5, 1.5]
    assert cells[0, :, 1].tolist() == [-1.5, -0.5, 0.5, 1.5]


def test_the_record_counts_the_frames_after_the_history_and_keeps_finished_flows(tmp_path, monkeypatch):
    [experiment] = recipes.experiments("shallow-water", "demo")
    flow = torch.arange(1.0, 21.0).reshape(1, 20, 1, 1, 1).expand(2, 20, 1, 4, 4)
    test = from_trajectories(flow, time=torch.arange(20.0).tolist())
    calls = []

    def solve(initial, times, settings, **options):
        calls.append((settings.iterations, options["seed"]))
        return 1.1 * torch.tensor(times)[:, None, None].add(1).expand(-1, 4, 4), 7

    monkeypatch.setattr(pinn, "forecast_by_pinn", solve)
    options = {"iterations": 1, "flows": 2, "seed": 3, "device": "cpu", "folder": tmp_path}
    result = pinn.pinn_result(replace(experiment, field_steps=(1, -1)), test, **options)
    assert result["metrics"]["test"]["nrmse"] == pytest.approx(0.1, rel=1e-5)
    assert result["metrics"]["test"]["max_error"] == pytest.approx(0.1 * np.mean(np.arange(11, 21)), rel=1e-5)
    assert result["curves"]["rollout_step"] == list(range(1, 11))
    assert [field["step"] for field in result["fields"]] == [1, 10]
    assert [(s["step"], s["samples"]) for s in result["spectra"]] == [(1, 2), (10, 2)]
    assert result["fields"][1]["truth"][0][0] == 20
    assert result["parameters"] == 7
    assert result["config"]["solver"]["iterations"] == 1
    assert result["config"]["solver"]["width"] == 40
    assert result["test_samples"] == 2
    assert result["memory"]["peak_rss_bytes"] > 2**20
    assert pinn.pinn_result(replace(experiment, field_steps=(1, -1)), test, **options) == result
    assert calls == [(1, 3), (1, 3)], "finished flows were solved again"
    pinn.pinn_result(experiment, test, **{**options, "iterations": 2})
    pinn.pinn_result(experiment, from_trajectories(2 * flow, time=test.time), **options)
    assert len(calls) == 6, "forecasts under other settings, or of other flows, were taken for these"


def stating(metadata):
    return TrajectoryDataset(from_trajectories(torch.ones(1, 3, 1, 4, 4)).trajectories, metadata=metadata)


@pytest.mark.parametrize(
    ("stated", "posed"),
    [({}, (2.5, 1.0)), ({"gravity": 9.81}, (2.5, 9.81)), ({"domain": [-1.0, 1.0], "gravity": 2}, (1.0, 2.0))],
)
def test_the_equations_are_those_of_the_data(stated, posed):
    flows = stating(stated)
    settings = pinn.posed_by(flows, 7)
    assert (settings.half_width, settings.gravity, settings.iterations) == (*posed, 7)


def test_a_domain_that_is_not_centred_is_no_dam_break_of_the_pinn():
    flows = stating({"domain": (0.0, 1.0)})
    with pytest.raises(ValueError, match=r"needs a square domain about the origin, but the data state \[0, 1\]"):
        pinn.posed_by(flows, 7)


def test_a_dam_break_that_the_pinn_cannot_take_is_refused_before_any_training(tmp_path):
    [experiment] = recipes.experiments("shallow-water", "demo")
    path = generate_shallow_water(tmp_path / "dam.h5", **experiment.source.parameters)
    for told, message in (({"domain": [0, 5]}, "square domain about the origin"), ({"gravity": "g"}, "gravity in the")):
        data = open_dataset(path)
        data.metadata.update(told)
        changed = export_dataset(data, tmp_path / f"{next(iter(told))}.h5", layout="kinn")
        with pytest.raises(ValueError, match=message):
            recipes.run_experiment(experiment, output=tmp_path / "run", data=[changed], device="cpu", progress=False)
    assert not (tmp_path / "run" / "runs").exists()


def test_without_deepxde_the_rest_of_the_table_is_made(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "deepxde", None)
    [experiment] = recipes.experiments("shallow-water", "demo")
    only = tuple(v for v in experiment.variants if v.name in ("PINN", "FNO"))
    sizes = {"train": 2, "validation": 1, "test": 1}
    source = experiment.source.but("small", samples=4, resolution=16, solver_resolution=16)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        paths = runner.run_experiment(
            replace(experiment, variants=only, resolutions=(), source=source, sizes=sizes),
            recipe="shallow-water",
            budget="demo",
            seeds=(0,),
            device="cpu",
            output=tmp_path,
            progress=False,
        )
    assert [json.loads(path.read_text())["variant"] for path in paths] == ["FNO"]
    assert any("PINN is left out" in str(w.message) and "kinn-torch[pinn]" in str(w.message) for w in caught)


@pytest.mark.parametrize("config", [{}, {"solver": {"iterations": 50}}])
def test_a_finished_record_is_not_made_again_whatever_it_says_of_its_settings(tmp_path, config):
    [experiment] = recipes.experiments("shallow-water", "demo")
    [variant] = (v for v in experiment.variants if v.name == "PINN")
    identity = json.loads(json.dumps(headers.identity_of(experiment, variant, 0)))
    path = tmp_path / "pinn-seed0.json"
    path.write_text(json.dumps({**identity, "config": config}))
    assert headers.is_done(path, identity)
    with pytest.raises(ValueError, match="its arguments is"):
        headers.is_done(path, {**identity, "arguments": {"iterations": 51, "flows": 1}})
