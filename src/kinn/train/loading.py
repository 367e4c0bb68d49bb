"""Batches for a training: in a reproducible order, read as a whole, each shared out among the processes that train."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from kinn.data import OperatorDataset, TrajectoryWindows
from kinn.train.processes import Process
from kinn.train.settings import TrainSettings, epoch_seed

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
        generator = torch.Generator().manual_seed(epoch_seed(self.seed, self.epoch))
        yield from torch.randperm(self.length, generator=generator).tolist()


class Share(NamedTuple):
    """What one process takes of a batch.

    Args:
        part: its samples among those of the whole batch, never empty.
        size: samples of the whole batch.
        samples: that count, in this process: those of `part`, or 0.
        weight: of the mean over `part`: the mean of the weighted over all processes is the mean over the whole batch.
    """

    part: slice
    size: int
    samples: int
    weight: float

    @classmethod
    def whole(cls, size: int) -> Share:
        """All of a batch."""
        return cls(slice(0, size), size, size, 1.0)


class SharedBatches(Sampler[list[int]]):
    """The batches of one process: all go through the same batches in the same order, each with its own part of them.

    A last batch that is smaller is shared out, too. A process that gets nothing of it takes its first sample, of weight
    0: every process must do every step.

    Args:
        sampler: order of the samples.
        batch_size: of the whole batches.
        process: whose parts these are.

    Example:
        >>> [list(SharedBatches(EpochOrder(5, seed=0), batch_size=4, process=Process(rank, 2))) for rank in (0, 1)]
        [[[4, 0], [2]], [[1, 3], [2]]]
        >>> SharedBatches(EpochOrder(5, seed=0), batch_size=4, process=Process(0, 2)).share(1).weight
        0.0
    """

    def __init__(self, sampler: EpochOrder, *, batch_size: int, process: Process) -> None:
        self.sampler, self.batch_size, self.process = sampler, batch_size, process

    def __len__(self) -> int:
        return -(-len(self.sampler) // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        order = list(self.sampler)
        for index in range(len(self)):
            whole = order[index * self.batch_size : (index + 1) * self.batch_size]
            yield whole[self.share(index).part]

    def share(self, index: int) -> Share:
        """What the process takes of a batch of the epoch."""
        size = min(self.batch_size, len(self.sampler) - index * self.batch_size)
        part = self.process.part(size)
        kept = slice(part.start, part.stop) if part else slice(0, 1)
        return Share(kept, size, len(part), self.process.count * len(part) / size)


def batches(items: Items, settings: TrainSettings, *, shuffled: bool, process: Process | None = None) -> DataLoader:
    """Pairs of stacked tensors `(given, truth)`, on the CPU; the last batch of an epoch may be smaller.

    Args:
        items: what to go through.
        settings: `batch_size` of all processes together, `seed`, `workers` and `device`.
        shuffled: in the order of `EpochOrder`, by `SharedBatches`; else as they lie, a stretch for each process.
        process: which takes its part of them; by default there is no other.
    """
    process = process or Process()
    if shuffled:
        order = EpochOrder(len(items), seed=settings.seed)
        how: dict[str, Any] = {"batch_sampler": SharedBatches(order, batch_size=settings.batch_size, process=process)}
    else:
        how = {"sampler": process.part(len(items)), "batch_size": settings.batch_size // process.count}
    return DataLoader(
        _WholeBatches(items),
        **how,
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
