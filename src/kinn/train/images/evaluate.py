"""How well a classifier does on images, at any resolution."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from kinn.train.images.data import Images, evaluation_batches
from kinn.train.images.saving import load_classifier
from kinn.train.images.settings import ImageSettings
from kinn.train.images.task import Counts
from kinn.train.processes import Process
from kinn.train.progress import ProgressBar
from kinn.train.settings import chosen_device


def evaluate_images(
    path: str | Path,
    images: Images,
    *,
    size: int | None = None,
    crop: float | None = None,
    batch_size: int = 64,
    workers: int = 4,
    device: str = "auto",
    progress: bool = False,
) -> dict[str, float]:
    """Loss, top-1 and top-5 accuracy in percent, and the number of images.

    Args:
        path: of a file that a training left.
        images: see :func:`open_images`.
        size: of the square crops; None for that of the training.
        crop: part of an image that is looked at; None for that of the training.
        batch_size: images at a time; it does not change the numbers.
        workers: processes that read images.
        device: "auto", "cpu", "cuda" or "mps".
        progress: show a bar.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: no model file, or an image of a class that it does not know.
    """
    where = chosen_device(device)
    model, about = load_classifier(path, device=where)
    settings = replace(
        ImageSettings(), image_size=size or about["image_size"], crop=crop or about["crop"],
        interpolation=about["interpolation"], batch_size=batch_size, workers=workers,
    )  # fmt: skip
    batches = evaluation_batches(images, settings, {"mean": about["mean"], "std": about["std"]}, Process())
    counts = Counts()
    bar = ProgressBar(Path(path).name, total=len(batches), unit="batches") if progress else None
    with torch.inference_mode():
        for index, (x, classes) in enumerate(batches, 1):
            if classes.max() >= about["num_classes"]:
                raise ValueError(
                    f"{path} knows {about['num_classes']} classes, but the images hold class {int(classes.max())}"
                )
            counts.add(model(x.to(where)), classes.to(where))
            if bar is not None:
                bar.update(index)
    if bar is not None:
        bar.close()
    return counts.result()
