"""Exported files: read back by `open_dataset`, and number for number as other people's code reads them."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import torch

import kinn.data.export
import kinn.data.layouts.fitting
import kinn.data.layouts.matlab
from kinn.data import (
    OperatorDataset,
    TrajectoryDataset,
    export_dataset,
    from_arrays,
    from_trajectories,
    generate_navier_stokes,
    generate_poisson,
    open_dataset,
)

LAYOUTS = ("kinn", "cno", "li", "pdebench-darcy", "pdebench-rdb")


def pairs(*grid: int, channels: int = 1, samples: int = 12) -> OperatorDataset:
    draws = torch.randn(2, samples, channels, *grid, generator=torch.Generator().manual_seed(0))
    return from_arrays(draws[0], draws[1])


def flows(*grid: int, channels: int = 1, timed: bool = True) -> TrajectoryDataset:
    fields = torch.randn(5, 4, channels, *grid, generator=torch.Generator().manual_seed(1))
    return from_trajectories(fields, time=[0.0, 0.1, 0.2, 0.3] if timed else None)


def fitting(layout: str) -> OperatorDataset | TrajectoryDataset:
    """Data that fit; wherever a layout allows it, no two axes are of the same length."""
    return {"cno": pairs(6, 6), "pdebench-darcy": pairs(6, 7)}.get(layout) or flows(6, 7)


def fields(dataset: OperatorDataset | TrajectoryDataset) -> tuple[torch.Tensor, ...]:
    every = range(len(dataset))
    return dataset.batch(every) if isinstance(dataset, OperatorDataset) else (dataset.trajectories.read(every),)


@pytest.mark.parametrize("at_once", [2**24, 100])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_round_trip(tmp_path: Path, layout: str, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the number of samples or frames that are held at once, 100 numbers being two fields."""
    for module in (kinn.data.layouts.fitting, kinn.data.layouts.matlab):
        monkeypatch.setattr(module, "BUDGET", at_once)
    data, seen = fitting(layout), []
    path = export_dataset(
        data, tmp_path / "new" / "file", layout=layout, progress=lambda done, total: seen.append((done, total))
    )
    back = open_dataset(path)
    assert type(back) is type(data)
    for ours, theirs in zip(fields(data), fields(back), strict=True):
        assert torch.equal(ours, theirs)
    assert getattr(back, "time", None) == getattr(data, "time", None)
    assert seen[-1] == (len(data), len(data))
    assert seen == sorted(seen)
    assert len(seen) > 1 or at_once > 100
    assert os.listdir(path.parent) == ["file"]


@pytest.mark.parametrize(
    "data",
    [pairs(9, channels=3), pairs(3, 4, 5, channels=2), flows(7, channels=2), flows(6, 7, timed=False)],
    ids=repr,
)
def test_our_own_layout_takes_any_channels_and_grids(tmp_path: Path, data: OperatorDataset | TrajectoryDataset) -> None:
    data.metadata.update(equation="heat", diffusivity=0.1)
    back = open_dataset(export_dataset(data, tmp_path / "own.h5", layout="kinn"))
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(fields(data), fields(back), strict=True))
    assert getattr(back, "time", None) == getattr(data, "time", None)
    assert back.metadata == {"equation": "heat", "diffusivity": 0.1}
    data.metadata["source"] = object()
    with pytest.raises(ValueError, match="keeps metadata of plain values"):
        export_dataset(data, tmp_path / "other.h5", layout="kinn")


def test_cno_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read as CNO's code does: by key, reshaped, normalised by the constants."""
    monkeypatch.setattr(kinn.data.layouts.fitting, "BUDGET", 600)  # two samples at a time
    data = open_dataset(generate_poisson(tmp_path / "p.h5", samples=11, resolution=16, max_mode=4, seed=2))
    path = export_dataset(data, tmp_path / "IN.h5", layout="cno")
    with h5py.File(path) as file:
        assert len(file) == 11 + 4
        field = torch.from_numpy(file["Sample_10"]["input"][:]).type(torch.float32).reshape(1, 16, 16)
        assert torch.equal(field, data[10][0])
        inputs, outputs = fields(data)
        assert (file["min_inp"][()], file["max_inp"][()]) == (inputs.min(), inputs.max())
        assert (file["min_out"][()], file["max_out"][()]) == (outputs.min(), outputs.max())
    part = open_dataset(path).subset([3, 4])
    back = open_dataset(export_dataset(part, tmp_path / "part.h5", layout="cno"))
    assert back.metadata["input_range"] == (inputs.min(), inputs.max())  # the file's, not the part's
    assert torch.equal(fields(back)[0], inputs[[3, 4]])


