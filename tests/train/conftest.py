from __future__ import annotations

import pytest
import torch

from kinn.data import Standard, from_arrays, from_trajectories, split
from kinn.models import build
from kinn.train import OperatorTask, OptimizerSettings, TrainSettings, fit


@pytest.fixture
def pairs():
    """Scaled and shifted fields, so that physical and normalised units differ."""
    waves = torch.randn(24, 1, 2, 2, 1, 1, generator=torch.Generator().manual_seed(0))
    grid = 2 * torch.pi * torch.arange(8) / 8
    i, j = torch.arange(2).reshape(2, 1, 1, 1), torch.arange(2).reshape(2, 1, 1)
    x = (waves * torch.cos(i * grid[:, None] + j * grid)).sum((2, 3))
    return from_arrays(3 * x + 1, 5 * x.roll(1, -1) - 2)


@pytest.fixture
def trajectories():
    """Patterns that move one cell per frame."""
    first = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    return from_trajectories(torch.stack([2 * first.roll(t, -1) + 1 for t in range(9)], dim=1))


@pytest.fixture
def small_fno():
    def make(in_channels: int = 1, seed: int = 0):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return build("FNO", {"in_channels": in_channels, "out_channels": 1, "width": 6, "n_modes": [3, 3]})

    return make


@pytest.fixture
def parts(pairs):
    return split(pairs, {"train": 16, "validation": 8}, seed=0)


@pytest.fixture
def run(parts, small_fno, tmp_path):
    def run(folder="run", *, epochs=4, lr=3e-3, **settings):
        normalizers = {
            "input_normalizer": Standard.fit(parts["train"].inputs),
            "output_normalizer": Standard.fit(parts["train"].outputs),
        }
        task = OperatorTask(small_fno(), **normalizers, optimizer=OptimizerSettings(lr=lr, schedule="one-cycle"))
        settings = TrainSettings(**{"epochs": epochs, "batch_size": 6, "device": "cpu", **settings})
        result = fit(task, parts["train"], parts["validation"], settings, tmp_path / folder, progress=False)
        return result, task

    return run
