"""Files written here in exactly the public layouts, and files that are broken in every way users meet."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
import torch

from kinn.data import (
    OperatorDataset,
    TrajectoryDataset,
    from_arrays,
    generate_navier_stokes,
    generate_poisson,
    open_dataset,
)
from kinn.data.layouts.ours import read_attributes

RNG = np.random.default_rng(0)


def write_cno(path: Path, *, samples: int = 12, shape: tuple[int, ...] = (64, 64)) -> tuple[np.ndarray, np.ndarray]:
    source, potential = RNG.normal(size=(2, samples, 64, 64))
    with h5py.File(path, "w") as file:
        for n in range(samples):  # alphabetical order would put 10 before 2
            group = file.create_group(f"Sample_{n}")
            group["input"] = source[n].reshape(shape)
            group["output"] = potential[n].reshape(shape)
        for key, value in (("inp", source), ("out", potential)):
            file[f"min_{key}"], file[f"max_{key}"] = value.min(), value.max()
    return source, potential


def write_matlab7(path: Path, u: np.ndarray) -> None:
    save_matlab7(path, u=u, t=np.arange(1.0, u.shape[-1] + 1)[None], a=u[..., 0])


def save_matlab7(path: Path, **arrays: np.ndarray) -> None:
    """As MATLAB's `save -v7.3`: 512 bytes of its own before the HDF5 file, axes reversed, class as an attribute."""
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, value in arrays.items():
            data = file.create_dataset(name, data=value.T, chunks=True, compression="gzip")
            data.attrs["MATLAB_class"] = np.bytes_("single")
    with path.open("r+b") as raw:
        header = b"MATLAB 7.3 MAT-file, Platform: GLNXA64, Created on: Wed Apr 01 00:00:00 2020 HDF5 schema 1.00 ."
        raw.write(header.ljust(116) + bytes(8) + b"\x00\x02IM")


@pytest.mark.parametrize("shape", [(64, 64), (1, 64, 64), (4096,)])
def test_cno_layout(tmp_path: Path, shape: tuple[int, ...]) -> None:
    path = tmp_path / "PoissonData_64x64_IN.h5"
    source, potential = write_cno(path, shape=shape)
    data = open_dataset(path)
    assert isinstance(data, OperatorDataset)
    assert (len(data), data.in_channels, data.out_channels, data.grid) == (12, 1, 1, (64, 64))
    for n in (0, 2, 10, 11):
        assert torch.equal(data[n][0], torch.from_numpy(source[n, None]).float())
        assert torch.equal(data[n][1], torch.from_numpy(potential[n, None]).float())
    loaded = data.subset([10, 2]).in_memory()
    assert torch.equal(loaded[1][1], data[2][1])
    assert data.metadata["input_range"] == (source.min(), source.max())
    assert data.metadata["output_range"] == (potential.min(), potential.max())


@pytest.mark.parametrize("value", [b"a", [1.0, 2.0]])
def test_constants_that_are_no_numbers(tmp_path: Path, value: object) -> None:
    path = tmp_path / "IN.h5"
    write_cno(path)
    with h5py.File(path, "r+") as file:
        del file["min_inp"]
        file["min_inp"] = value
    with pytest.raises(ValueError, match=r"min_inp in .*IN\.h5 must be a number, but is"):
        open_dataset(path)


@pytest.mark.parametrize("timed", [True, False])
def test_a_users_own_arrays_need_nothing_but_their_names(tmp_path: Path, timed: bool) -> None:
    path, values = tmp_path / "own.h5", RNG.normal(size=(4, 3, 2, 5, 6)).astype("float32")
    with h5py.File(path, "w") as file:
        file["trajectory"] = values
        if timed:
            file["time"] = [0.0, 0.5, 1.0]
    data = open_dataset(path)
    assert isinstance(data, TrajectoryDataset)
    assert (data.channels, data.grid, data.time) == (2, (5, 6), [0.0, 0.5, 1.0] if timed else None)
    assert torch.equal(data[3], torch.from_numpy(values[3]))
    path = tmp_path / "pairs.h5"
    with h5py.File(path, "w") as file:
        file["input"], file["output"] = values[:, 0], values[:, 1, :1]
    pairs = open_dataset(path)
    assert isinstance(pairs, OperatorDataset)
    assert (pairs.in_channels, pairs.out_channels) == (2, 1)
    assert torch.equal(pairs[2][1], torch.from_numpy(values[2, 1, :1]))


def li_field(samples: int = 5, frames: int = 3) -> np.ndarray:
    """Every axis of another length, so that no two can be mistaken for each other."""
    return RNG.normal(size=(samples, 6, 7, frames)).astype("float32")


