"""Evaluation on images: the training's numbers, at any batch size, and the classes by their names."""

from __future__ import annotations

import io

import pytest
import torch
from rich.console import Console

from kinn import progress
from kinn.train.images import evaluate_images, open_images
from kinn.train.images.task import Counts


def test_evaluation_gives_the_numbers_of_the_training_at_any_batch_size(folder, trained):
    for name, weights in (("model", "ema"), ("raw", "raw")):
        for batch_size in (1, 64):
            found = evaluate_images(
                trained.folder / f"{name}.safetensors", open_images(folder, "validation"), batch_size=batch_size,
                workers=0, device="cpu",
            )  # fmt: skip
            assert found["images"] == 21
            assert found["top1"] == pytest.approx(trained.curves[f"{weights}_top1"][-1])
            assert found["loss"] == pytest.approx(trained.curves[f"{weights}_loss"][-1], rel=1e-5)


def test_evaluation_draws_its_bar_on_a_terminal(folder, trained, monkeypatch):
    out = io.StringIO()
    monkeypatch.setattr(progress, "Console", lambda **_: Console(file=out, force_terminal=True, width=100))
    images = open_images(folder, "validation")
    evaluate_images(trained.folder / "model.safetensors", images, batch_size=8, workers=0, device="cpu", progress=True)
    assert "3/3 batches" in out.getvalue()


def test_evaluation_at_another_resolution(folder, trained):
    images = open_images(folder, "validation")
    found = evaluate_images(trained.folder / "model.safetensors", images, size=24, workers=0, device="cpu")
    assert images.transform.transforms[-1].mean is not None
    assert next(iter(images))[0].shape == (3, 24, 24)
    assert found["top5"] == 100  # three classes


def test_evaluation_goes_by_the_names_of_classes(folder, trained, tmp_path):
    for label in ("striped", "light"):
        (tmp_path / label).symlink_to(folder / "validation" / label)
    found = evaluate_images(trained.folder / "raw.safetensors", open_images(tmp_path, ""), workers=0, device="cpu")
    assert (found["images"], found["top1"] > 90) == (14, True)
    (tmp_path / "spotted").symlink_to(folder / "validation" / "dark")
    with pytest.raises(ValueError, match="does not know the classes spotted; it knows dark, light, striped"):
        evaluate_images(trained.folder / "raw.safetensors", open_images(tmp_path, ""), workers=0, device="cpu")


def test_counts_against_a_written_example():
    logits = torch.tensor([[3.0, 1, 0, 0, 0, 0, 2], [0, 0, 0, 1, 2, 3, 4], [1, 2, 3, 4, 5, 6, 7]])
    counts = Counts()
    counts.add(logits[:1], torch.tensor([0]))
    counts.add(logits[1:], torch.tensor([3, 0]))
    found = counts.result()
    assert found["top1"] == pytest.approx(100 / 3)
    assert found["top5"] == pytest.approx(200 / 3)
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor([0, 3, 0])).item()
    assert found["loss"] == pytest.approx(expected)
