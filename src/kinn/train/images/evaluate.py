"""How well a classifier does on images, at any resolution."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import IterableDataset

from kinn.progress import ProgressBar
from kinn.train.images.data import evaluation_batches
from kinn.train.images.saving import load_classifier
from kinn.train.images.settings import ImageSettings
from kinn.train.images.sources import Images, class_names
from kinn.train.images.task import Counts
from kinn.train.processes import Process
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
        ValueError: no model file, or an image of a class that it does not know. Where both the file and the images
            name their classes, names decide, so that images may lack some.
    """
    where = chosen_device(device)
    model, about = load_classifier(path, device=where)
    settings = ImageSettings(
        image_size=about["image_size"] if size is None else size, crop=about["crop"] if crop is None else crop,
        interpolation=about["interpolation"], batch_size=batch_size, workers=workers,
    )  # fmt: skip
    numbers = _numbers(path, about, images)
    batches = evaluation_batches(images, settings, {"mean": about["mean"], "std": about["std"]}, Process())
    counts = Counts()
    count = None if isinstance(images, IterableDataset) else len(batches)  # a stream may not know
    shown = ProgressBar(Path(path).name, total=count, unit="batches") if progress and count else nullcontext()
    with torch.inference_mode(), shown as bar:
        for index, (x, classes) in enumerate(batches, 1):
            if numbers is not None:
                classes = numbers[classes]
            if classes.max() >= about["num_classes"]:
                raise ValueError(
                    f"{path} knows {about['num_classes']} classes, but the images hold class {int(classes.max())}"
                )
            counts.add(model(x.to(where)), classes.to(where))
            if bar is not None:
                bar.update(index)
    return counts.result()


def _numbers(path: str | Path, about: dict[str, Any], images: Images) -> torch.Tensor | None:
    """The model's number of each class of the images, by name; None where one of them has no names."""
    known, names = about["classes"], class_names(images)
    if not known or not names:
        return None
    strange = sorted(set(names) - set(known))
    if strange:
        raise ValueError(
            f"{path} does not know the classes {', '.join(strange[:5])}; it knows {', '.join(known[:5])}"
            + (", ..." if len(known) > 5 else "")
        )
    return torch.tensor([known.index(name) for name in names])
