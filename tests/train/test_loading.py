from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader

from kinn.data import TrajectoryWindows
from kinn.train import TrainSettings
from kinn.train.loading import EpochOrder, batches


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
