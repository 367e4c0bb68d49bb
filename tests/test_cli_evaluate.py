"""`kinn evaluate`: what it measures, keeps and refuses to mix."""

from __future__ import annotations

import json
import re
import shutil
import warnings

import h5py
import pytest
import torch

from kinn.cli import main
from kinn.data import export_dataset, from_arrays, from_trajectories, open_dataset
from kinn.metrics import relative_l2
from kinn.models import FKNO, FNO
from kinn.notices import warn_once
from kinn.report import load_records
from kinn.train import Rollout, evaluate, load_model, save_model


def test_a_trained_model_is_measured(folder, capsys):
    capsys.readouterr()
    model, data = f"{folder}/run/model.safetensors", f"{folder}/test.h5"
    assert main(["evaluate", model, data, "--output", f"{folder}/e.json", "--batch-size", "2"]) == 0
    expected = evaluate(load_model(model), open_dataset(data)).metrics
    record = json.loads((folder / "e.json").read_text())
    assert record["metrics"]["test"] == pytest.approx(expected, rel=1e-5)
    assert record["notes"] == []
    assert (record["variant"], record["role"], record["seed"], record["data"]["test"]) == ("FNO", "baseline", 0, 5)
    assert f"{expected['relative_l2']:.4g}" in capsys.readouterr().out


def test_evaluations_in_a_folder_make_a_report(folder, capsys):
    """Two contenders, one of them with two seeds, of a user's own training on a user's own data."""
    data, compared = f"{folder}/test.h5", folder / "compared"
    for seed, config in ((0, {"seed": 0}), (1, {"training": {"seed": 1}})):  # as kinn train and recipes keep it
        model = FKNO(1, 1, width=4, n_modes=(2, 2), d_state=2)
        save_model(f"{folder}/fkno{seed}.safetensors", model, extra={"config": config})
        own = ["--name", "FKNO-4", "--output", f"{compared}/fkno-{seed}.json"]
        assert main(["evaluate", f"{folder}/fkno{seed}.safetensors", data, *own]) == 0
    assert main(["evaluate", f"{folder}/run/model.safetensors", data, "--output", f"{compared}/fno.json"]) == 0
    [experiment] = load_records(compared)
    assert (experiment.name, experiment.title) == ("test", "test.h5, 16 x 16")
    assert [(v.name, v.role, len(v.records)) for v in experiment.variants] == [
        ("FNO", "baseline", 1),
        ("FKNO-4", "ours", 2),
    ]
    assert main(["report", str(compared), "--paper", f"{folder}/paper"]) == 0
    page = (compared / "report.html").read_text()
    assert "FKNO-4" in page
    assert "3 evaluations of 2 models" in page
    assert "took no part in training" not in page
    assert "FKNO-4" in next((folder / "paper").glob("*.tex")).read_text()


def test_a_record_is_drawn_and_ranked_as_asked_for(folder, tmp_path, capsys):
    flows = from_trajectories(torch.rand(4, 6, 1, 8, 8))
    export_dataset(flows, tmp_path / "flow.h5", layout="kinn")
    save_model(tmp_path / "m.safetensors", FNO(2, 1, width=4, n_modes=(2, 2)), rollout=Rollout(n_history=2))
    measure = ["evaluate", f"{tmp_path}/m.safetensors", f"{tmp_path}/flow.h5", "--output", f"{tmp_path}/r/e.json"]
    drawn = ["--pictures", "3", "1", "--steps", "2", "-1"]
    words = ["--role", "ours", "--title", "Flows", "--metric", "rmse_normalized", *drawn]
    assert main([*measure, *words]) == 0
    record = json.loads((tmp_path / "r" / "e.json").read_text())
    assert (record["role"], record["title"], record["primary_metric"]) == ("ours", "Flows", "rmse_normalized")
    assert record["command"].endswith("--role ours --title Flows --metric rmse_normalized --pictures 3 1 --steps 2 -1")
    assert [(field["label"], field["step"]) for field in record["fields"]] == [
        ("sample 3", 2),
        ("sample 3", 4),
        ("sample 1", 2),
        ("sample 1", 4),
    ]
    assert [spectrum["step"] for spectrum in record["spectra"]] == [2, 4]
    assert load_records(tmp_path / "r")[0].primary_metric == "rmse_normalized"
    for words, message in (
        (["--pictures", "0", "4"], "--pictures must be from 0 to 3"),
        (["--pictures", "-1"], "--pictures must be from 0 to 3"),
        (["--steps", "5"], "there is no rollout step 5: steps count from 1 to 4"),
        (["--metric", "l2"], "--metric must be one of rmse, nrmse,"),
        (["--role", "theirs"], "--role: Expected one of 'ours', 'baseline'"),
    ):
        capsys.readouterr()
        assert main([*measure, *words]) == 2
        assert message in capsys.readouterr().err
    seen = []
    with pytest.raises(IndexError, match="no rollout step 5: steps count from 1 to 4"):
        evaluate(load_model(measure[1]), flows, field_steps=(5,), progress=lambda *done: seen.append(done))
    assert not seen
    assert main([*measure[:3], "--steps", "5"]) == 2


