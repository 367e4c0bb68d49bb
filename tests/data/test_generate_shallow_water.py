"""Generated shallow water: each sample a function of seed and index, the same dam on every grid, frames on time."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from kinn.data import TrajectoryDataset, generate_shallow_water, open_dataset
from kinn.data.generators.common import sample_generator
from kinn.pde import dam_break, solve_shallow_water


def made(path: Path, **options) -> TrajectoryDataset:
    options = {"samples": 5, "resolution": 16, "n_frames": 4, "final_time": 0.6, "chunk": 2, **options}
    data = open_dataset(generate_shallow_water(path, **options))
    assert isinstance(data, TrajectoryDataset)
    return data


def drawn(index: int, seed: int = 0, low: float = 0.3, high: float = 0.7) -> Tensor:
    return low + (high - low) * torch.rand(1, generator=sample_generator(seed, index), dtype=torch.float64)


def test_file_holds_the_solution_from_time_zero(tmp_path: Path) -> None:
    options = {"gravity": 2.0, "inner_height": 3.0, "outer_height": 0.5, "radius": (0.5, 1.5)}
    data = made(tmp_path / "a.h5", **options, dtype=torch.float64)
    assert data.time == pytest.approx([0, 0.2, 0.4, 0.6])
    for index in (0, 3):
        state = dam_break(drawn(index, low=0.5, high=1.5), 16, inner=3.0, outer=0.5)
        later = solve_shallow_water(state, 3, spacing=5 / 16, frame_interval=0.2, gravity=2.0)
        torch.testing.assert_close(data[index], torch.cat((state[:, None], later), dim=1)[0, :, :1].float())


def test_defaults_are_the_benchmarks(tmp_path: Path) -> None:
    data = open_dataset(generate_shallow_water(tmp_path / "a.h5", samples=1))
    assert isinstance(data, TrajectoryDataset)
    first, last = data[0][0, 0], data[0][-1, 0]
    assert data[0].shape == (101, 1, 128, 128)
    assert data.time == pytest.approx(np.linspace(0, 1, 101))
    assert first.unique().tolist() == [1, 2]
    area = (first > 1.5).sum() * (5 / 128) ** 2
    assert area.item() == pytest.approx(math.pi * drawn(0).item() ** 2, rel=0.03)
    assert last.mean().item() == pytest.approx(first.mean().item(), rel=1e-6)  # no water has left
    assert data.metadata["equation"] == "shallow-water"
    assert data.metadata["domain"] == [-2.5, 2.5]
    assert data.metadata["radius"] == [0.3, 0.7]
    assert data.metadata["solver_resolution"] == 128


def test_radii_fill_their_range(tmp_path: Path) -> None:
    """The water above 1 is the disc's: its mean is that of pi r^2 for r uniform on (0.3, 0.7)."""
    data = made(tmp_path / "a.h5", samples=200, resolution=64, n_frames=2, final_time=1e-9, chunk=100)
    radii = torch.stack([((data[i][0] - 1).sum() * (5 / 64) ** 2 / math.pi).sqrt() for i in range(200)])
    assert 0.28 < radii.min() < 0.32
    assert 0.68 < radii.max() < 0.72
    assert radii.mean().item() == pytest.approx(0.5, abs=0.03)
    assert radii.std().item() == pytest.approx(0.4 / math.sqrt(12), abs=0.02)


def test_a_sample_depends_on_seed_and_index_alone(tmp_path: Path) -> None:
    data, more = made(tmp_path / "a.h5"), made(tmp_path / "b.h5", samples=7, chunk=7)
    other = made(tmp_path / "c.h5", seed=1)
    for index in range(5):
        torch.testing.assert_close(data[index], more[index])
    assert any(not torch.equal(data[index], other[index]) for index in range(5))


def test_finer_solutions_are_kept_as_means_over_cells(tmp_path: Path) -> None:
    fine, coarse = made(tmp_path / "a.h5", resolution=48), made(tmp_path / "b.h5", solver_resolution=48)
    for index in range(5):
        torch.testing.assert_close(coarse[index], torch.nn.functional.avg_pool2d(fine[index], 3))
    direct = made(tmp_path / "c.h5")  # the same dams, solved on the coarse grid
    for index in range(5):
        change, error = (coarse[index][-1] - 1).norm(), (coarse[index][-1] - direct[index][-1]).norm()
        assert 0 < error < 0.5 * change


def test_finished_files_are_kept_and_other_parameters_noticed(tmp_path: Path) -> None:
    made(tmp_path / "a.h5")
    before = (tmp_path / "a.h5").stat().st_mtime_ns
    made(tmp_path / "a.h5", chunk=5, solver_resolution=16)
    assert (tmp_path / "a.h5").stat().st_mtime_ns == before
    for change in (
        {"gravity": 2.0},
        {"radius": (0.3, 0.8)},
        {"inner_height": 3.0},
        {"outer_height": 0.9},
        {"final_time": 0.3},
        {"solver_resolution": 32},
        {"dtype": torch.float64},
    ):
        with pytest.raises(ValueError, match=rf"{next(iter(change))} is .* there and .* here"):
            made(tmp_path / "a.h5", **change)


def test_progress_counts_frames(tmp_path: Path) -> None:
    seen = []
    made(tmp_path / "a.h5", samples=3, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(done, 12) for done in (4, 6, 8, 10, 11, 12)]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"samples": 0}, "samples must be positive"),
        ({"resolution": 0}, "multiple of resolution, but they are 0, 0"),
        ({"solver_resolution": 24}, "multiple of resolution, but they are 24, 16"),
        ({"solver_resolution": 0}, "multiple of resolution, but they are 0, 16"),
        ({"n_frames": 2.5}, "n_frames must be a whole number, but is 2.5"),
        ({"solver_resolution": 32.0}, r"solver_resolution must be a whole number, but is 32\.0"),
        ({"n_frames": 1}, "n_frames must be at least 2"),
        ({"final_time": 0.0}, "final_time positive"),
        ({"radius": (0.7, 0.3)}, r"range of non-negative numbers, but is 0\.7 to 0\.3"),
        ({"gravity": 0.0}, "gravity must be positive"),
        ({"outer_height": -1.0}, "heights not negative"),
        ({"dtype": torch.float16}, r"torch\.float32 or torch\.float64"),
        ({"chunk": 0}, "chunk must be positive"),
    ],
)
def test_wrong_parameters_leave_nothing_behind(tmp_path: Path, wrong: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        made(tmp_path / "a.h5", **wrong)
    assert not list(tmp_path.iterdir())