def test_pdebench_darcy_file(tmp_path: Path) -> None:
    data = pairs(4, 5)
    data.metadata.update(beta=0.1, domain=(0, 2))
    path = export_dataset(data, tmp_path / "darcy.hdf5", layout="pdebench-darcy")
    with h5py.File(path) as file:
        assert sorted(file) == ["nu", "tensor", "x-coordinate", "y-coordinate"]
        assert file.attrs["beta"] == 0.1
        assert np.array_equal(file["x-coordinate"], [0.25, 0.75, 1.25, 1.75])
        assert np.allclose(file["y-coordinate"], [0.2, 0.6, 1.0, 1.4, 1.8], rtol=1e-6)
        assert np.array_equal(file["nu"], data.inputs.read(range(12))[:, 0])
        assert np.array_equal(file["tensor"], data.outputs.read(range(12)))
        assert {str(file[name].dtype) for name in file} == {"float32"}
    assert open_dataset(path).metadata["beta"] == 0.1
    del data.metadata["beta"], data.metadata["domain"]
    path = export_dataset(data, tmp_path / "darcy.hdf5", layout="pdebench-darcy", overwrite=True)
    with h5py.File(path) as file:
        assert "beta" not in file.attrs
        assert np.array_equal(file["x-coordinate"], [0.125, 0.375, 0.625, 0.875])


def test_pdebench_rdb_file(tmp_path: Path) -> None:
    data = flows(4, 5)
    path = export_dataset(data, tmp_path / "rdb.h5", layout="pdebench-rdb")
    with h5py.File(path) as file:
        assert sorted(file) == ["0000", "0001", "0002", "0003", "0004"]
        assert file["0003/data"].shape == (4, 4, 5, 1)
        assert np.array_equal(file["0003/data"][:, 2, 3, 0], data[3][:, 0, 2, 3])
        assert np.array_equal(file["0004/grid/x"], [-1.875, -0.625, 0.625, 1.875])
        assert np.array_equal(file["0004/grid/y"], [-2, -1, 0, 1, 2])
        assert np.array_equal(file["0004/grid/t"], np.array([0, 0.1, 0.2, 0.3], "float32"))
        assert {str(file[f"0000/{name}"].dtype) for name in ("data", "grid/x", "grid/y", "grid/t")} == {"float32"}
    data.metadata["domain"] = [0, 1]
    path = export_dataset(data, tmp_path / "rdb.h5", layout="pdebench-rdb", overwrite=True)
    assert open_dataset(path).metadata["domain"] == (0, 1)


def test_li_file(tmp_path: Path) -> None:
    """Read as Li's code does, all axes reversed; and the marks by which MATLAB knows its files."""
    flow = {"samples": 3, "resolution": 8, "solver_resolution": 16, "final_time": 2}
    data = open_dataset(generate_navier_stokes(tmp_path / "f.h5", **flow))
    assert isinstance(data, TrajectoryDataset)
    path = export_dataset(data, tmp_path / "ns.mat", layout="li")
    start = path.read_bytes()[:520]
    assert start.startswith(b"MATLAB 7.3 MAT-file, ")
    assert b"HDF5 schema 1.00" in start[:116]
    assert start[116:128] == bytes(8) + b"\x00\x02IM"
    assert start[128:512] == bytes(384)
    assert start[512:] == b"\x89HDF\r\n\x1a\n"
    with h5py.File(path) as file:
        assert sorted(file) == ["t", "u"]
        u, t = (np.transpose(file[name][()]) for name in ("u", "t"))
        for name, kind in (("u", b"single"), ("t", b"double")):
            assert file[name].attrs["MATLAB_class"] == kind
            stored = h5py.h5a.open(file[name].id, b"MATLAB_class").get_type()
            # MATLAB's strings end with a zero for which there is no room; others lose a letter on the way
            assert (stored.get_size(), stored.get_strpad()) == (6, h5py.h5t.STR_NULLTERM)
    assert (u.shape, u.dtype) == ((3, 8, 8, 2), np.float32)
    assert np.array_equal(u[2, :, :, 1], data[2][1, 0])
    assert np.array_equal(t, [[1, 2]])


def test_li_file_without_times(tmp_path: Path) -> None:
    back = open_dataset(export_dataset(flows(6, 7, timed=False), tmp_path / "u.mat", layout="li"))
    assert isinstance(back, TrajectoryDataset)
    assert back.time is None