def test_errors_on_samples_of_the_training_are_called_so(folder, tmp_path):
    words = ["evaluate", f"{folder}/run/model.safetensors", f"{folder}/p.h5", "--output", f"{tmp_path}/e.json"]
    warn_once.cache_clear()
    with pytest.warns(UserWarning, match=r"these samples took part in the training.*p\.h5"):
        assert main(words) == 0
    [note] = json.loads((tmp_path / "e.json").read_text())["notes"]
    assert note.startswith("FNO: these samples took part in the training")


def test_evaluations_that_do_not_compare_are_told_apart(folder, tmp_path):
    model, data, wider = f"{folder}/run/model.safetensors", f"{folder}/test.h5", tmp_path / "wider.safetensors"
    save_model(wider, FNO(1, 1, width=8, n_modes=(3, 3)), extra={"config": None})
    other = tmp_path / "test.h5"
    shutil.copy(f"{folder}/p.h5", other)
    for name, words in (("a", [model, data]), ("wider", [wider, data]), ("other", [wider, other, "--name", "wide"])):
        assert main(["evaluate", *map(str, words), "--output", f"{tmp_path}/{name}.json"]) == 0
    with pytest.raises(ValueError, match=r"a\.json and .*wider\.json are both seed 0 of FNO, .*kinn evaluate --name"):
        load_records([tmp_path / "a.json", tmp_path / "wider.json"])
    with pytest.raises(ValueError, match=r"a\.json and .*other\.json are of different data under one name"):
        load_records([tmp_path / "a.json", tmp_path / "other.json"])


def test_errors_of_several_channels_are_told_apart(folder, tmp_path, capsys):
    pairs = open_dataset(f"{folder}/test.h5")
    inputs, outputs = pairs.inputs.read(range(5)), pairs.outputs.read(range(5))
    two = from_arrays(inputs, torch.cat((outputs, 2 * outputs), dim=1))
    two.metadata["channels"] = names = ["u [m/s]", "rate [/s]"]
    export_dataset(two, tmp_path / "two.h5", layout="kinn")
    save_model(tmp_path / "m.safetensors", FNO(1, 2, width=4, n_modes=(2, 2)))
    words = ["evaluate", f"{tmp_path}/m.safetensors", f"{tmp_path}/two.h5", "--output", f"{tmp_path}/e.json"]
    assert main(words) == 0
    prediction = load_model(tmp_path / "m.safetensors").predict(inputs)
    found = json.loads((tmp_path / "e.json").read_text())["channels"]
    assert list(found) == names
    expected = [relative_l2(prediction[:, :1], outputs), relative_l2(prediction[:, 1:], 2 * outputs)]
    assert [errors["relative_l2"] for errors in found.values()] == pytest.approx(expected, rel=1e-5)
    said = capsys.readouterr().out
    assert "by channel" in said
    assert all(name in said for name in names)


def test_predicted_fields_are_kept(folder, capsys):
    model, data, path = f"{folder}/run/model.safetensors", f"{folder}/test.h5", folder / "predicted.h5"
    command = ["evaluate", model, data, "--batch-size", "2", "--predictions"]
    expected = load_model(model).predict(open_dataset(data).inputs.read(range(5)))
    for _ in range(2):  # predictions are replaced
        assert main([*command, str(path)]) == 0
        with h5py.File(path) as file:
            torch.testing.assert_close(torch.as_tensor(file["prediction"][:]), expected)
            assert (file.attrs["model"], file.attrs["data"], file.attrs["dt_scale"]) == (model, data, 1)
        assert path.stat().st_size < 1.2 * expected.numel() * 4 + 20_000
    # anything else is not
    assert main([*command, f"{folder}/p.h5"]) == 2
    assert "holds no predictions: choose another path" in capsys.readouterr().err
    assert len(open_dataset(f"{folder}/p.h5")) == 24
    assert not list(folder.glob("*.part"))


def test_a_grid_unlike_the_training_calls_for_its_spacing(folder, capsys):
    model, data = f"{folder}/coarse.safetensors", f"{folder}/test.h5"
    grid = open_dataset(data).grid
    save_model(model, FKNO(1, 1, width=4, n_modes=(2, 2), d_state=2), extra={"grid": [n // 2 for n in grid]})
    told = f"set it to 0.5 (centres of cells, or periodic) or {(grid[0] // 2 - 1) / (grid[0] - 1):.6g} (nodes with both"
    for measure in (
        lambda: main(["evaluate", model, data]),
        lambda: load_model(model).predict(torch.rand(1, 1, *grid)),
    ):
        warn_once.cache_clear()
        with pytest.warns(UserWarning, match=re.escape(told)):
            measure()
    warn_once.cache_clear()
    with pytest.warns(UserWarning, match="refined by different ratios"):
        load_model(model).predict(torch.rand(1, 1, grid[0], 3 * grid[1]))
    warn_once.cache_clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert main(["evaluate", model, data, "--dt-scale", "0.5"]) == 0
        load_model(model).predict(torch.rand(1, 1, *(n // 2 for n in grid)))


def test_a_data_set_is_no_field(folder):
    with pytest.raises(TypeError, match=r"got OperatorDataset.*\.inputs\.read\(range\(4\)\)"):
        load_model(f"{folder}/run/model.safetensors").predict(open_dataset(f"{folder}/test.h5"))
