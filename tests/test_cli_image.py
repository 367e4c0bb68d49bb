"""`kinn train image` and `kinn evaluate image`: a folder becomes a model, which is measured."""

from __future__ import annotations

import inspect
import json

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from kinn.cli import main
from kinn.train.images import ImageSettings, load_classifier

SMALL = (
    "--model kinn_nano --model-arguments.depths [1,1] --model-arguments.dims [8,16] --image-size 16 --epochs 2 "
    "--batch-size 4 --workers 0 --device cpu"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    for part in ("train", "validation"):
        for level, label in ((40, "dark"), (200, "light")):
            (root / part / label).mkdir(parents=True)
            for index in range(4):
                Image.fromarray(np.full((16, 16, 3), level + index, np.uint8)).save(
                    root / part / label / f"{index}.png"
                )
    return root


def test_a_folder_is_trained_on_and_its_model_measured(folder, tmp_path, capsys):
    assert main(["train", "image", "--data", str(folder), "--output", str(tmp_path / "run"), *SMALL.split()]) == 0
    out, err = capsys.readouterr()
    assert "Last of 2 epochs: top-1" in out
    assert "images/s" in err
    _, about = load_classifier(tmp_path / "run" / "model.safetensors")
    assert about["model_arguments"] == {"depths": [1, 1], "dims": [8, 16]}
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config["lr"] == ImageSettings().lr
    again = ["--config", str(tmp_path / "run" / "config.yaml"), "--output"]
    assert main(["train", "image", *again, str(tmp_path / "run")]) == 0  # the run itself, which is finished
    assert main(["train", "image", *again, str(tmp_path / "replay")]) == 0
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("run", "replay"))
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    capsys.readouterr()
    model = str(tmp_path / "run" / "model.safetensors")
    assert main(["evaluate", "image", model, str(folder), "--size", "24", "--workers", "0"]) == 0
    assert capsys.readouterr().out.startswith("8 images: top-1 ")
    for name in ("size", "crop"):  # not taken for "not given"
        assert main(["evaluate", "image", model, str(folder), f"--{name}", "0", "--workers", "0"]) == 2
        assert name in capsys.readouterr().err


def test_a_folder_that_nobody_split_is_trained_on(folder, tmp_path, capsys):
    words = [*SMALL.split(), "--data", str(folder / "train"), "--validation-part", "0.25"]
    assert main(["train", "image", *words, "--output", str(tmp_path / "run")]) == 2
    assert "name the part '' if all of" in capsys.readouterr().err
    words = [*words, "--train-part", "", "--split-seed", "3", "--init", str(tmp_path / "none.pth")]
    assert main(["train", "image", *words, "--output", str(tmp_path / "run")]) == 2
    assert "none.pth to start from" in capsys.readouterr().err
    assert main(["train", "image", *words[:-2], "--output", str(tmp_path / "run")]) == 0
    _, about = load_classifier(tmp_path / "run" / "model.safetensors")
    assert (about["classes"], about["validation"]["epoch"]) == (["dark", "light"], 2)
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert (config["validation_part"], config["split_seed"]) == ("0.25", 3)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert (result["data"]["train"], result["data"]["validation"]) == (6, 2)


def test_every_part_of_the_recipe_is_an_option_with_its_words(capsys):
    assert main(["train", "image", "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    words = inspect.getdoc(ImageSettings)
    for name in vars(ImageSettings()):
        text = words.partition(f" {name}: ")[2].partition("\n")[0].replace("`", "").rstrip(".")
        assert f"--{name.replace('_', '-')}" in shown
        assert text[:30]
        assert text[:30] in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            "--data {folder} --output {run} --model kinn_tinny",
            "there is no model 'kinn_tinny'; similar ones: kinn_base",
        ),
        ("--data nowhere --output {run}", "there is no image folder nowhere"),
        ("--data {folder} --output {run} --lr 0", "lr must be positive, but is 0.0"),
        ("--output {run}", "see kinn train image --help"),
    ],
)
def test_slips_are_told_in_a_sentence(folder, tmp_path, capsys, arguments, message):
    line = arguments.format(folder=folder, run=tmp_path / "run")
    assert main(["train", "image", *line.split()]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
