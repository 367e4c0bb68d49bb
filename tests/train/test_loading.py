from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader

from kinn.data import TrajectoryWindows
from kinn.train import TrainSettings
from kinn.train.loading import EpochOrder, SharedBatches, batches
from kinn.train.processes import Process


@pytest.mark.parametrize("kind", ["pairs", "windows"])
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_those_of_a_default_loader(kind, workers, pairs, trajectories):
    items = pairs if kind == "pairs" else TrajectoryWindows(trajectories, n_history=2, n_future=3)
    settings = TrainSettings(batch_size=7, seed=3, device="cpu", workers=workers)
    order = EpochOrder(len(items), seed=3)
    found, expected = list(batches(items, settings, shuffled=True)), list(DataLoader(items, 7, sampler=order))
    assert len(found[-1][0]) == len(items) % 7
    for ours, theirs in zip(found, expected, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    in_order = torch.cat([given for given, _ in batches(items, settings, shuffled=False)])
    assert torch.equal(in_order, torch.stack([items[i][0] for i in range(len(items))]))


def test_an_epoch_has_an_order_of_its_own_that_can_be_had_again():
    orders = []
    for epoch in (0, 1, 0):
        order = EpochOrder(50, seed=1)
        order.set_epoch(epoch)
        orders.append(list(order))
    assert orders[0] == orders[2] != orders[1]
    assert sorted(orders[1]) == list(range(50))
    assert list(EpochOrder(50, seed=2)) != orders[0]


@pytest.mark.parametrize(("length", "batch_size", "count"), [(17, 4, 2), (20, 6, 3), (5, 8, 4), (9, 8, 8)])
def test_shared_batches_are_those_of_one_process(length, batch_size, count):
    """Each sample once, in the same order; the weighted means of the shares give the mean of the whole batch."""
    [whole] = shared(length, batch_size, 1)
    shares = shared(length, batch_size, count)
    for index, batch in enumerate(whole):
        found, mean = [], 0.0
        for batches_ in shares:
            mine, share = list(batches_)[index], batches_.share(index)
            assert (share.size, len(mine)) == (len(batch), max(1, share.samples))
            assert mine == batch[share.part]
            found += mine[: share.samples]
            mean += share.weight * sum(mine) / len(mine) / count
        assert found == batch
        assert mean == pytest.approx(sum(batch) / len(batch))
    assert sorted(index for batch in whole for index in batch) == list(range(length))
    assert all(len(batches_) == len(list(whole)) for batches_ in shares)


def shared(length, batch_size, count):
    order = EpochOrder(length, seed=0)
    return [SharedBatches(order, batch_size=batch_size, process=Process(rank, count)) for rank in range(count)]


def test_validation_is_cut_into_stretches(pairs):
    settings = TrainSettings(batch_size=6, device="cpu", devices=3)
    found = [list(batches(pairs, settings, shuffled=False, process=Process(rank, 3))) for rank in range(3)]
    assert [len(given) for given, _ in found[0]] == [2, 2, 2, 2]
    in_order = torch.cat([given for part in found for given, _ in part])
    assert torch.equal(in_order, torch.stack([pairs[i][0] for i in range(len(pairs))]))
