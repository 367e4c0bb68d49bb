"""A training from Python that starts from the weights of a file; `kinn train --init` has its test with the commands."""

from __future__ import annotations

import pytest
import torch
import yaml

from kinn.data import split
from kinn.train import OperatorTask, OptimizerSettings, TrainSettings, fit, load_model, save_model


def test_the_file_is_on_record(pairs, small_fno, tmp_path):
    parts = split(pairs, {"train": 16, "validation": 8}, seed=0)
    save_model(tmp_path / "start.safetensors", small_fno())

    def train(initial):
        task = OperatorTask(small_fno(seed=1), optimizer=OptimizerSettings(lr=1e-12))
        settings = TrainSettings(epochs=1, device="cpu")
        return fit(task, *parts.values(), settings, tmp_path / "run", initial=initial, progress=False)

    weights = load_model(train(tmp_path / "start.safetensors").model_path).model.state_dict()
    assert all(torch.allclose(value, weights[name], atol=1e-6) for name, value in small_fno().state_dict().items())
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["initial"].endswith("start.safetensors")
    with pytest.raises(ValueError, match=r"other data: its initial is '[0-9a-f]{64}', these have None"):
        train(None)
    (tmp_path / "start.safetensors").rename(tmp_path / "moved.safetensors")
    assert train(tmp_path / "moved.safetensors").epochs == 1  # the same, by what it holds
