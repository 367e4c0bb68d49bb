"""Training on images: folders to model files, resume to the bit, averages, schedules, what cannot be trained."""

from __future__ import annotations

from dataclasses import replace

import pytest
import timm
import torch

from kinn.train.folder import RunFolder
from kinn.train.images import evaluate_images, fit_images, fitting, load_classifier, open_images
from kinn.train.images.sources import class_names
from kinn.train.images.task import ImageTask
from kinn.train.processes import Process


def test_a_folder_becomes_a_classifier_that_knows_its_classes(folder, trained):
    assert class_names(open_images(folder, "train")) == ["dark", "light", "striped"]
    assert trained.curves["ema_top1"][-1] > 90  # a third by chance
    model, about = load_classifier(trained.folder / "model.safetensors")
    assert (about["weights"], about["classes"], about["epoch"]) == ("ema", ["dark", "light", "striped"], 12)
    assert about["validation"]["ema_top1"] == trained.curves["ema_top1"][-1]
    assert not model.training


def test_files_hold_the_average_the_best_of_it_and_the_weights_themselves(trained):
    found = {name: load_classifier(trained.folder / f"{name}.safetensors")[1] for name in ("model", "best", "raw")}
    assert [about["weights"] for about in found.values()] == ["ema", "ema", "raw"]
    assert found["best"]["epoch"] == trained.best_epoch
    assert found["best"]["validation"]["ema_top1"] == max(trained.curves["ema_top1"])
    raw, ema = (load_classifier(trained.folder / f"{name}.safetensors")[0].state_dict() for name in ("raw", "model"))
    assert any(not torch.equal(raw[name], ema[name]) for name in raw)


def test_without_an_average_the_weights_themselves_are_reported(tmp_path, quick, fit):
    run = fit(replace(quick, ema=0.0, epochs=1), tmp_path)
    assert run.curves["validation_loss"] == run.curves["raw_loss"]
    assert "ema_loss" not in run.curves
    assert load_classifier(tmp_path / "model.safetensors")[1]["weights"] == "raw"


def test_timm_reads_the_file(trained):
    settings = {"depths": (1, 1), "dims": (8, 16), "num_classes": 3}
    model = timm.create_model("kinn_nano", checkpoint_path=trained.folder / "model.safetensors", **settings).eval()
    x = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(model(x), load_classifier(trained.folder / "model.safetensors")[0](x))


def test_an_interrupted_training_goes_on_to_the_same_numbers(folder, tmp_path, stopping, quick, fit, assert_equal_runs):
    whole = fit(quick, tmp_path / "whole")
    with stopping():
        fit(quick, tmp_path / "parts")
    assert_equal_runs(fit(replace(quick, workers=2), tmp_path / "parts"), whole)  # whoever reads the images


def test_a_finished_training_returns_at_once_and_another_needs_its_own_folder(
    folder, tmp_path, monkeypatch, quick, fit
):
    first = fit(quick, tmp_path)
    monkeypatch.setattr(fitting, "_train", None)
    assert fit(quick, tmp_path).curves == first.curves
    with pytest.raises(ValueError, match=r"lr is 0.004, this run has 0.001"):
        fit(replace(quick, lr=1e-3), tmp_path)
    with RunFolder(tmp_path / "run").alone(), pytest.raises(ValueError, match=r"another process trains in .*run"):
        fit(quick, tmp_path / "run")


def test_accumulated_parts_take_the_steps_of_the_whole_batch(folder, tmp_path, quick, fit):
    plain = replace(quick, mixup=0.0, cutmix=0.0, auto_augment="", scale=None, erasing=0.0, drop_path=0.0, epochs=2)
    whole = fit(plain, tmp_path / "whole")
    parts = fit(replace(plain, accumulate=2), tmp_path / "parts")
    assert parts.curves["raw_loss"] == pytest.approx(whole.curves["raw_loss"], rel=1e-4)


def test_the_average_follows_the_weights_and_decay_spares_what_it_should(folder, quick):
    model = timm.create_model("kinn_nano", num_classes=3)
    task = ImageTask(model, replace(quick, layer_decay=0.5), classes=3, steps_per_epoch=4, process=Process())
    optimizer = task.configure_optimizers()["optimizer"]
    decayed = {id(p) for group in optimizer.param_groups if group["weight_decay"] for p in group["params"]}
    spared = model.no_weight_decay()
    for name, parameter in model.named_parameters():
        assert (id(parameter) in decayed) == (name not in spared), name
    rates = {id(p): group["initial_lr"] for group in optimizer.param_groups for p in group["params"]}
    first, last = model.stem.down1.conv.weight, model.head.fc.weight
    assert rates[id(last)] == quick.lr
    assert rates[id(first)] < rates[id(last)] / 16


