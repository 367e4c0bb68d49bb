from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from kinn.train.images import ImageSettings, fit_images, load_classifier, open_images
from kinn.train.images.task import ImageTask

CLASSES = ("dark", "light", "striped")


@pytest.fixture(scope="session")
def quick():
    return ImageSettings(
        model="kinn_nano",
        model_arguments={"depths": (1, 1), "dims": (8, 16)},
        image_size=16,
        epochs=3,
        batch_size=8,
        warmup_epochs=1,
        lr=4e-3,
        workers=0,
        device="cpu",
        crop=1.0,
        drop_path=0.1,
    )


@pytest.fixture(scope="session")
def picture():
    def make(label: str, index: int) -> Image.Image:
        noise = np.random.default_rng([index, CLASSES.index(label)]).integers(0, 40, (20, 24, 3))
        level = {"dark": 20, "light": 200, "striped": 20 + 180 * (np.arange(24) // 3 % 2)[None, :, None]}[label]
        return Image.fromarray((level + noise).astype(np.uint8))

    return make


@pytest.fixture(scope="session")
def folder(picture, tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    for part, count in (("train", 16), ("validation", 7)):
        for label in CLASSES:
            (root / part / label).mkdir(parents=True)
            for index in range(count):
                picture(label, index + 100 * (part == "train")).save(root / part / label / f"{index}.png")
    return root


@pytest.fixture(scope="session")
def fit(folder):
    def train(settings, output, **options):
        parts = open_images(folder, "train"), open_images(folder, "validation")
        return fit_images(settings, *parts, output, progress=False, **options)

    return train


@pytest.fixture(scope="session")
def trained(quick, fit, tmp_path_factory):
    settings = replace(quick, epochs=12, mixup=0.0, cutmix=0.0, auto_augment="", scale=None, erasing=0.0)
    return fit(settings, tmp_path_factory.mktemp("run") / "run")


@pytest.fixture
def stopping(monkeypatch):
    """Stops a training at the beginning of its third epoch."""

    class StopError(Exception):
        pass

    def stops(self):
        if self.current_epoch == 2:
            raise StopError
        start(self)

    start = ImageTask.on_train_epoch_start

    @contextmanager
    def stopped():
        with monkeypatch.context() as change, pytest.raises(StopError):
            change.setattr(ImageTask, "on_train_epoch_start", stops)
            yield

    return stopped


@pytest.fixture(scope="session")
def assert_equal_runs():
    def check(one, other):
        for name in ("train_loss", "validation_loss", "raw_loss", "ema_top1"):
            assert one.curves[name] == other.curves[name], name
        weights, others = (load_classifier(run.folder / "model.safetensors")[0].state_dict() for run in (one, other))
        assert all(torch.equal(weights[name], others[name]) for name in weights)

    return check
