"""Two parts of one folder of images, where nobody has split it: of each class as large a part is held out."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.data import Dataset

from kinn.train.images.sources import Images, class_names


def hold_out(images: Images, part: float, *, seed: int) -> tuple[Images, Images]:
    """Images to train on and images held out: a function of the images' names, the part and the seed alone.

    Args:
        images: of a folder or a tar file (:func:`open_images`).
        part: of each class that is held out, rounded to whole images, at least one.
        seed: of the choice.

    Raises:
        ValueError: the part is not between 0 and 1, the images are no folder or tar file, or a class has too few.
    """
    reader: Any = getattr(images, "reader", None)
    names = class_names(images)
    if not hasattr(reader, "samples") or not names:
        raise ValueError(
            "a fraction can be held out of a folder or a tar file with a folder per class, not of other data sets: "
            "name their validation part"
        )
    if not 0 < part < 1:
        raise ValueError(f"the part that is held out must be between 0 and 1, but is {part}")
    labels = torch.as_tensor([int(n) for n in getattr(reader, "targets", [sample[1] for sample in reader.samples])])
    generator, held = torch.Generator().manual_seed(seed), torch.zeros(len(labels), dtype=torch.bool)
    for label, name in enumerate(names):
        rows = (labels == label).nonzero().flatten()
        count = max(1, round(part * len(rows)))
        if 0 < len(rows) <= count:
            raise ValueError(f"class {name} has {len(rows)} images: too few for training and validation")
        held[rows[torch.randperm(len(rows), generator=generator)[:count]]] = True
    return _Part(images, (~held).nonzero().flatten().tolist()), _Part(images, held.nonzero().flatten().tolist())


class _Part(Dataset):
    """Some of the images, with a transform of their own; an unreadable one is replaced by another of them."""

    def __init__(self, images: Images, rows: Sequence[int]) -> None:
        self._images = copy.copy(images)
        reader = self._images.reader = copy.copy(images.reader)
        for name in ("samples", "targets"):
            if hasattr(reader, name):
                setattr(reader, name, [getattr(reader, name)[row] for row in rows])
        self.class_to_idx = {name: number for number, name in enumerate(class_names(images) or ())}

    @property
    def transform(self) -> Any:
        """What makes tensors of images."""
        return self._images.transform

    @transform.setter
    def transform(self, transform: Any) -> None:
        self._images.transform = transform

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Any:
        return self._images[index]
