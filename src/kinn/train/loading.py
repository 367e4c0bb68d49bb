"""Batches for a training: in a reproducible order, read as a whole."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from kinn.data import OperatorDataset, TrajectoryWindows
from kinn.train.settings import TrainSettings

Items = OperatorDataset | TrajectoryWindows
"""What an epoch goes through: items are pairs (given, truth)."""


class EpochOrder(Sampler[int]):
    """All indices in an order that depends on the seed and the epoch alone, so that a resumed run goes on alike."""

    def __init__(self, length: int, *, seed: int) -> None:
        self.length, self.seed, self.epoch = length, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this before every epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        yield from torch.randperm(self.length, generator=generator).tolist()


def batches(items: Items, settings: TrainSettings, *, shuffled: bool) -> DataLoader:
    """Pairs of stacked tensors `(given, truth)`, on the CPU; the last batch of an epoch may be smaller.

    Args:
        items: what to go through.
        settings: `batch_size`, `seed`, `workers` and `device`.
        shuffled: in the order of `EpochOrder`; else as they lie.
    """
    return DataLoader(
        _WholeBatches(items),
        batch_size=settings.batch_size,
        sampler=EpochOrder(len(items), seed=settings.seed) if shuffled else None,
        collate_fn=_as_read,
        num_workers=settings.workers,
        persistent_workers=settings.workers > 0,
        # a transfer from pinned memory runs beside the step before it
        pin_memory=settings.device in ("auto", "cuda") and torch.cuda.is_available(),
    )


class _WholeBatches(Dataset):
    """A DataLoader would take a batch apart into samples and stack them again: for small fields, most of its time."""

    def __init__(self, items: Items) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        return self.items.batch(indices)


def _as_read(batch: Any) -> Any:
    return batch