@pytest.mark.parametrize("version", ["7.3", "5"])
def test_li_layout(tmp_path: Path, version: str) -> None:
    path, u = tmp_path / "ns_V1e-3_N5000_T50.mat", li_field()
    if version == "7.3":
        write_matlab7(path, u)
        with h5py.File(path) as file:
            assert file["u"].shape == (3, 7, 6, 5)  # as the public file appears: (T, ny, nx, N)
    else:
        scipy.io.savemat(path, {"u": u, "t": np.arange(1.0, 4.0), "a": u[..., 0]})
    data = open_dataset(path)
    assert isinstance(data, TrajectoryDataset)
    assert (len(data), data.n_frames, data.channels, data.grid) == (5, 3, 1, (6, 7))
    assert data.time == [1, 2, 3]
    assert data.metadata == {"equation": "navier-stokes", "viscosity": 1e-3}  # said by the file's name alone
    assert open_dataset(shutil.copy(path, tmp_path / "ns_V1e-4 (1).mat")).metadata["viscosity"] == 1e-4
    named = {name: open_dataset(shutil.copy(path, tmp_path / name)).metadata for name in ("ns_N9.mat", "nsfw.mat")}
    assert named == {"ns_N9.mat": {"equation": "navier-stokes"}, "nsfw.mat": {}}
    assert open_dataset(path.rename(tmp_path / "flows.mat")).metadata == {}  # may be of any equation
    data = open_dataset(tmp_path / "flows.mat")
    expected = torch.from_numpy(u).permute(0, 3, 1, 2)[:, :, None]
    assert torch.equal(torch.stack(list(data)), expected)
    assert torch.equal(torch.stack(list(data.subset([4, 0, 2]).in_memory())), expected[[4, 0, 2]])


def test_other_arrays_of_matlab_have_their_axes_as_there(tmp_path: Path) -> None:
    x, y = RNG.normal(size=(7, 2, 8, 10)), RNG.normal(size=(7, 1, 8, 10))
    save_matlab7(tmp_path / "pairs.mat", input=x, output=y)
    save_matlab7(tmp_path / "named.mat", coeff=x[:, 0], sol=y[:, 0])
    save_matlab7(tmp_path / "flow.mat", trajectory=x[:, :, None], time=np.array([[0.5, 1.0]]))
    for data, channels in (
        (open_dataset(tmp_path / "pairs.mat"), [0, 1]),
        (from_arrays(*((tmp_path / "named.mat", name) for name in ("coeff", "sol")), channel_axis=None), [0]),
    ):
        for item, (source, answer) in enumerate(zip(x, y)):
            assert np.array_equal(data[item][0], source[channels].astype("float32"))
            assert np.array_equal(data[item][1], answer.astype("float32"))
    flow = open_dataset(tmp_path / "flow.mat")
    assert flow.time == [0.5, 1.0]
    assert np.array_equal(flow[3], x[3][:, None].astype("float32"))


def test_random_part_of_a_li_file_is_read_in_stretches(tmp_path: Path) -> None:
    path, u = tmp_path / "u.mat", li_field(samples=40)
    write_matlab7(path, u)
    data = open_dataset(path).subset([31, 2, 17, 5, 38, 2])
    reads = []
    store = data.trajectories.store
    stretch = store._stretch
    store._stretch = lambda *arguments: reads.append(arguments[:2]) or stretch(*arguments)
    loaded = data.in_memory()
    assert reads == [(2, 39)]
    assert torch.equal(loaded[0][:, 0], torch.from_numpy(u[31]).permute(2, 0, 1))


def test_matlab5_without_scipy_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scipy.io.savemat(tmp_path / "u.mat", {"u": li_field()})
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(ImportError, match=r"needs SciPy: pip install 'kinn-torch\[mat\]'"):
        open_dataset(tmp_path / "u.mat")


def test_our_layout(tmp_path: Path) -> None:
    path = generate_poisson(tmp_path / "poisson.h5", samples=3, resolution=24, seed=5)
    data = open_dataset(str(path))
    assert isinstance(data, OperatorDataset)
    assert data.inputs.shape == data.outputs.shape == (3, 1, 24, 24)
    assert data.metadata["equation"] == "poisson"
    assert data.metadata["max_mode"] == 16
    with h5py.File(path) as file:
        assert file.attrs["format"] == "kinn.operator"
        assert file.attrs["seed"] == 5
        assert json.loads(file.attrs["parameters"])["smoothness"] == 0.5
    path = generate_navier_stokes(
        tmp_path / "flow.h5", samples=2, resolution=8, solver_resolution=16, final_time=1.5, frame_interval=0.5
    )
    data = open_dataset(path)
    assert isinstance(data, TrajectoryDataset)
    assert data.trajectories.shape == (2, 3, 1, 8, 8)
    assert data.time == [0.5, 1.0, 1.5]


