from __future__ import annotations

import json
import subprocess
import sys
import warnings

import h5py
import pytest
import torch
import yaml

from kinn import recipes
from kinn.cli import main
from kinn.data import open_dataset
from kinn.models import FKNO
from kinn.nn import time_scales
from kinn.train import load_model, save_model

CIRCUIT = ["circuit", "{0}/run/model.safetensors"]
EVALUATE = ["evaluate", "{0}/run/model.safetensors", "{0}/test.h5"]
SMALL = ["--model", "FNO", "--model-arguments.width", "6", "--model-arguments.n_modes", "[3, 3]", "--epochs", "2"]


def error_of(capsys, *arguments):
    """The one line that a user's error gives."""
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line]
    assert len(lines) == 1
    return lines[0]


def test_notices_are_shown_without_the_place_in_a_library(monkeypatch):
    shown = []
    monkeypatch.setattr("kinn.cli._parser", lambda _: shown.append(warnings.formatwarning) or sys.exit(0))
    before = warnings.formatwarning
    assert main(["train"]) == 0
    assert warnings.formatwarning is before
    assert shown[0](UserWarning("kinn: slow"), UserWarning, "lib.py", 3) == "kinn: slow\n"
    assert shown[0](UserWarning("other"), UserWarning, "lib.py", 3).startswith("lib.py:3: UserWarning: other")


def test_the_bare_command_shows_its_help(capsys):
    assert main([]) == 0
    assert "kinn COMMAND [options]" in capsys.readouterr().out


def test_the_circuits_of_a_trained_model(folder, capsys):
    capsys.readouterr()
    model, output = f"{folder}/fkno.safetensors", folder / "c.json"
    save_model(model, FKNO(1, 1, width=4, n_modes=(2, 2), d_state=2))
    for data, samples in (([], None), (["--data", f"{folder}/test.h5", "--samples", "999"], 5)):
        assert main(["circuit", model, *data, "--output", str(output)]) == 0
        cells = json.loads(output.read_text())["cells"]
        assert json.loads(output.read_text())["samples"] == samples
        assert len(cells) == len(time_scales(load_model(model).model))
        assert f"{cells[0]['time_constant'][1]:.3g}" in capsys.readouterr().out
    assert cells[0]["step"] != list(time_scales(load_model(model).model)[0].step)  # selective


def test_the_saved_configuration_replays_the_run(folder):
    assert main(["train", "--config", f"{folder}/run/config.yaml", "--output", f"{folder}/replay"]) == 0
    first, second = (load_model(folder / name / "model.safetensors").model.state_dict() for name in ("run", "replay"))
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert (folder / "run" / "config.yaml").read_text() == (folder / "replay" / "config.yaml").read_text()
    config = yaml.safe_load((folder / "run" / "config.yaml").read_text())
    assert config["model_arguments"] == {"width": 6, "n_modes": [3, 3]}
    assert config["history"] is None  # pairs have no use for it


def test_a_finished_run_says_so(folder, capsys):
    capsys.readouterr()
    assert main(["train", "--config", f"{folder}/run/config.yaml", "--output", f"{folder}/run"]) == 0
    said = capsys.readouterr().out
    assert "finished before" in said
    assert "Best of 2 epochs" in said


def test_the_seed_reaches_the_initial_weights(folder):
    config = ["train", "--config", f"{folder}/run/config.yaml", "--output", f"{folder}/seed1", "--seed", "1"]
    assert main(config) == 0
    first, second = (load_model(folder / name / "model.safetensors").model.state_dict() for name in ("run", "seed1"))
    assert not any(torch.equal(value, second[name]) for name, value in first.items() if value.dim() > 1)


