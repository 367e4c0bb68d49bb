from __future__ import annotations

from pathlib import Path

import h5py
import pytest
import torch

from kinn.data.predictions import prediction_file


def read(path: Path) -> torch.Tensor:
    with h5py.File(path) as file:
        return torch.as_tensor(file["prediction"][:])


@pytest.mark.parametrize("sample", [(1, 32, 32), (7, 2, 16, 16), (2, 64), (3, 1, 8, 8, 8)])
def test_batches_follow_one_another_without_gaps(tmp_path: Path, sample: tuple[int, ...]) -> None:
    values, path = torch.randn(5, *sample), tmp_path / "new" / "p.h5"
    with prediction_file(path, {"model": "FNO", "dt_scale": 0.5}) as append:
        for batch in values.split(2):
            append(batch)
        assert not path.exists()
    assert torch.equal(read(path), values)
    assert path.stat().st_size < 1.2 * 4 * values.numel() + 20_000
    with h5py.File(path) as file:
        assert (file.attrs["model"], file.attrs["dt_scale"]) == ("FNO", 0.5)


def test_what_fails_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "p.h5"
    with prediction_file(path, {}) as append:
        append(torch.ones(2, 1, 4, 4))
    with pytest.raises(RuntimeError, match="stopped"), prediction_file(path, {}) as append:
        append(torch.zeros(2, 1, 4, 4))
        raise RuntimeError("stopped")
    assert torch.equal(read(path), torch.ones(2, 1, 4, 4))
    assert [file.name for file in tmp_path.iterdir()] == ["p.h5"]


def test_two_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "p.h5"
    with prediction_file(path, {}) as first:
        first(torch.ones(2, 1, 4, 4))
        with prediction_file(path, {}) as second:
            second(torch.zeros(2, 1, 4, 4))
        first(torch.ones(1, 1, 4, 4))
    assert torch.equal(read(path), torch.ones(3, 1, 4, 4))  # the last to finish