def broken_files(folder: Path) -> list[tuple[str, str]]:
    """Names of files and what is said about them."""
    good = generate_poisson(folder / "good.h5", samples=4, resolution=24)
    content = good.read_bytes()
    (folder / "truncated.h5").write_bytes(content[: len(content) // 2])
    (folder / "header_only.h5").write_bytes(content[:100])
    (folder / "text.h5").write_text("not what its name says")
    (folder / "empty.h5").touch()
    (folder / "folder.h5").mkdir()
    with h5py.File(folder / "foreign.h5", "w") as file:
        file["tensor"] = np.ones((3, 4))
    with h5py.File(folder / "plain_u.h5", "w") as file:
        file["u"] = np.ones((2, 3, 4, 4))  # not MATLAB's: its axes are not to be reversed
    for name, arrays in {
        "last.h5": {"input": (4, 16, 12, 1), "output": (4, 16, 12, 1)},
        "late.h5": {"trajectory": (4, 5, 8, 8, 1)},
        "vector.h5": {"input": (4, 16, 12, 3), "output": (4, 16, 12, 3)},
        "frames.h5": {"input": (4, 16, 16, 10), "output": (4, 1, 16, 16)},
        "bare.h5": {"input": (4, 16, 16), "output": (4, 16, 16)},
        "bare_flow.h5": {"trajectory": (4, 5, 8, 8)},
        "bare_volume.h5": {"input": (4, 8, 8, 8), "output": (4, 8, 8, 8)},
        "late_frames.h5": {"trajectory": (4, 16, 16, 10)},
        "mixed.h5": {"input": (4, 16, 12, 5), "output": (4, 16, 12, 1)},
        "scalar.h5": {"input": (), "output": ()},
        "both.h5": {"input": (4, 1, 8, 8), "output": (4, 1, 8, 8), "trajectory": (4, 5, 1, 8, 8)},
    }.items():
        with h5py.File(folder / name, "w") as file:
            for key, shape in arrays.items():
                file[key] = np.ones(shape)
    with h5py.File(folder / "cno.h5", "w") as file:
        file["Sample_0/input"] = np.ones((4, 4))
    with h5py.File(folder / "oblong.h5", "w") as file:
        file["Sample_0/input"] = np.ones(15)
    write_matlab7(folder / "three.mat", np.ones((3, 4, 5), dtype="float32"))
    scipy.io.savemat(folder / "other.mat", {"v": np.ones(3)})
    scipy.io.savemat(folder / "cut.mat", {"u": li_field()})
    cut = (folder / "cut.mat").read_bytes()
    (folder / "cut.mat").write_bytes(cut[: len(cut) // 2])
    for name, changes in {
        "newer.h5": {"format_version": 99},
        "unfinished.h5": {"finished": 1},
        "attribute.h5": {"parameters": None},
        "array.h5": {"output": None},
        "kind.h5": {"output": np.full((4, 1, 24, 24), b"x")},
        "count.h5": {"output": np.ones((3, 1, 24, 24))},
    }.items():
        (folder / name).write_bytes(content)
        with h5py.File(folder / name, "r+") as file:
            for key, value in changes.items():
                place = file if key == "output" else file.attrs
                del place[key]
                if value is not None:
                    place[key] = value
    return [
        ("truncated.h5", "is truncated or damaged"),
        ("header_only.h5", "is truncated or damaged"),
        ("text.h5", "neither an HDF5 nor a MATLAB file: it starts with b'not what"),
        ("empty.h5", "is empty"),
        ("folder.h5", "is a folder"),
        ("foreign.h5", r"none of the known layouts .* it holds \['tensor'\]"),
        ("plain_u.h5", "none of the known layouts"),
        ("cno.h5", "Sample_0 lacks the array 'output'"),
        ("oblong.h5", "must hold a square grid, but its shape is"),
        ("three.mat", r"must have the axes \(N, nx, ny, T\) in MATLAB, but its shape is \(3, 4, 5\); from_arrays and"),
        ("other.mat", r"must hold an array u .* it holds \['v'\]; scipy.io.loadmat reads other arrays"),
        ("last.h5", r"16 channels on a grid of 12 x 1. Where channels come last, from_arrays\(..., channel_axis=-1\)"),
        ("last.h5", r"takes the array \(where it is right as it is, channel_axis=1\), and export_dataset"),
        ("late.h5", r"8 channels on a grid of 8 x 1. Where channels come last, from_trajectories"),
        ("vector.h5", "input in .* 16 channels on a grid of 12 x 3. Where channels come last"),
        ("frames.h5", r"input in .* 16 channels on a grid of 16 x 10. Where channels come last, .*channel_axis=-1\)"),
        ("bare.h5", r"16 channels on a grid of 16. Where there is no axis of channels, .*channel_axis=None\)"),
        (
            "bare_flow.h5",
            r"8 channels on a grid of 8. Where there is no axis .* from_trajectories\(..., channel_axis=N",
        ),
        ("bare_volume.h5", r"8 channels on a grid of 8 x 8. Where there is no axis of channels"),
        ("late_frames.h5", r"16 channels on a grid of 10. Where frames come last .*channel_axis=None, time_axis=-1\)"),
        ("mixed.h5", "output in .* 16 channels on a grid of 12 x 1"),
        ("scalar.h5", r"input in .*scalar\.h5 must be an array \(N, C, \*grid\), but its shape is \(\)"),
        ("both.h5", "holds pairs .* and a trajectory"),
        ("cut.mat", "is truncated or damaged"),
        ("newer.h5", "format version 99, but this kinn reads versions up to 1"),
        ("unfinished.h5", r"unfinished \(1 of 4 samples\)"),
        ("attribute.h5", r"lacks the attributes \['parameters'\]"),
        ("array.h5", r"lacks the arrays \['output'\]"),
        ("kind.h5", "output in .* must hold real numbers"),
        ("count.h5", "4 inputs and 3 outputs"),
    ]


@pytest.mark.parametrize(
    ("name", "shape"),
    [("input", (4, 3, 16, 16)), ("input", (4, 8, 8, 16, 16)), ("input", (4, 7, 7)), ("trajectory", (4, 16, 4, 16, 16))],
)
def test_plausible_arrays_are_taken_as_they_are(tmp_path: Path, name: str, shape: tuple[int, ...]) -> None:
    with h5py.File(tmp_path / "plain.h5", "w") as file:
        file[name] = np.ones(shape)
        if name == "input":
            file["output"] = np.ones(shape)
    data = open_dataset(tmp_path / "plain.h5")
    assert data.grid == shape[(2 if name == "input" else 3) :]


def test_broken_files_end_in_one_sentence(tmp_path: Path) -> None:
    for name, message in broken_files(tmp_path):
        with pytest.raises((ValueError, TypeError), match=message) as caught:
            open_dataset(tmp_path / name)
        assert name.split(".")[0] in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(FileNotFoundError, match="no data file"):
        open_dataset(tmp_path / "absent.h5")


@pytest.mark.parametrize("time", [[0.0, 2.0, 1.0], [0.0, 1.0, np.nan], [0.0, 1.0], [b"0", b"1", b"2"]])
def test_times_that_are_none_name_the_file(tmp_path: Path, time: list) -> None:
    with h5py.File(tmp_path / "flow.h5", "w") as file:
        file["trajectory"], file["time"] = np.ones((2, 3, 1, 4, 4)), time
    with pytest.raises(ValueError, match=r"flow\.h5: .*time"):
        open_dataset(tmp_path / "flow.h5")


@pytest.mark.parametrize("read", [open_dataset, read_attributes])
def test_a_file_that_is_written_elsewhere_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: Callable
) -> None:
    fcntl = pytest.importorskip("fcntl")
    monkeypatch.delenv("HDF5_USE_FILE_LOCKING", raising=False)
    path = generate_poisson(tmp_path / "busy.h5", samples=2, resolution=24)
    with path.open("rb+") as writer:
        fcntl.flock(writer, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match=r"busy\.h5 is open elsewhere for writing, .*HDF5_USE_FILE_LOCKING=FALSE"):
            read(path)


def test_damage_found_on_reading_names_the_sample(tmp_path: Path) -> None:
    path = tmp_path / "in.h5"
    write_cno(path)
    with h5py.File(path, "r+") as file:
        del file["Sample_5/output"]
        file["Sample_6/output"][3, 3] = np.nan
        del file["Sample_7/output"]
        file["Sample_7/output"] = np.ones((32, 32))
    data = open_dataset(path)
    with pytest.raises(OSError, match=r"Sample_5/output .* missing or damaged"):
        data[5]
    with pytest.raises(ValueError, match=r"1 values in 1 of 1 samples read .* first in sample 6"):
        data[6]
    with pytest.raises(ValueError, match=r"must hold 4096 numbers, but its shape is \(32, 32\)"):
        data[7]