def test_trajectories_train_a_forecaster(tmp_path, capsys):
    flow = ["--resolution", "8", "--solver-resolution", "16", "--samples", "4", "--final-time", "8"]
    assert main(["generate", "navier-stokes", "--output", f"{tmp_path}/flow.h5", *flow]) == 0
    options = ["--history", "3", "--unroll", "2", "--validation", "0.25", "--predict-increment", "true"]
    run = ["--output", f"{tmp_path}/run", "--device", "cpu"]
    assert main(["train", "--data", f"{tmp_path}/flow.h5", *SMALL, *options, *run]) == 0
    trained = load_model(tmp_path / "run" / "model.safetensors")
    assert trained.rollout is not None
    assert (trained.rollout.n_history, trained.rollout.predict_increment) == (3, True)
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    forecast = {"history": 3, "unroll": 2, "window_stride": 1, "predict_increment": True, "input_noise": 0}
    assert forecast.items() <= config.items()
    assert trained.metadata["arguments"]["in_channels"] == 3
    capsys.readouterr()
    assert main(["evaluate", f"{tmp_path}/run/model.safetensors", f"{tmp_path}/flow.h5"]) == 0
    assert "by rollout step:  1:" in capsys.readouterr().out


def test_a_validation_file_of_its_own(folder, capsys):
    capsys.readouterr()
    options = ["--validation", f"{folder}/test.h5", "--output", f"{folder}/own", "--device", "cpu"]
    assert main(["train", "--data", f"{folder}/p.h5", *SMALL, *options]) == 0
    assert "OperatorDataset(24 pairs, 1 -> 1 channels, grid (16, 16)); validation on 5" in capsys.readouterr().out


DARCY = ["darcy", "--samples", "3", "--resolution", "8", "--beta", "2", "--high", "3", "--low", "0.5", "--bumps", "2"]
DAM = ["shallow-water", "--samples", "2", "--resolution", "8", "--solver-resolution", "16", "--n-frames", "3"]
DAM += ["--final-time", "0.2", "--gravity", "2", "--inner-height", "3", "--outer-height", "2", "--radius", "0.5", "0.6"]
FLOW = ["--resolution", "8", "--solver-resolution", "16"]
EQUATIONS = {
    "poisson": ["poisson", "--samples", "2", "--resolution", "8", "--max-mode", "3"],
    "navier-stokes": ["navier-stokes", *FLOW, "--samples", "2", "--final-time", "2"],
    "darcy": DARCY,
    "shallow-water": DAM,
}


def test_options_reach_the_equations(tmp_path):
    assert main(["generate", *DARCY, "--output", f"{tmp_path}/darcy.h5", "--seed", "5", "--chunk", "2"]) == 0
    darcy = open_dataset(tmp_path / "darcy.h5")
    given = {"beta": 2, "high": 3, "low": 0.5, "bumps": 2, "samples": 3, "resolution": 8, "seed": 5}
    assert given.items() <= darcy.metadata.items()
    assert set(darcy.batch(range(3))[0].unique().tolist()) == {0.5, 3}
    assert main(["generate", *DAM, "--output", f"{tmp_path}/dam.h5"]) == 0
    dam = open_dataset(tmp_path / "dam.h5")
    given = {"gravity": 2, "inner_height": 3, "outer_height": 2, "radius": [0.5, 0.6], "solver_resolution": 16}
    assert given.items() <= dam.metadata.items()
    assert dam.time == [0, 0.1, 0.2]
    assert (dam[0][0].amax(), dam[0][0].amin()) == (2.75, 2)  # three of the four solver cells at the centre are inside