def test_data_that_do_not_fit(tmp_path: Path) -> None:
    bent, unbounded = pairs(6, 7), flows(6, 7)
    unbounded.metadata["domain"] = 5
    for data, layout, message in [
        (flows(6, 6), "cno", r"'cno' holds pairs, but the data are TrajectoryDataset\(5"),
        (flows(6, 6), "pdebench-darcy", "'pdebench-darcy' holds pairs, but"),
        (pairs(6, 6), "li", r"'li' holds trajectories, but the data are OperatorDataset\(12"),
        (pairs(6, 6), "pdebench-rdb", "'pdebench-rdb' holds trajectories, but"),
        (bent, "cno", r"'cno' holds fields on a square grid, but .* grid \(6, 7\)"),
        (pairs(6, 6, channels=2), "cno", "'cno' holds fields of one channel, but .* 2 -> 2 channels"),
        (flows(6, 6, channels=2), "li", "'li' holds fields of one channel, but .* 2 channels"),
        (flows(6, 6, channels=2), "pdebench-rdb", "'pdebench-rdb' holds fields of one channel"),
        (pairs(6), "pdebench-darcy", r"fields on a two-dimensional grid, but .* grid \(6,\)"),
        (flows(2, 3, 4), "li", r"fields on a two-dimensional grid, but .* grid \(2, 3, 4\)"),
        (flows(6, 6, timed=False), "pdebench-rdb", "needs the time of each frame"),
        (unbounded, "pdebench-rdb", "domain in the metadata must be two numbers, but is 5"),
        (pairs(6, 6), "matlab", "layout must be one of kinn, cno, li, pdebench-darcy, pdebench-rdb, but is 'matlab'"),
    ]:
        with pytest.raises(ValueError, match=message):
            export_dataset(data, tmp_path / "x.h5", layout=layout)
    for told in ({"input_range": (0.0, 9.0)}, {"input_range": (1.0, 0.0), "output_range": (0.0, 1.0)}):
        data = pairs(6, 6)
        data.metadata.update(told)
        with pytest.raises(ValueError, match="'cno' holds the ranges input_range, output_range, but the metadata tell"):
            export_dataset(data, tmp_path / "x.h5", layout="cno")
    assert not os.listdir(tmp_path)


def test_an_equation_that_is_not_the_layouts_own_is_kept(tmp_path: Path) -> None:
    for layout, data in (("cno", pairs(6, 6)), ("pdebench-darcy", pairs(6, 6)), ("pdebench-rdb", flows(6, 6))):
        data.metadata.clear()
        data.metadata["equation"] = "navier-stokes"
        back = open_dataset(export_dataset(data, tmp_path / f"{layout}.h5", layout=layout)).metadata
        assert back["equation"] == "navier-stokes"
        assert back.get("domain", (0, 1)) == pytest.approx((0, 1), abs=1e-6)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_whole_or_not_at_all(tmp_path: Path, layout: str) -> None:
    data, path = fitting(layout), tmp_path / "x"
    part = tmp_path / "x.part"
    part.write_text("of a generator that goes on later")

    def stop(done: int, total: int) -> None:
        assert (tmp_path / "x.export.part").exists()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_dataset(data, path, layout=layout, progress=stop)
    assert os.listdir(tmp_path) == ["x.part"]
    export_dataset(data, path, layout=layout)
    whole = path.read_bytes()
    with pytest.raises(ValueError, match="x exists already: choose another path, or overwrite it"):
        export_dataset(data, path, layout=layout)
    with pytest.raises(KeyboardInterrupt):
        export_dataset(data, path, layout=layout, overwrite=True, progress=stop)
    assert path.read_bytes() == whole
    assert part.read_text() == "of a generator that goes on later"


def test_damaged_data_leave_nothing_behind(tmp_path: Path) -> None:
    export_dataset(pairs(6, 6), tmp_path / "in.h5", layout="cno")
    with h5py.File(tmp_path / "in.h5", "r+") as file:
        file["Sample_7/output"][2, 2] = np.nan
    with pytest.raises(ValueError, match="1 values in 1 of 12 samples read are NaN or infinite, the first in sample 7"):
        export_dataset(open_dataset(tmp_path / "in.h5"), tmp_path / "out.h5", layout="pdebench-darcy")
    assert os.listdir(tmp_path) == ["in.h5"]


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise RuntimeError("Can't write data (file write failed: errno = 28, error message = 'No space left')")

    monkeypatch.setitem(kinn.data.export.LAYOUTS, "cno", full)
    with pytest.raises(OSError, match=r"the disk is full: nothing was kept of .*x.h5"):
        export_dataset(pairs(6, 6), tmp_path / "x.h5", layout="cno")
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=10**6))
    with pytest.raises(OSError, match=r"the data need 1\.1 MB, but .* has 1\.0 MB left"):
        export_dataset(pairs(6, 6), tmp_path / "x.h5", layout="li")
    with pytest.raises(ValueError, match=r"exists already: choose another path$"):
        export_dataset(pairs(6, 6), tmp_path, layout="cno", overwrite=True)
