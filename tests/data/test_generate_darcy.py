"""Generated Darcy flow: each sample a function of seed and index, the same medium on every grid."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from kinn.data import OperatorDataset, generate_darcy, open_dataset
from kinn.pde import solve_darcy


def made(path: Path, **options) -> OperatorDataset:
    data = open_dataset(generate_darcy(path, **{"samples": 5, "resolution": 16, **options}))
    assert isinstance(data, OperatorDataset)
    return data


def test_pairs_satisfy_the_equation(tmp_path: Path) -> None:
    data = made(tmp_path / "a.h5", beta=2.0)
    a, u = data.batch(range(5))
    assert a.shape == u.shape == (5, 1, 16, 16)
    assert a.unique().tolist() == pytest.approx([0.1, 1.0], rel=1e-7)
    expected = solve_darcy(torch.where(a[:, 0].double() > 0.5, 1.0, 0.1).double(), beta=2.0)
    torch.testing.assert_close(u[:, 0].double(), expected, rtol=1e-6, atol=1e-8)
    assert data.metadata["equation"] == "darcy"
    assert data.metadata["beta"] == 2.0


def test_a_sample_depends_on_seed_and_index_alone(tmp_path: Path) -> None:
    data, more = made(tmp_path / "a.h5"), made(tmp_path / "b.h5", samples=7, chunk=2)
    other, finer = made(tmp_path / "c.h5", seed=1), made(tmp_path / "d.h5", resolution=48)
    for index in range(5):
        assert torch.equal(data[index][0], more[index][0])
        torch.testing.assert_close(data[index][1], more[index][1], rtol=1e-6, atol=0)
        assert torch.equal(finer[index][0][:, 1::3, 1::3], data[index][0])
        assert not torch.equal(other[index][0], data[index][0])


def test_finished_files_are_kept_and_wrong_arguments_leave_nothing(tmp_path: Path) -> None:
    made(tmp_path / "a.h5")
    before = (tmp_path / "a.h5").stat().st_mtime_ns
    made(tmp_path / "a.h5")
    assert (tmp_path / "a.h5").stat().st_mtime_ns == before
    with pytest.raises(ValueError, match=r"low is 0\.1 there and 0\.2 here"):
        made(tmp_path / "a.h5", low=0.2)
    for wrong in ({"low": 0.0}, {"bumps": 0}, {"resolution": 0}, {"samples": 0}, {"resolution": 2.5}, {"bumps": 2.5}):
        with pytest.raises(ValueError, match="must be"):
            made(tmp_path / "b.h5", **wrong)
    assert not list(tmp_path.glob("b.h5*"))
