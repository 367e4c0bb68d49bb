"""`kinn train`: where it starts, models of one's own, data in files, what it says before it trains."""

from __future__ import annotations

import sys

import pytest
import torch
import yaml

from kinn.cli import main
from kinn.data.stores import ArrayFileStore
from kinn.models import registry
from kinn.train import load_model

SMALL = ["--model", "FNO", "--model-arguments.width", "6", "--model-arguments.n_modes", "[3, 3]"]

OWN = '''
import torch
from kinn.models import register_model

@register_model
class {name}(torch.nn.Module):
    """A convolution."""

    def __init__(self, in_channels, out_channels, *, size=3):
        super().__init__()
        self.convolve = torch.nn.Conv2d(in_channels, out_channels, size, padding=size // 2)

    def forward(self, x):
        return self.convolve(x)
'''


def train(folder, *words):
    return main(["train", "--data", f"{folder}/p.h5", "--device", "cpu", *map(str, words)])


def weights(path):
    return load_model(path).model.state_dict()


def test_a_training_starts_from_the_weights_of_a_file_and_goes_on_without_it(folder, tmp_path, capsys, monkeypatch):
    start, run = tmp_path / "start.safetensors", tmp_path / "run"
    start.write_bytes((folder / "run/model.safetensors").read_bytes())
    words = [*SMALL, "--epochs", "2", "--seed", "5", "--lr", "1e-12", "--init", start, "--output"]
    monkeypatch.setattr("kinn.train.folder.RunFolder.finish", lambda *_: 1 / 0)  # ends after the last checkpoint
    with pytest.raises(ZeroDivisionError):
        train(folder, *words, run)
    monkeypatch.undo()
    assert f"weights to start from: {start}" in capsys.readouterr().out
    assert yaml.safe_load((run / "config.yaml").read_text())["init"] == str(start)
    first, trained = weights(start), weights(run / "model.safetensors")
    assert all(torch.allclose(value, trained[name], atol=1e-6) for name, value in first.items())
    (other := tmp_path / "other.safetensors").write_bytes(start.read_bytes())
    start.write_bytes((folder / "run/model.safetensors").read_bytes()[:-4] + bytes(4))
    assert train(folder, *words, run) == 2  # another file of that name
    assert "of a run on other data: its initial is" in capsys.readouterr().err
    start.unlink()
    assert train(folder, *words, run) == 0
    assert train(folder, *words, run) == 0  # finished
    assert train(folder, *words, tmp_path / "anew") == 2
    assert f"there is no model file {start} to start from" in capsys.readouterr().err
    assert train(folder, *SMALL, "--model-arguments.width", "8", "--init", other, "--output", tmp_path / "x") == 2
    said = capsys.readouterr().err
    assert "does not fit this FNO: 'trunk.lift.weight' should have the shape" in said
    assert "34 more do not fit, ['trunk.lift.bias', " in said
    assert train(folder, *words, run, "--init", other) == 0  # it lies elsewhere, and holds the same


def test_models_of_ones_own_are_trained_and_measured(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(registry, "_MODELS", dict(registry._MODELS))
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "beside_me.py").write_text(OWN.format(name="Beside"))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "of_a_file.py").write_text(OWN.format(name="OfAFile"))
    imports = ["--import", "beside_me", "--import", "elsewhere/of_a_file.py"]
    assert train(folder, "--epochs", "1", "--model", "OfAFile", *imports, "--output", "run") == 0
    assert train(folder, "--epochs", "1", "--model", "Beside", *imports, "--output", "other") == 0
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config["import"] == ["beside_me", "elsewhere/of_a_file.py"]
    assert main(["train", "--config", "run/config.yaml", "--output", "again"]) == 0
    measured = ["evaluate", "run/model.safetensors", f"{folder}/test.h5"]
    monkeypatch.delitem(registry._MODELS, "OfAFile")
    assert main(measured) == 2
    assert "import the module that registers it first (on the command line, --import MODULE)" in capsys.readouterr().err
    monkeypatch.delitem(sys.modules, "of_a_file")
    assert main([*measured, "--import", "elsewhere/of_a_file.py"]) == 0
    (tmp_path / "json.py").write_text("")
    for name, message in (
        ("json.py", "--import json.py: its name is that of another module"),
        ("nowhere.py", "--import: there is no file nowhere.py"),
        ("nowhere", "No module named 'nowhere'"),
    ):
        capsys.readouterr()
        assert main([*measured, "--import", name]) == 2
        assert message in capsys.readouterr().err


def test_data_stay_in_the_file_where_that_is_asked_for(folder, tmp_path, monkeypatch):
    stores = []

    def fit(task, train, *_, **__):
        stores.append(type(train.inputs.store))
        raise KeyboardInterrupt

    monkeypatch.setattr("kinn.train.fit", fit, raising=False)
    assert train(folder, *SMALL, "--in-memory", "false", "--output", tmp_path / "run") == 130
    monkeypatch.setattr("kinn.data.datasets.FITS", 1)
    for words in ([], ["--in-memory", "true"]):
        assert train(folder, *SMALL, *words, "--output", tmp_path / "run") == 130
    assert [store is ArrayFileStore for store in stores] == [True, True, False]


def test_processes_of_torchruns_are_refused(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    assert train(folder, *SMALL, "--output", tmp_path / "run") == 2
    assert "kinn train starts its own: give it --devices instead" in capsys.readouterr().err


def test_an_epoch_is_told_before_it_begins(folder, tmp_path, capsys, monkeypatch):
    from kinn.data import export_dataset, from_trajectories

    def stop(*_, **__):
        raise KeyboardInterrupt

    flows = from_trajectories(torch.rand(5, 12, 1, 8, 8))
    export_dataset(flows, tmp_path / "flow.h5", layout="kinn")
    monkeypatch.setattr("kinn.train.fit", stop, raising=False)
    words = [*SMALL, "--history", "3", "--unroll", "2", "--validation", "0.2", "--epochs", "7", "--batch-size", "5"]
    assert main(["train", "--data", f"{tmp_path}/flow.h5", *words, "--output", f"{tmp_path}/run"]) == 130
    assert "An epoch: 32 windows, 7 steps; 49 steps in 7 epochs" in capsys.readouterr().out
    assert train(folder, *SMALL, "--epochs", "3", "--output", tmp_path / "run") == 130
    assert "An epoch: 22 pairs, 2 steps; 6 steps in 3 epochs" in capsys.readouterr().out
