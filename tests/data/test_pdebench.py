"""Files written here exactly as PDEBench publishes them, and files that almost are."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from kinn.data import OperatorDataset, TrajectoryDataset, TrajectoryWindows, open_dataset

RNG = np.random.default_rng(0)


def write_darcy(path: Path, *, samples: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """As `2D_DarcyFlow_beta1.0_Train.hdf5`; the axes are of different length here."""
    nu, tensor = RNG.normal(size=(2, samples, 6, 7)).astype("float32")
    with h5py.File(path, "w") as file:
        file["nu"], file["tensor"] = nu, tensor[:, None]
        file["x-coordinate"], file["y-coordinate"] = np.linspace(0, 1, 6), np.linspace(0, 1, 7)
        file.attrs["beta"] = 0.5
    return nu, tensor


def write_rdb(path: Path, *, samples: int = 12, frames: int = 8, channels: int = 1) -> np.ndarray:
    """As `2D_rdb_NA_NA.h5`, a chunk per frame with a checksum so that damage is noticed where it is read."""
    data = RNG.normal(size=(samples, frames, 6, 7, channels)).astype("float32")
    with h5py.File(path, "w") as file:
        for n in reversed(range(samples)):
            group = file.create_group(f"{n:04d}")
            group.create_dataset("data", data=data[n], chunks=(1, 6, 7, channels), fletcher32=True)
            grid = {"x": (np.arange(6) - 2.5) / 6 * 5, "y": (np.arange(7) - 3) / 7 * 5, "t": np.arange(frames) / 100}
            for name, values in grid.items():
                group[f"grid/{name}"] = values.astype("float32")
    return data


def damage(path: Path, name: str, chunk: int) -> None:
    """Change a byte of a chunk that has a checksum."""
    with h5py.File(path) as file:
        place = file[name].id.get_chunk_info(chunk).byte_offset
    content = bytearray(path.read_bytes())
    content[place + 5] ^= 0xFF
    path.write_bytes(content)


def alter(path: Path, changes: dict[str, Any]) -> None:
    """Put other arrays or attributes in the place of those of a file; None takes them away."""
    with h5py.File(path, "r+") as file:
        for key, value in changes.items():
            place = file if key in file else file.attrs
            del place[key]
            if value is not None:
                place[key] = value


def test_pdebench_darcy_layout(tmp_path: Path) -> None:
    nu, tensor = write_darcy(tmp_path / "2D_DarcyFlow_beta0.5_Train.hdf5")
    data = open_dataset(tmp_path / "2D_DarcyFlow_beta0.5_Train.hdf5")
    assert isinstance(data, OperatorDataset)
    assert (len(data), data.in_channels, data.out_channels, data.grid) == (5, 1, 1, (6, 7))
    assert data.metadata == {"equation": "darcy", "beta": 0.5}
    inputs, outputs = data.batch([4, 0, 2])
    assert torch.equal(inputs, torch.from_numpy(nu)[[4, 0, 2], None])
    assert torch.equal(outputs, torch.from_numpy(tensor)[[4, 0, 2], None])
    assert torch.equal(data.in_memory()[1][1], outputs.new_tensor(tensor[1, None]))


def test_pdebench_rdb_layout(tmp_path: Path) -> None:
    path = tmp_path / "2D_rdb_NA_NA.h5"
    fields = torch.from_numpy(write_rdb(path)).permute(0, 1, 4, 2, 3)
    data = open_dataset(path)
    assert isinstance(data, TrajectoryDataset)
    assert (len(data), data.n_frames, data.channels, data.grid) == (12, 8, 1, (6, 7))
    assert data.time == [0.0, 0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07]
    assert data.metadata == {"equation": "shallow-water", "domain": (-2.5, 2.5)}
    assert torch.equal(torch.stack(list(data)), fields)
    assert torch.equal(data.subset([10, 2]).in_memory()[0], fields[10])
    history, future = TrajectoryWindows(data, n_history=3, n_future=2).batch([5, 0])  # window 1 of sample 1
    assert torch.equal(history, torch.stack([fields[1, 1:4], fields[0, :3]]))
    assert torch.equal(future, torch.stack([fields[1, 4:6], fields[0, 3:5]]))


def test_other_equations_in_the_layout_of_rdb_are_not_called_shallow_water(tmp_path: Path) -> None:
    fields = torch.from_numpy(write_rdb(tmp_path / "2D_diff-react_NA_NA.h5", samples=2, channels=3))
    data = open_dataset(tmp_path / "2D_diff-react_NA_NA.h5")
    assert isinstance(data, TrajectoryDataset)
    assert torch.equal(data[1], fields[1].permute(0, 3, 1, 2))
    assert "equation" not in data.metadata


def test_a_window_of_an_rdb_file_reads_its_frames_alone(tmp_path: Path) -> None:
    path = tmp_path / "rdb.h5"
    fields = torch.from_numpy(write_rdb(path, samples=2)).permute(0, 1, 4, 2, 3)
    damage(path, "0000/data", chunk=6)
    data = open_dataset(path)
    assert isinstance(data, TrajectoryDataset)
    assert torch.equal(data.trajectories.read([0], window=slice(1, 6))[0], fields[0, 1:6])
    with pytest.raises(OSError, match=r"0000/data in .* is missing or damaged"):
        data.trajectories.read([0], window=slice(1, 7))
    assert torch.equal(data[1], fields[1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"nu": np.ones((5, 1, 6, 7))}, r"nu in .* must have the axes \(N, nx, ny\), but its shape is \(5, 1, 6, 7\)"),
        (
            {"tensor": np.ones((5, 6, 7))},
            r"tensor in .* the axes \(N, 1, nx, ny\), but its shape is \(5, 6, 7\)",
        ),
        ({"tensor": np.ones((4, 1, 6, 7))}, r"as many fields on the same grid, .* \(5, 6, 7\) and \(4, 1, 6, 7\)"),
        ({"nu": np.ones((5, 7, 6))}, r"as many fields on the same grid, .* \(5, 7, 6\) and \(5, 1, 6, 7\)"),
        ({"y-coordinate": np.ones(6)}, r"y-coordinate in .* must hold 7 numbers, but its shape is \(6,\)"),
        ({"nu": np.full((5, 6, 7), b"x")}, "nu in .* must hold real numbers"),
        ({"beta": "much"}, "the attribute beta of .* must be a number, but is 'much'"),
        ({"nu": None}, r"none of the known layouts .* it holds \['tensor', 'x-coordinate', 'y-coordinate'\]"),
    ],
)
def test_almost_darcy(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    write_darcy(tmp_path / "darcy.hdf5")
    alter(tmp_path / "darcy.hdf5", changes)
    with pytest.raises((ValueError, TypeError), match=message):
        open_dataset(tmp_path / "darcy.hdf5")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"0000/data": None}, "lacks the array '0000/data'"),
        (
            {"0000/data": np.ones((8, 6, 7))},
            r"0000/data in .* the axes \(T, nx, ny, C\), but its shape is \(8, 6, 7\)",
        ),
        ({"0000/data": np.full((8, 6, 7, 1), b"x")}, "0000/data in .* must hold real numbers"),
        ({"0000/grid/t": np.arange(7)}, r"0000/grid/t in .* must hold 8 numbers, but its shape is \(7,\)"),
        ({"0000/grid/x": np.arange(7)}, r"0000/grid/x in .* must hold 6 numbers, but its shape is \(7,\)"),
    ],
)
def test_almost_rdb(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    write_rdb(tmp_path / "rdb.h5", samples=2)
    alter(tmp_path / "rdb.h5", changes)
    with pytest.raises((ValueError, TypeError), match=message):
        open_dataset(tmp_path / "rdb.h5")


def test_damage_found_on_reading_names_the_sample(tmp_path: Path) -> None:
    write_rdb(tmp_path / "rdb.h5")
    alter(tmp_path / "rdb.h5", {"0005/data": None, "0006/data": np.ones((8, 7, 6, 1))})
    alter(tmp_path / "rdb.h5", {"0007": None})
    with h5py.File(tmp_path / "rdb.h5", "r+") as file:
        file.create_group("0007/data")
    data = open_dataset(tmp_path / "rdb.h5")
    with pytest.raises(OSError, match=r"0005/data .* missing or damaged"):
        data[5]
    with pytest.raises(ValueError, match=r"0006/data .* must have the shape \(8, 6, 7, 1\), but .* \(8, 7, 6, 1\)"):
        data[6]
    with pytest.raises(OSError, match=r"0007/data .*it is no array"):
        data[7]


def write_fields(path: Path, grid: tuple[int, ...], *names: str, times: int = 6) -> dict[str, np.ndarray]:
    """As PDEBench writes compressible flow: an array per field, one more time than there are frames."""
    fields = {name: RNG.normal(size=(4, 5, *grid)).astype("float32") for name in names}
    with h5py.File(path, "w") as file:
        for name, values in fields.items():
            file[name] = values
        file["t-coordinate"] = np.arange(times, dtype="float32") / 10
        for axis, points in zip("xyz", grid):
            file[f"{axis}-coordinate"] = (np.arange(points) + 0.5) / points
    return fields


@pytest.mark.parametrize(
    ("grid", "names"),
    [
        ((6, 7), ("density", "Vx", "Vy", "pressure")),  # channels in this order, whatever the file's
        ((3, 4, 5), ("density", "Vx", "Vy", "Vz", "pressure")),
        ((9,), ("density", "Vx", "pressure")),
        ((9,), ("tensor",)),
    ],
)
def test_pdebench_fields_in_an_array_each(tmp_path: Path, grid: tuple[int, ...], names: tuple[str, ...]) -> None:
    path = tmp_path / "2D_CFD_Rand_M0.1_Eta0.1_Zeta0.1_periodic_128_Train.hdf5"
    fields = write_fields(path, grid, *names)
    data = open_dataset(path)
    assert isinstance(data, TrajectoryDataset)
    assert (len(data), data.n_frames, data.channels, data.grid) == (4, 5, len(names), grid)
    assert data.time == [0, 0.1, 0.2, 0.3, 0.4]
    assert data.metadata.get("channels", ["tensor"]) == list(names)
    expected = torch.from_numpy(np.stack([fields[name] for name in names], axis=2))
    assert torch.equal(torch.stack(list(data)), expected)
    assert torch.equal(torch.stack(list(pickle.loads(pickle.dumps(data)).subset([3, 1]))), expected[[3, 1]])
    assert torch.equal(torch.stack(list(data.subset([2, 0]).in_memory())), expected[[2, 0]])
    given, future = TrajectoryWindows(data, n_history=2, n_future=1)[1]
    assert torch.equal(given, expected[0, 1:3])
    assert torch.equal(future, expected[0, 3:4])


def test_pdebench_fields_that_do_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "cfd.hdf5"
    write_fields(path, (6, 7), "density", "Vx", times=9)
    assert open_dataset(path).time is None  # whose times they are is not known
    with h5py.File(path, "r+") as file:
        file["pressure"] = np.zeros((4, 5, 6, 6), "float32")
    with pytest.raises(
        ValueError, match=r"density, Vx, pressure in .*cfd.hdf5 must have the axes \(N, T, nx, \.\.\.\)"
    ):
        open_dataset(path)


def test_groups_of_fields_on_a_line(tmp_path: Path) -> None:
    """As `1D_diff-sorp_NA_NA.h5`."""
    values = RNG.normal(size=(3, 5, 9, 1)).astype("float32")
    with h5py.File(tmp_path / "line.h5", "w") as file:
        for n, sample in enumerate(values):
            file[f"{n:04d}/data"] = sample
            file[f"{n:04d}/grid/x"], file[f"{n:04d}/grid/t"] = (np.arange(9) + 0.5) / 9, np.arange(5.0)
    data = open_dataset(tmp_path / "line.h5")
    assert isinstance(data, TrajectoryDataset)
    assert (data.grid, data.channels, data.time) == ((9,), 1, [0, 1, 2, 3, 4])
    assert data.metadata == {"domain": (0, 1)}
    assert torch.equal(torch.stack(list(data)), torch.from_numpy(values).movedim(-1, 2))
