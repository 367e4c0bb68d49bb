"""Labelled images: folders, archives, shards and hubs through timm's readers; batches for training and evaluation."""

from __future__ import annotations

import random
import zlib
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, create_dataset, create_transform
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset

from kinn.train.images.launch import meet
from kinn.train.images.settings import ImageSettings
from kinn.train.loading import EpochOrder, SharedBatches
from kinn.train.processes import Process

_STREAMS = ("wds", "tfds", "hfids")  # readers that yield images in an order of their own

Images = Any
"""A data set of timm's: items are (image, class); `transform` makes tensors of images."""


def open_images(
    root: str | Path, split: str, *, dataset: str = "", training: bool = False, samples: int | None = None,
    batch_size: int = 1, seed: int = 0, class_map: str = "",
) -> Images:  # fmt: skip
    """One part of an image data set.

    Args:
        root: a folder with a folder for every class (in a folder for the part, or not), a tar file of such, a folder
            of shards, or where a hub's data set is kept.
        split: the part: "train", "validation", or the data set's own name for it.
        dataset: "" for folders and tar files; `wds/` for tar shards (webdataset); `hfds/NAME` and, streamed,
            `hfids/NAME` for Hugging Face data sets; `torch/NAME` for torchvision's.
        training: whether shards are shuffled.
        samples: number of images, for shards that do not tell.
        batch_size: of the loader, for shards.
        seed: of the order of shards.
        class_map: file with the names of the classes in their order; "" sorts the folders.

    Raises:
        FileNotFoundError: if there is no such folder, or no image in it.
        ImportError: if the reader needs a package that is not there.
    """
    if not dataset and not Path(root).exists():
        raise FileNotFoundError(f"there is no image folder {root}")
    streams = (
        {"num_samples": samples, "batch_size": batch_size, "seed": seed}
        if dataset.partition("/")[0] in _STREAMS
        else {}
    )
    if streams:
        meet()
    try:
        found = create_dataset(
            dataset, root=str(root), split=split, is_training=training, class_map=cast(Any, class_map), **streams
        )
    except RuntimeError as error:  # timm's: no image found
        raise FileNotFoundError(f"{root}: {error}") from error
    if not isinstance(found, IterableDataset) and len(found) == 0:
        raise FileNotFoundError(f"{root} holds no images for part {split!r}")
    return found


def class_names(images: Images) -> list[str] | None:
    """Names of the classes in the order of their numbers, where a data set has them."""
    reader = getattr(images, "reader", None)
    indices = getattr(reader, "class_to_idx", None) or getattr(images, "class_to_idx", None)
    return None if not indices else sorted(indices, key=indices.__getitem__)


def normalisation(model: Any) -> dict[str, Any]:
    """Mean and standard deviation of the channels that a model was made for."""
    cfg = getattr(model, "pretrained_cfg", None) or {}
    return {"mean": cfg.get("mean", IMAGENET_DEFAULT_MEAN), "std": cfg.get("std", IMAGENET_DEFAULT_STD)}


def training_batches(images: Images, settings: ImageSettings, stats: dict[str, Any], process: Process) -> DataLoader:
    """Augmented batches in an order that depends on seed and epoch alone; an epoch's incomplete batch is left out."""
    images.transform = create_transform(
        settings.image_size,
        is_training=True,
        no_aug=settings.scale is None,
        scale=settings.scale,
        hflip=settings.hflip,
        color_jitter=settings.color_jitter,
        auto_augment=settings.auto_augment or None,
        interpolation="random" if settings.scale is not None else settings.interpolation,
        re_prob=settings.erasing,
        re_mode="pixel",
        **stats,
    )
    part = settings.batch_size // settings.accumulate
    how: dict[str, Any] = {"batch_size": part // process.count, "drop_last": True}
    if not isinstance(images, IterableDataset):
        order = _WholeBatches(len(images), seed=settings.seed, batch_size=settings.batch_size)
        how = {"batch_sampler": SharedBatches(order, batch_size=part, process=process)}
        images = _Seeded(images, settings.seed)
    return _loader(images, settings, how)


def evaluation_batches(
    images: Images, settings: ImageSettings, stats: dict[str, Any], process: Process, *, size: int | None = None
) -> DataLoader:
    """Central crops of every image once; each process has a stretch of them."""
    size = size or settings.image_size
    images.transform = create_transform(size, crop_pct=settings.crop, interpolation=settings.interpolation, **stats)
    if not isinstance(images, IterableDataset):
        images = Subset(images, process.part(len(images)))
    part = max(1, settings.batch_size // settings.accumulate // process.count)
    return _loader(images, settings, {"batch_size": part})


def _loader(images: Images, settings: ImageSettings, how: dict[str, Any]) -> DataLoader:
    return DataLoader(
        images,
        **how,
        num_workers=settings.workers,
        persistent_workers=settings.workers > 0,
        pin_memory=settings.device in ("auto", "cuda") and torch.cuda.is_available(),
        generator=torch.Generator().manual_seed(settings.seed),  # of the readers of streams
    )


def seed_augmentation(*numbers: int) -> None:
    """Seed what augmentation in this process draws from: Python's, NumPy's and PyTorch's generators."""
    seed = zlib.crc32(repr(numbers).encode())
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  timm draws from the global one
    torch.manual_seed(seed)


class _WholeBatches(EpochOrder):
    """The order of an epoch as far as it fills batches: `drop_last`, over all processes. Items are (epoch, index)."""

    def __init__(self, length: int, *, seed: int, batch_size: int) -> None:
        super().__init__(length, seed=seed)
        self.kept = length // batch_size * batch_size or length

    def __len__(self) -> int:
        return self.kept

    def __iter__(self) -> Any:
        order = list(super().__iter__())
        yield from ((self.epoch, index) for index in order[: self.kept])


class _Seeded(Dataset):
    """Images whose augmentation depends on seed, epoch and number alone: not on who reads them or when."""

    def __init__(self, images: Images, seed: int) -> None:
        self.images, self.seed = images, seed

    def __getitem__(self, item: tuple[int, int]) -> Any:
        seed_augmentation(self.seed, *item)
        return self.images[item[1]]
