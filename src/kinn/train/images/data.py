"""Batches of labelled images, for training and for evaluation, by timm's transforms."""

from __future__ import annotations

import itertools
import random
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, create_transform
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, get_worker_info
from torchvision.transforms import Compose, Grayscale

from kinn.train.images.settings import ImageSettings
from kinn.train.images.sources import Images
from kinn.train.loading import EpochOrder, SharedBatches
from kinn.train.processes import Process
from kinn.train.settings import epoch_seed


def normalisation(model: Any, channels: int = 3) -> dict[str, Any]:
    """Mean and standard deviation of the channels that a model was made for; of one channel, their means.

    Raises:
        ValueError: neither one channel nor three.
    """
    if channels not in (1, 3):
        raise ValueError(f"images have 3 channels, or 1 if they are grey, but the model expects {channels}")
    cfg = getattr(model, "pretrained_cfg", None) or {}
    stats = {"mean": cfg.get("mean", IMAGENET_DEFAULT_MEAN), "std": cfg.get("std", IMAGENET_DEFAULT_STD)}
    return {
        name: tuple(values) if channels == len(values) else (sum(values) / len(values),)
        for name, values in stats.items()
    }


def training_batches(images: Images, settings: ImageSettings, stats: dict[str, Any], process: Process) -> DataLoader:
    """Augmented batches in an order that depends on seed and epoch alone; an epoch's incomplete batch is left out."""
    images.transform = _transform(
        settings.image_size,
        stats,
        is_training=True,
        no_aug=settings.scale is None,
        scale=settings.scale,
        hflip=settings.hflip,
        color_jitter=settings.color_jitter,
        auto_augment=settings.auto_augment or None,
        interpolation="random" if settings.scale is not None else settings.interpolation,
        re_prob=settings.erasing,
        re_mode="pixel",
    )
    part = settings.batch_size // settings.accumulate
    how: dict[str, Any] = {"batch_size": part // process.count, "drop_last": True}
    if isinstance(images, IterableDataset):
        images = SeededStream(images, settings.seed, process)
    else:
        order = _FullBatches(len(images), seed=settings.seed, batch_size=settings.batch_size)
        how = {"batch_sampler": SharedBatches(order, batch_size=part, process=process)}
        images = _Seeded(images, settings.seed)
    return _loader(images, settings, how)


def evaluation_batches(images: Images, settings: ImageSettings, stats: dict[str, Any], process: Process) -> DataLoader:
    """Central crops of every image once; each process has a stretch of them."""
    how = {"crop_pct": settings.crop, "interpolation": settings.interpolation}
    images.transform = _transform(settings.image_size, stats, **how)
    if isinstance(images, IterableDataset):
        images = SeededStream(images, settings.seed, process)
    else:
        images = Subset(images, process.part(len(images)))
    part = max(1, settings.batch_size // settings.accumulate // process.count)
    return _loader(images, settings, {"batch_size": part})


def _transform(size: int, stats: dict[str, Any], **how: Any) -> Any:
    made: Any = create_transform(size, **stats, **how)
    return Compose([Grayscale(), *made.transforms]) if len(stats["mean"]) == 1 else made


def _loader(images: Images, settings: ImageSettings, how: dict[str, Any]) -> DataLoader:
    stream = isinstance(images, SeededStream)
    # what reads a stream shuffles as it goes: a new process for every epoch makes that a matter of the epoch alone
    workers = max(1, settings.workers) if stream else settings.workers
    return DataLoader(
        images,
        **how,
        num_workers=workers,
        persistent_workers=workers > 0 and not stream,
        pin_memory=settings.device in ("auto", "cuda") and torch.cuda.is_available(),
        generator=images.generator if stream else torch.Generator().manual_seed(settings.seed),
    )


def seed_augmentation(*numbers: int) -> None:
    """Seed what augmentation in this process draws from: Python's, NumPy's and PyTorch's generators."""
    seed = zlib.crc32(repr(numbers).encode())
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  timm draws from the global one
    torch.manual_seed(seed)


class _FullBatches(EpochOrder):
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


class SeededStream(IterableDataset):
    """A stream whose order and augmentation depend on seed, epoch and readers alone: a resumed run goes on alike."""

    def __init__(self, images: Images, seed: int, process: Process) -> None:
        self.images, self.seed, self.process = images, seed, process
        self.generator = torch.Generator()  # the loader's: it seeds the readers
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Before the loader's readers start."""
        self.epoch = epoch
        self.generator.manual_seed(epoch_seed(self.seed, epoch))
        self.images.set_epoch(epoch)

    def __iter__(self) -> Iterator[Any]:
        reader = get_worker_info()
        stream = iter(self.images)
        for number in itertools.count():
            seed_augmentation(self.seed, self.epoch, self.process.rank, reader.id if reader else 0, number)
            try:
                item = next(stream)
            except StopIteration:
                return
            yield item