def test_a_model_without_stochastic_depth_is_trained_without(folder, tmp_path, quick, fit):
    settings = replace(quick, model="ghostnet_100", model_arguments={})
    with pytest.raises(ValueError, match="ghostnet_100 knows no stochastic depth: leave drop_path out"):
        fit(settings, tmp_path / "asked")
    with pytest.raises(ValueError, match="stochastic depth is the setting drop_path"):
        fit(replace(quick, model_arguments={"drop_path_rate": 0.5}), tmp_path / "other")
    with pytest.warns(UserWarning, match="ghostnet_100 knows no stochastic depth"):
        made = fitting._model(replace(settings, drop_path=None), 3)
    assert made.num_classes == 3


def test_grey_images(folder, tmp_path, quick, fit):
    grey = replace(quick, model_arguments={**quick.model_arguments, "in_chans": 1})
    run = fit(grey, tmp_path / "run")
    model, about = load_classifier(run.folder / "model.safetensors")
    assert model.stem.down1.conv.in_channels == len(about["mean"]) == 1
    found = evaluate_images(run.folder / "raw.safetensors", open_images(folder, "validation"), workers=0, device="cpu")
    assert found["loss"] == pytest.approx(run.curves["raw_loss"][-1], rel=1e-5)
    with pytest.raises(ValueError, match="3 channels, or 1 if they are grey, but the model expects 2"):
        fit(replace(grey, model_arguments={"in_chans": 2}), tmp_path / "two")


def test_what_cannot_be_trained(folder, tmp_path, quick, picture, fit):
    with pytest.raises(ValueError, match="there is no model 'kinn_tinny'; similar ones: kinn_base, kinn_nano"):
        fit(replace(quick, model="kinn_tinny"), tmp_path)
    with pytest.raises(ValueError, match="similar ones: swin_tiny_patch4_window7_224"):
        fit(replace(quick, model="swin_tiny"), tmp_path)
    with pytest.raises(ValueError, match="num_classes is 2, but the images have 3 classes"):
        fit(quick, tmp_path, num_classes=2)
    with pytest.raises(ValueError, match="precision 16 needs a GPU"):
        fit(replace(quick, precision="16"), tmp_path)
    with pytest.raises(ValueError, match=r"multiple of accumulate times processes \(3\), but is 8"):
        fit(replace(quick, accumulate=3), tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no image folder"):
        open_images(tmp_path / "nowhere", "train")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError):
        open_images(tmp_path / "empty", "train")
    other = tmp_path / "other" / "validation" / "blue"
    other.mkdir(parents=True)
    picture("dark", 0).save(other / "0.png")
    with pytest.raises(ValueError, match="different classes: blue, dark, light, striped occur in one alone"):
        fit_images(quick, open_images(folder, "train"), open_images(tmp_path / "other", "validation"), tmp_path / "r")
    (tmp_path / "classes.txt").write_text("light\ndark\nstriped\n")
    others = open_images(folder, "validation", class_map=str(tmp_path / "classes.txt"))
    with pytest.raises(ValueError, match="different classes: the same names in another order"):
        fit_images(quick, open_images(folder, "train"), others, tmp_path / "r")
    (tmp_path / "foreign.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="damaged, or no model file"):
        load_classifier(tmp_path / "foreign.safetensors")
    for change, message in (
        ({"epochs": 0}, "epochs must be at least 1, but is 0"),
        ({"epochs": 1.5}, "epochs must be a whole number, but is 1.5"),
        ({"ema": 1.0}, "ema must be at least 0 and below 1"),
        ({"crop": 0}, "crop must be above 0 and at most 1"),
        ({"scale": (0.5, 0.1)}, "scale must be None or two numbers, above 0, at most 1, the lower first"),
        ({"betas": (0.9, 1.0)}, "betas must be two numbers, at least 0 and below 1"),
        ({"precision": "fp16"}, "precision must be one of 32, bf16, 16, but is 'fp16'"),
        ({"device": "gpu"}, "device must be one of auto, cpu, cuda, mps, but is 'gpu'"),
    ):
        with pytest.raises(ValueError, match=message):
            replace(quick, **change)
