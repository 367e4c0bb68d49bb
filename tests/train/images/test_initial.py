"""Where a training on images starts: the weights of a file, which neither it nor its model needs later."""

from __future__ import annotations

from dataclasses import replace

import pytest
import timm
import torch
import yaml

from kinn.notices import warn_once
from kinn.train.images import load_classifier, save_classifier
from kinn.train.images.saving import take_weights

SMALL = {"depths": [1, 1], "dims": [8, 16]}


@pytest.fixture
def saved(tmp_path):
    def save(name="start.safetensors", classes=5):
        torch.manual_seed(7)
        model = timm.create_model("kinn_nano", num_classes=classes, **SMALL)
        about = {"model": "kinn_nano", "model_arguments": {**SMALL, "pretrained": True}, "num_classes": classes}
        save_classifier(tmp_path / name, model, about)
        return tmp_path / name, model.state_dict()

    return save


def test_a_training_starts_from_a_file_with_a_classifier_of_its_own(saved, tmp_path, quick, fit, stopping):
    (start, weights), run = saved(), tmp_path / "run"
    still = replace(quick, lr=1e-12, warmup_lr=1e-12, final_lr=0.0, weight_decay=0.0)
    warn_once.cache_clear()
    with (
        pytest.warns(UserWarning, match=r"kinn: head\.fc\.weight, head\.fc\.bias: drawn anew, for 3 classes"),
        stopping(),
    ):
        fit(still, run, initial=start)
    assert yaml.safe_load((run / "config.yaml").read_text())["initial"] == str(start)
    found = load_classifier(run / "best.safetensors")[0].state_dict()
    for name, value in found.items():
        if not name.startswith("head.fc"):
            torch.testing.assert_close(value, weights[name])
    saved(classes=4)
    with pytest.raises(ValueError, match="of a run on other data: its initial is"):
        fit(still, run, initial=start)
    start.unlink()
    assert len(fit(still, run, initial=start).curves["epoch"]) == 3
    with pytest.raises(FileNotFoundError, match="there is no model file"):
        fit(still, tmp_path / "anew", initial=start)


def test_a_file_that_names_a_model_of_a_hub_fetches_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(timm, "create_model", lambda *args, **options: pytest.fail("asked for a model"))
    path = tmp_path / "strange.safetensors"
    about = {"model": "hf-hub:someone/model", "model_arguments": {}, "num_classes": 2}
    save_classifier(path, torch.nn.Linear(1, 2), about)
    with pytest.raises(ValueError, match=r"strange\.safetensors must hold a model that timm knows, but .*'hf-hub:"):
        load_classifier(path)


def test_weights_are_taken_by_name_and_shape(saved, tmp_path):
    path, weights = saved()
    assert load_classifier(path)[1]["model_arguments"] == SMALL  # or each load would fetch weights to replace them
    torch.save({"state_dict": {f"module.{name}": 2 * value for name, value in weights.items()}}, tmp_path / "timm.pth")
    for file, factor in ((path, 1), (tmp_path / "timm.pth", 2)):
        same = timm.create_model("kinn_nano", num_classes=5, **SMALL)
        assert take_weights(same, file) == []
        assert all(torch.equal(value, factor * weights[name]) for name, value in same.state_dict().items())
    wider = timm.create_model("kinn_nano", num_classes=5, **{**SMALL, "dims": [8, 24]})
    with pytest.raises(ValueError, match=r"does not fit this KINN: \d+ weights differ in name or shape, stages\.1\."):
        take_weights(wider, path)
    torch.save(torch.nn.Linear(2, 2), tmp_path / "code.pth")
    (tmp_path / "damaged.safetensors").write_bytes(path.read_bytes()[:-9])
    for name in ("code.pth", "damaged.safetensors"):
        with pytest.raises(ValueError, match=f"{name} holds no weights that timm reads"):
            take_weights(wider, tmp_path / name)


def test_weights_that_a_model_argument_names_are_read_once(saved, tmp_path, quick, fit, stopping):
    start, weights = saved(classes=3)
    settings = replace(quick, lr=1e-12, warmup_lr=1e-12, final_lr=0.0, weight_decay=0.0)
    settings = replace(settings, model_arguments={**SMALL, "checkpoint_path": str(start)})
    with stopping():
        fit(settings, tmp_path / "run")
    start.unlink()
    found = fit(settings, tmp_path / "run")
    model, about = load_classifier(found.folder / "model.safetensors")
    assert about["model_arguments"] == SMALL
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, weights[name])