@pytest.mark.parametrize(
    ("equation", "arrays"),
    [
        ("poisson", ["Sample_0/input", "Sample_1/output", "min_inp", "max_out"]),
        ("navier-stokes", ["u", "t"]),
        ("darcy", ["nu", "tensor", "x-coordinate"]),
        ("shallow-water", ["0000/data", "0001/grid/t"]),
    ],
)
def test_public_layouts_hold_the_same_numbers(equation, arrays, tmp_path, capsys):
    options = ["generate", *EQUATIONS[equation]]
    assert main([*options, "--output", f"{tmp_path}/ours"]) == 0
    assert main([*options, "--output", f"{tmp_path}/public", "--layout", "public"]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ours", "public"]
    with h5py.File(tmp_path / "public") as file:
        assert all(name in file for name in arrays)
    ours, public = open_dataset(tmp_path / "ours"), open_dataset(tmp_path / "public")
    for a, b in zip(ours, public, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    told = None if equation == "navier-stokes" else equation  # Li's files say it by their names alone
    assert public.metadata.get("equation") == told
    assert public.metadata.get("beta") == ours.metadata.get("beta")
    assert getattr(public, "time", None) == getattr(ours, "time", None)
    assert "already: choose another --output" in error_of(
        capsys, *options, "--output", tmp_path / "public", "--layout", "public"
    )
    assert main([*options, "--output", f"{tmp_path}/public", "--layout", "public", "--overwrite"]) == 0


def test_a_stopped_export_keeps_what_was_solved(tmp_path, monkeypatch, capsys):
    def stop(*_, **__):
        raise KeyboardInterrupt

    command = ["generate", *DARCY, "--output", f"{tmp_path}/d.h5", "--layout", "public", "--overwrite"]
    with monkeypatch.context() as patch:
        patch.setattr("kinn.data.export_dataset", stop)
        assert main(command) == 130
    assert "the same command goes on where this one stopped" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["d.h5.kinn.h5"]
    monkeypatch.setattr("kinn.data.generators.darcy.solve_darcy", stop)
    assert main(command) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["d.h5"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--data", "{0}/p.h5"], "required: --output; see kinn train --help"),
        (["train", "--data", "{0}/none.h5", "--output", "x"], "there is no data file"),
        (["train", "--data", "{0}/run/config.yaml", "--output", "x"], "neither an HDF5 nor a MATLAB file"),
        (["train", "--data", "{0}/p.h5", "--output", "x", "--model", "Net"], "known models: CNO, FKNO, FNO"),
        (
            ["train", "--data", "{0}/p.h5", "--output", "x", "--model-arguments.wings", "2"],
            "argument 'wings'; its arguments are in_channels, out_channels,",
        ),
        (["train", "--data", "{0}/p.h5", "--output", "x", "--lr", "fast"], "--lr: Expected a float. Got value: fast"),
        (["train", "--data", "{0}/p.h5", "--output", "x", "--lr", "-1"], "lr must be above 0, but is -1.0"),
        (
            ["train", "--data", "{0}/p.h5", "--output", "x", "--optimizer", "sgd"],
            "--optimizer: Expected one of 'adam', 'adamw'. Got value: sgd;",
        ),
        (
            ["train", "--data", "{0}/p.h5", "--output", "x", "--loss", "h2"],
            "--loss: Expected one of 'relative_l1', 'relative_l2', 'mse'. Got value: h2;",
        ),
        (
            ["train", "--data", "{0}/p.h5", "--output", "x", "--model.order", "1"],
            "--model: takes a value of its own, and has no option .order",
        ),
        (["train", "--data", "{0}/p.h5", "--output", "x", "--lrate", "1"], "unrecognized arguments: --lrate 1"),
        (
            ["train", "--data", "{0}/p.h5", "--output", "x", "--history", "10", "--window-stride", "2"],
            "got --history 10, --window-stride 2, which forecasts take, but",
        ),
        (["train", "--data", "{0}/p.h5", "--output", "x", "--validation", "2"], "between 0 and 1, or a data file"),
        (["train", "--data", "{0}/p.h5", "--output", "x", "--validation", "0.99"], "too few for training"),
        (
            ["train", "--data", "{0}/p.h5", "--output", "x", "--seed", "20240115123045"],
            "at most 4294967295, but is",
        ),
        (
            ["train", "--data", "{0}/p.h5", "--output", "x", "--model-arguments.width", "[3, 3"],
            "a model argument cannot be read: '[3, 3' (while parsing",
        ),
        (
            ["train", "--data", "{0}/p.h5", "--output", "x", "--validation", "{0}/rgb.h5"],
            "rgb.h5 holds OperatorDataset(3 pairs, 3 -> 1 channels",
        ),
        (["train", "--data", "{0}/p.h5", "--output", "{0}/p.h5"], "should be a folder for the run, but is a file"),
        (["train", "--config", "{0}/none.yaml", "--output", "x"], "File does not exist"),
        (
            ["train", "--config", "{0}/run/config.yaml", "--output", "{0}/run", "--lr", "0.1"],
            "its lr is 0.001,",
        ),
        (
            ["train", "--data", "{0}/flat.h5", "--output", "x"],
            "no axis of channels, from_arrays(..., channel_axis=None)",
        ),
        (["train", "--data", "{0}/line.h5", "--output", "x"], "line.h5 holds OperatorDataset(3 pairs, 1 -> 1 channels"),
        (["evaluate", "{0}/p.h5", "{0}/p.h5"], "is not a kinn model"),
        (["evaluate", "{0}/run/last.ckpt", "{0}/p.h5"], "its best model is {0}/run/model.safetensors"),
        ([*EVALUATE, "--output", "{0}/test.h5"], "--output {0}/test.h5 is DATA itself"),
        ([*EVALUATE, "--predictions", "{0}/run/model.safetensors"], "model.safetensors is MODEL itself"),
        ([*EVALUATE, "--output", "x", "--predictions", "x"], "--predictions x is --output itself"),
        ([*EVALUATE, "--output", "{0}/p.h5"], "--output {0}/p.h5 exists and is no result"),
        ([*EVALUATE, "--output", "{0}"], "--output must be a file, but {0} is a folder"),
        ([*CIRCUIT, "--output", "{0}/run/model.safetensors"], "model.safetensors is MODEL itself"),
        (["evaluate", "{0}/run/model.safetensors", "{0}/p.h5", "--device", "abacus"], "'abacus' cannot be used here"),
        (["evaluate", "{0}/run/model.safetensors", "{0}/p.h5", "--batch-size", "0"], "--batch-size must be at least 1"),
        (["circuit", "{0}/run/model.safetensors"], "FNO has no Kirchhoff block"),
        (["circuit", "{0}/run/model.safetensors", "--samples", "0"], "--samples must be at least 1"),
        (["generate", "poisson"], "required: --output; see kinn generate poisson --help"),
        (["generate", "poisson", "--output", "{0}/p.h5", "--samples", "3"], "already holds other data"),
        (["generate", "heat", "--output", "x"], "'poisson', 'navier-stokes', 'darcy', 'shallow-water'"),
        (["generate", "darcy", "--low", "none"], "see kinn generate darcy --help"),
        (["generate", "shallow-water", "--output", "x", "--radius", "1"], "see kinn generate shallow-water --help"),
        (["generate", "darcy", "--output", "x", "--low", "-1"], "must be positive, but are 128, 1.0 and -1.0"),
        (["generate", "poisson", "--output", "{0}", "--layout", "public", "--overwrite"], "exists already"),
        (["generate", "poisson", "--output", "x", "--layout", "cno"], "--layout"),
        (["reproduce", "nothing"], "unknown recipe 'nothing'; known recipes: demo"),
        (["report", "{0}/none"], "none"),
        (["report", "{0}/p.h5"], "p.h5 is a file: give the folder with the records"),
        (["evaluate", "{0}/run/model.safetensors"], "required: DATA; see kinn evaluate --help"),
        (["evaluate", "image"], "required: MODEL, DATA; see kinn evaluate image --help"),
        (["dance"], "invalid choice: 'dance'"),
    ],
)
def test_a_users_error_is_one_sentence(folder, capsys, monkeypatch, tmp_path, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert message.format(folder) in error_of(capsys, *(argument.format(folder) for argument in arguments))
    assert not list(tmp_path.rglob("*.safetensors"))


def test_debug_shows_where_an_error_comes_from(folder):
    with pytest.raises(FileNotFoundError):
        main(["evaluate", "none", f"{folder}/p.h5", "--debug"])
    assert main(["--debug", "train", "image", "--help"]) == 0


@pytest.mark.parametrize("error", [OSError(28, "No space left on device", "x"), ImportError("needs Lightning")])
def test_a_full_disk_and_a_missing_extra(folder, capsys, monkeypatch, error, tmp_path):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("kinn.train.fit", fail, raising=False)
    said = error_of(capsys, "train", "--data", f"{folder}/p.h5", *SMALL, "--output", tmp_path / "x")
    assert said in ("Error: No space left on device: x", "Error: needs Lightning")


def test_memory_that_runs_out_is_a_sentence(capsys, monkeypatch):
    """Of a CPU, where torch raises a plain RuntimeError, as of a GPU; other RuntimeErrors are ours to mend."""

    def of_a_gpu(_):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    for fails in (lambda _: torch.empty(2**50), of_a_gpu):
        monkeypatch.setattr("kinn.cli._parser", fails)
        assert "not enough memory: try a smaller --batch-size" in error_of(capsys, "train")
    monkeypatch.setattr("kinn.cli._parser", lambda _: torch.eye(2) @ torch.eye(3))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        main(["train"])


def test_ctrl_c_says_how_to_go_on(folder, capsys, monkeypatch, tmp_path):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("kinn.train.fit", stop, raising=False)
    assert main(["train", "--data", f"{folder}/p.h5", *SMALL, "--output", str(tmp_path / "x")]) == 130
    assert "goes on from the last finished epoch" in capsys.readouterr().err


@pytest.fixture
def record(tmp_path):
    path = tmp_path / "records" / "r.json"
    path.parent.mkdir()
    content = {"schema": 1, "experiment": "poisson", "variant": "UKNO", "role": "ours", "seed": 0}
    path.write_text(
        json.dumps({**content, "primary_metric": "relative_l2", "metrics": {"test": {"relative_l2": 0.01}}})
    )
    return path


def test_reproduce_runs_the_recipe_and_reports(record, tmp_path, capsys, monkeypatch):
    calls = []
    monkeypatch.setattr(recipes, "run", lambda name, **options: calls.append((name, options)) or [record])
    chosen = ["--seeds", "0", "3", "--device", "cpu", "--variants", "UKNO"]
    other = {**json.loads(record.read_text()), "variant": "FNO"}  # of an earlier call
    record.with_name("other.json").write_text(json.dumps(other))
    assert main(["reproduce", "demo", "--output", str(tmp_path), *chosen]) == 0
    options = {"budget": "demo", "seeds": [0, 3], "device": "cpu", "output": tmp_path}
    options |= {"devices": 1, "data": [], "variants": ["UKNO"]}
    assert calls == [("demo", options)]
    assert "FNO" in (tmp_path / "report.html").read_text()
    said = capsys.readouterr().out
    assert "UKNO" in said
    assert "FNO" in said.replace("UKNO", "")


def test_reproduce_with_nothing_to_show_says_so(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("kinn.recipes.run", lambda *args, **options: [])
    assert main(["reproduce", "demo", "--output", f"{tmp_path}/out"]) == 1
    assert "No contender has a result" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_reproduce_without_a_name_lists_the_recipes(capsys):
    assert main(["reproduce"]) == 0
    listed = capsys.readouterr().out
    assert all(f"kinn reproduce {name} " in listed for name in recipes.names())


def test_report_draws_the_records_of_a_folder(record, capsys):
    assert main(["report", str(record.parent)]) == 0
    assert (record.parent / "report.html").exists()
    assert "report.html" in capsys.readouterr().out


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["generate"],
        *(["generate", name] for name in EQUATIONS),
        ["train"],
        ["evaluate"],
        ["reproduce"],
        ["circuit"],
    ],
)
def test_help_has_a_sentence_an_example_and_no_python(command, capsys):
    assert main([*command, "--help"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("usage: kinn")
    assert "Example" in text or "A first journey" in text
    assert "kinn " + " ".join(command) in text
    assert not [word for word in ("<class", "Literal[", "Optional[", "type:", "(required) (required)") if word in text]
    assert max(map(len, text.splitlines())) <= 110


def test_as_a_program():
    done = subprocess.run([sys.executable, "-m", "kinn", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("kinn 0.")
    code = "import sys; from kinn.cli import main; main(['--help'])\n"
    code += "assert not {'lightning', 'matplotlib'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_a_missing_extra_is_named(monkeypatch, capsys):
    def missing(parser):
        raise ModuleNotFoundError("No module named 'timm'", name="timm")

    monkeypatch.setattr("kinn.cli.image._train_options", missing)
    assert main(["train", "image", "--help"]) == 2
    assert "this command needs timm: pip install 'kinn-torch[vision]'" in capsys.readouterr().err
