"""Whose a run's folder is: another run's, other data's, another process's."""

from __future__ import annotations

import pytest
import yaml

from kinn.data import from_arrays
from kinn.train import OperatorTask, TrainSettings, fit, fitting, save_model
from kinn.train.folder import RunFolder


def test_a_folder_of_another_run_is_refused_by_the_first_difference(run, pairs, parts, tmp_path):
    run()
    with pytest.raises(ValueError, match=r"optimizer\.lr is 0\.003, this run has 0\.01"):
        run(lr=0.01)
    with pytest.raises(ValueError, match=r"training\.epochs is 4, this run has 5"):
        run(epochs=5)
    run(log_every=3)  # changes nothing that is learned
    parts["train"] = pairs.subset(range(16))
    with pytest.raises(ValueError, match=r"of a run on other data: its train\.checksum"):
        run()
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["training"]["epochs"] == 4


def test_other_data_are_noticed_wherever_they_differ(parts, small_fno, tmp_path):
    def train(data):
        settings = TrainSettings(epochs=1, device="cpu")
        return fit(OperatorTask(small_fno()), data, parts["validation"], settings, tmp_path / "r", progress=False)

    train(parts["train"])
    inputs, outputs = parts["train"].batch(range(16))
    outputs[7] *= 2
    with pytest.raises(ValueError, match=r"of a run on other data: its train\.checksum"):
        train(from_arrays(inputs, outputs))


def test_a_run_that_never_began_does_not_keep_its_folder(run, monkeypatch, tmp_path):
    with monkeypatch.context() as change:
        change.setattr(fitting, "_train", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(lr=1e-3)
    (tmp_path / "run" / ".last.ckpt.xyz.part").write_bytes(b"half")  # as a process leaves it that is killed
    (tmp_path / "run" / ".note.part").write_bytes(b"the user's")
    assert run(epochs=1, lr=2e-3)[0].epochs == 1
    assert [path.name for path in (tmp_path / "run").glob(".*")] == [".note.part"]


def test_two_trainings_at_once_are_told_apart(run, tmp_path):
    with RunFolder(tmp_path / "run").alone(), pytest.raises(ValueError, match=r"another process trains in .*run"):
        run(epochs=1)
    assert not list(tmp_path.iterdir())
    run(epochs=1)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    with RunFolder(tmp_path / "run").alone():
        run(epochs=1)  # is finished: nothing is written


def test_where_nothing_can_be_locked_trainings_go_on(run, monkeypatch):
    def refuse(*_, **__):
        raise OSError(37, "No locks available")

    monkeypatch.setattr("kinn.locks.FileLock.acquire", refuse)
    with pytest.warns(UserWarning, match=r"run is made unguarded \(.*No locks available\)"):
        run(epochs=1)


def test_weights_that_do_not_fit_leave_no_folder(parts, small_fno, tmp_path):
    save_model(tmp_path / "other.safetensors", small_fno(in_channels=2))
    with pytest.raises(ValueError, match="does not fit this FNO"):
        fit(OperatorTask(small_fno()), parts["train"], parts["validation"], TrainSettings(epochs=1, device="cpu"),
            tmp_path / "run", initial=tmp_path / "other.safetensors", progress=False)  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["other.safetensors"]


def test_a_configuration_of_the_callers_own_is_saved_and_compared(parts, small_fno, tmp_path):
    def run(config):
        settings = TrainSettings(epochs=1, device="cpu")
        args = OperatorTask(small_fno()), parts["train"], parts["validation"], settings, tmp_path
        return fit(*args, config=config, progress=False)

    config = {"data": "a.h5", "validation": "v.h5", "epochs": 1}
    run(config)
    assert yaml.safe_load((tmp_path / "config.yaml").read_text()) == config
    with pytest.raises(ValueError, match=r"its more\.a is None, this run has 2"):
        run({**config, "more": {"a": 2}})
    run({**config, "more": {}})
    run({"data": "moved/a.h5", "validation": "moved/v.h5", "epochs": 1})  # the same data, wherever they lie
    with pytest.raises(ValueError, match="its epochs is 1, this run has 2"):
        run({**config, "epochs": 2})


def test_a_folder_that_cannot_be_one_is_refused(run, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="should be a folder for the run, but is a file"):
        run("file")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "model.safetensors").write_text("")
    with pytest.raises(ValueError, match="holds a model but no config"):
        run("foreign")
