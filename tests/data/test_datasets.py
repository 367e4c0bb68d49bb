from __future__ import annotations

import multiprocessing
import os
import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from kinn.data import OperatorDataset, TrajectoryDataset, TrajectoryWindows, from_arrays, from_trajectories
from kinn.data.samples import Samples
from kinn.data.stores import TensorStore


def numbered(n: int, *shape: int) -> np.ndarray:
    """Sample i holds i everywhere."""
    return np.broadcast_to(np.arange(float(n)).reshape(n, *[1] * len(shape)), (n, *shape)).copy()


def pairs(n: int = 10) -> OperatorDataset:
    return from_arrays(numbered(n, 2, 4, 6), -numbered(n, 1, 4, 6))


def flows(n: int = 3, frames: int = 8) -> TrajectoryDataset:
    """Frame t of trajectory i holds 100 i + t."""
    u = 100 * numbered(n, frames, 1, 4, 4) + np.arange(float(frames))[:, None, None, None]
    return from_trajectories(u)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.h5"
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as out:
        out["source"] = rng.normal(size=(20, 1, 8, 8))
        out["group/potential"] = rng.normal(size=(20, 8, 8, 3)).astype("float32")
    np.save(tmp_path / "mine.npy", rng.normal(size=(20, 5, 8, 8)))
    return path


def values(samples, count: int) -> torch.Tensor:
    return samples.read(range(count))


class TestArrays:
    @pytest.mark.parametrize("kind", ["numpy", "torch", "half", "integers", "list", "strided"])
    def test_memory_of_every_kind(self, kind: str) -> None:
        array = numbered(6, 1, 4, 4)
        source = {
            "numpy": array,
            "torch": torch.from_numpy(array).requires_grad_(),
            "half": torch.from_numpy(array).half(),
            "integers": array.astype("int16"),
            "list": array.tolist(),
            "strided": np.asfortranarray(array[::-1])[::-1],
        }[kind]
        x, y = from_arrays(source, array)[4]
        assert x.dtype == torch.float32
        assert torch.equal(x, torch.full((1, 4, 4), 4.0))
        assert torch.equal(x, y)
        assert not x.requires_grad

    def test_changing_the_array_later_changes_nothing(self) -> None:
        array = torch.ones(2, 1, 4, 4)
        data = from_arrays(array, array)
        array.zero_()
        data[0][0].zero_()
        assert (data[0][0] == 1).all()

    def test_channel_axis_is_added_or_moved(self) -> None:
        last = np.random.default_rng(0).normal(size=(5, 4, 6, 3)).astype("float32")
        data = from_arrays(last, last, channel_axis=-1)
        assert data.inputs.shape == (5, 3, 4, 6)
        assert torch.equal(data[2][0], torch.from_numpy(last[2]).movedim(-1, 0))
        bare = from_arrays(last[..., 0], last[..., 1], channel_axis=None)
        assert torch.equal(bare[2][1], torch.from_numpy(last[2, None, ..., 1]))
        frames = from_trajectories(last, channel_axis=None)  # (5, T=4, 6, 3)
        assert frames.trajectories.shape == (5, 4, 1, 6, 3)

    @pytest.mark.parametrize(("time_axis", "channel_axis"), [(-1, None), (2, -1), (-1, 1), (-2, -1), (3, 2)])
    def test_frames_may_lie_anywhere(self, tmp_path: Path, time_axis: int, channel_axis: int | None) -> None:
        array = np.random.default_rng(0).normal(size=(5, 4, 6, 3, 2)).astype("float32")
        array = array[..., 0] if channel_axis is None else array
        expected = torch.from_numpy(np.moveaxis(array, time_axis, 1))
        if channel_axis is None:
            expected = expected.unsqueeze(2)
        else:
            axes = [axis % 5 for axis in (0, time_axis, channel_axis)]
            expected = torch.from_numpy(array).permute(*axes, *(axis for axis in range(5) if axis not in axes))
        np.save(tmp_path / "u.npy", array)
        with h5py.File(tmp_path / "u.h5", "w") as file:
            file["u"] = array
        for given in (array, tmp_path / "u.npy", (tmp_path / "u.h5", "u")):
            flows = from_trajectories(given, time_axis=time_axis, channel_axis=channel_axis)
            assert torch.equal(torch.stack([flows[i] for i in range(5)]), expected)
            assert torch.equal(flows.trajectories.read([3], window=slice(1, 3))[0], expected[3, 1:3])

    def test_wrong_time_axis(self) -> None:
        with pytest.raises(ValueError, match="with 5 axes have no time axis 5 beside that of samples"):
            from_trajectories(np.ones((5, 2, 1, 4, 4)), time_axis=5)
        with pytest.raises(ValueError, match="have no channel axis 2 beside that of samples and frames"):
            from_trajectories(np.ones((5, 2, 1, 4, 4)), time_axis=2)
        with pytest.raises(TypeError, match="time_axis must be an integer or None, but is 'last'"):
            from_trajectories(np.ones((5, 2, 1, 4, 4)), time_axis="last")  # pyright: ignore[reportArgumentType]
        with pytest.raises(TypeError, match="time_axis must be an integer, but is None"):
            from_trajectories(np.ones((5, 2, 1, 4, 4)), time_axis=None)  # pyright: ignore[reportArgumentType]

    def test_axes_are_integers_of_any_kind(self) -> None:
        array = np.ones((5, 2, 4, 3))
        assert from_arrays(array, array, channel_axis=np.int64(-1)).in_channels == 3
        for axis in (True, 1.0):
            with pytest.raises(TypeError, match=f"channel_axis must be an integer or None, but is {axis}"):
                from_arrays(array, array, channel_axis=axis)

    @pytest.mark.parametrize("axis", [0, 4, -4])
    def test_wrong_channel_axis(self, axis: int) -> None:
        with pytest.raises(ValueError, match=f"no channel axis {axis}"):
            from_arrays(np.ones((5, 1, 4, 4)), np.ones((5, 1, 4, 4)), channel_axis=axis)

    def test_files_of_every_kind(self, file: Path) -> None:
        with h5py.File(file) as opened:
            data = from_arrays(opened["source"], (file, "source"))
            expected = torch.from_numpy(opened["source"][:]).float()
            channels_last = torch.from_numpy(opened["group/potential"][:])
        assert torch.equal(values(data.inputs, 20), expected)  # the file was closed meanwhile
        assert torch.equal(values(data.outputs, 20), expected)
        moved = from_arrays((str(file), "group/potential"), (file, "/group/potential"), channel_axis=-1)
        assert torch.equal(values(moved.inputs, 20), channels_last.movedim(-1, 1))
        numpy = from_arrays(file.with_suffix(".npy"), str(file.with_suffix(".npy")))
        assert torch.equal(values(numpy.inputs, 20), torch.from_numpy(np.load(file.with_suffix(".npy"))).float())
        np.savez(file.with_suffix(".npz"), mine=np.load(file.with_suffix(".npy")))
        packed = from_arrays((file.with_suffix(".npz"), "mine"), (file.with_suffix(".npz"), "mine"))
        assert torch.equal(values(packed.inputs, 20), values(numpy.inputs, 20))
        with pytest.raises(ValueError, match=r"no array 'yours' for the inputs; it holds \['mine'\]"):
            from_arrays((file.with_suffix(".npz"), "yours"), packed)
        added = from_trajectories(file.with_suffix(".npy"), channel_axis=None)
        assert added.trajectories.shape == (20, 5, 1, 8, 8)
        assert torch.equal(added[3][:, 0], torch.from_numpy(np.load(file.with_suffix(".npy"))[3]).float())

    def test_wrong_arrays_are_named(self, file: Path) -> None:
        one = np.ones((5, 1, 4, 4))
        for message, arguments in [
            ("5 inputs and 4 outputs", (one, one[:4])),
            (r"\(4, 4\) and \(4, 3\)", (one, one[..., :3])),
            ("channel_axis=None", (one[:, 0, 0], one[:, 0, 0])),
            (r"expected at least one sample, got none: the inputs have the shape \(0, 1, 4, 4\)", (one[:0], one[:0])),
            ("empty axes", (one[..., :0], one[..., :0])),
            ("no array 'sauce' for the inputs; it holds", ((file, "sauce"), one)),
            (r"\(path, name\)", ((file, "source", 3), one)),
            (r"a .npy file or \(HDF5 or .npz file, array name\)", (str(file), one)),
        ]:
            with pytest.raises(ValueError, match=message):
                from_arrays(*arguments)
        for array in (one.astype(complex), torch.ones(5, 1, 4, 4, dtype=torch.complex64), np.full((5, 1, 4), "a")):
            with pytest.raises(TypeError, match="inputs must hold real numbers"):
                from_arrays(array, one)
        with pytest.raises(FileNotFoundError, match=r"no file .*absent.h5"):
            from_arrays((file.with_name("absent.h5"), "source"), one)

    @pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300])
    def test_values_that_are_not_finite_name_the_sample(self, bad: float, tmp_path: Path) -> None:
        array = np.ones((300, 1, 4, 4))
        array[270, 0, 1, :2] = bad
        array[280, 0, 0, 0] = bad
        message = "3 values in 2 of 44 samples read are NaN or infinite, the first in sample 270"
        with pytest.raises(ValueError, match=f"outputs must be finite in float32, but {message}"):
            from_arrays(np.ones_like(array), array)
        np.save(tmp_path / "bad.npy", array)
        data = from_arrays(tmp_path / "bad.npy", tmp_path / "bad.npy")  # found on reading
        assert len(data.__getitems__(range(270))) == 270
        with pytest.raises(ValueError, match=r"bad.npy must be finite.*first in sample 280"):
            data[280]
        with pytest.raises(ValueError, match="sample 270"):
            data.in_memory()


class TestReading:
    """Reading lazily gives what lies in the file, whatever the order."""

    @pytest.mark.parametrize("rows", [[3], [0, 1, 2], [2, 1, 0], [0, 19], [5, 5, 6], [19, 0, 7, 7], list(range(20))])
    def test_rows_in_any_order(self, file: Path, rows: list[int]) -> None:
        data = from_arrays((file, "source"), (file, "source")).inputs
        with h5py.File(file) as opened:
            expected = torch.from_numpy(opened["source"][:]).float()
        assert torch.equal(data.read(rows), expected[rows])
        assert data.read([]).shape == (0, 1, 8, 8)

    def test_subsets_of_subsets(self, file: Path) -> None:
        data = from_arrays((file, "source"), (file, "source"))
        part = data.subset(slice(5, None)).subset([0, -1, 3])
        whole = values(data.inputs, 20)
        expected = whole[[5, 19, 8]]
        assert torch.equal(torch.stack([x for x, _ in part]), expected)
        assert torch.equal(values(part.in_memory().inputs, 3), expected)
        assert torch.equal(data.subset(slice(-3, None))[2][0], whole[19])

    def test_index_outside(self) -> None:
        data = pairs()
        assert torch.equal(data[-1][0], data[9][0])
        for index in (10, -11):
            with pytest.raises(IndexError, match="outside a data set of 10 items"):
                data[index]
        assert len(list(data)) == 10
        with pytest.raises(IndexError):
            data.subset([10])
        for none in ([], slice(5, 2)):
            for kind in (data, flows()):
                with pytest.raises(ValueError, match="expected at least one sample, got none"):
                    kind.subset(none)

    @pytest.mark.parametrize("method", [None, "fork", "spawn"])
    def test_loader_with_workers(self, file: Path, method: str | None) -> None:
        data = from_arrays((file, "source"), (file, "source")).subset(range(4, 20))
        first = data[0][0]  # the handle is open before the workers start
        workers = {"num_workers": 2, "multiprocessing_context": multiprocessing.get_context(method)} if method else {}
        loader = DataLoader(data, batch_size=5, **workers)
        batches = [x for x, _ in loader]
        assert [len(batch) for batch in batches] == [5, 5, 5, 1]
        assert torch.equal(batches[0][0], first)
        assert torch.equal(torch.cat(batches), data.inputs.read(range(16)))

    def test_another_process_opens_the_file_itself(self, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        data = from_arrays((file, "source"), (file, "source"))
        store = data.inputs.store
        mine = store._array()
        assert store._array() is mine
        monkeypatch.setattr(os, "getpid", lambda: -1)
        assert store._array() is not mine

    def test_pickle_reopens_the_file(self, file: Path) -> None:
        data = from_arrays((file, "source"), file.with_suffix(".npy"))
        x, y = data[7]
        again = pickle.loads(pickle.dumps(data))
        assert torch.equal(again[7][0], x)
        assert torch.equal(again[7][1], y)

    def test_repr_tells_the_shape(self) -> None:
        assert repr(pairs()) == "OperatorDataset(10 pairs, 2 -> 1 channels, grid (4, 6))"
        assert repr(flows()) == "TrajectoryDataset(3 trajectories, 8 frames, 1 channels, grid (4, 4))"


class TestWindows:
    def test_every_window_once_in_order(self) -> None:
        windows = TrajectoryWindows(flows(), n_history=3, n_future=2, stride=2)
        starts = [0, 2]  # 8 frames: 4 + 5 would be one too many
        assert len(windows) == 6
        for index in range(6):
            history, future = windows[index]
            first = 100 * (index // 2) + starts[index % 2]
            assert history[:, 0, 0, 0].tolist() == [first, first + 1, first + 2]
            assert future[:, 0, 0, 0].tolist() == [first + 3, first + 4]
        assert torch.equal(windows[-1][1], windows[5][1])

    @pytest.mark.parametrize("where", ["memory", "file", "strided"])
    def test_a_batch_is_its_windows_stacked(self, where: str, tmp_path: Path) -> None:
        data = flows(4)
        if where == "file":
            np.save(tmp_path / "u.npy", values(data.trajectories, 4).numpy())
            data = from_trajectories(tmp_path / "u.npy")
        elif where == "strided":
            frames = values(data.trajectories, 4).transpose(0, 1).contiguous().transpose(0, 1)
            data = TrajectoryDataset(Samples(TensorStore(frames, what="flows")))
        windows = TrajectoryWindows(data.subset([3, 1, 0]), n_history=3, n_future=2, stride=2)
        order = [5, 0, 2, 2]
        for together, apart in zip(windows.batch(order), zip(*(windows[i] for i in order))):
            assert together.is_contiguous()
            assert torch.equal(together, torch.stack(apart))
        assert windows.batch(order)[1][:, :, 0, 0, 0].tolist() == [[5, 6], [303, 304], [103, 104], [103, 104]]
        loaded = list(DataLoader(windows, batch_size=4, sampler=order))
        assert all(torch.equal(a, b) for a, b in zip(loaded[0], windows.batch(order)))

    def test_full_rollout_is_one_window(self) -> None:
        windows = TrajectoryWindows(flows(), n_history=5, n_future=3)
        assert len(windows) == 3
        assert windows[1][1].shape == (3, 1, 4, 4)

    def test_windows_read_only_their_frames(self, tmp_path: Path) -> None:
        u = np.ones((2, 8, 1, 4, 4))
        u[:, 7] = np.nan  # never read below
        np.save(tmp_path / "u.npy", u)
        windows = TrajectoryWindows(from_trajectories(tmp_path / "u.npy"), n_history=3, n_future=2)
        assert windows[0][0].shape == (3, 1, 4, 4)
        with pytest.raises(ValueError, match="NaN or infinite"):
            windows[3]

    @pytest.mark.parametrize("where", ["memory", "file"])
    def test_some_frames_are_the_whole_ones_cut(self, where: str, tmp_path: Path) -> None:
        data = flows(4, frames=11)
        if where == "file":
            np.save(tmp_path / "u.npy", values(data.trajectories, 4).numpy())
            data = from_trajectories(tmp_path / "u.npy")
        data.time = [float(t) for t in range(11)]
        some = data.subset([3, 1]).frames(slice(1, None, 4))
        assert some.time == [1, 5, 9]
        assert torch.equal(values(some.trajectories, 2), values(data.trajectories, 4)[[3, 1], 1::4])
        again = some.frames(slice(1, None)).subset([1])
        assert again[0][:, 0, 0, 0].tolist() == [105, 109]
        windows = TrajectoryWindows(some, n_history=1, n_future=1)
        for together in (windows, TrajectoryWindows(some.in_memory(), n_history=1, n_future=1)):
            history, future = together.batch([3, 0])
            assert history[:, :, 0, 0, 0].tolist() == [[105], [301]]
            assert future[:, :, 0, 0, 0].tolist() == [[109], [305]]
            assert history.is_contiguous()
        assert some.n_bytes == 4 * 2 * 3 * 16

    def test_frames_that_are_none_or_run_backwards(self) -> None:
        for wrong in (slice(8, None), slice(None, None, -1)):
            with pytest.raises(ValueError, match="takes some of 8 frames in order, got slice"):
                flows().frames(wrong)

    def test_wrong_windows_are_named(self) -> None:
        with pytest.raises(ValueError, match=r"window of 6 \+ 3 frames does not fit into 8 frames"):
            TrajectoryWindows(flows(), n_history=6, n_future=3)
        with pytest.raises(ValueError, match="must be positive, but are 3, 0 and 1"):
            TrajectoryWindows(flows(), n_history=3, n_future=0)
        with pytest.raises(ValueError, match="one time per frame, but there are 3 for 8"):
            TrajectoryDataset(flows().trajectories, time=[1, 2, 3])
        for message, time in (
            ("that of frame 1 is 1 after 3", [3, 1, np.nan]),
            ("that of frame 0 is nan", [np.nan, 1, 2]),
            ("that of frame 2 is inf after 1", [0, 1, np.inf]),
            ("that of frame 2 is 1 after 1", np.array([0, 1, 1], dtype="uint8")),
        ):
            with pytest.raises(ValueError, match=f"times must be finite and increasing, but {message}$"):
                TrajectoryDataset(flows(frames=3).trajectories, time=time)
        for time in ("012", [[0], [1], [2]], 3):
            with pytest.raises(TypeError, match="time must be a sequence of numbers, one per frame, but is "):
                TrajectoryDataset(flows(frames=3).trajectories, time=time)  # pyright: ignore[reportArgumentType]
        with pytest.raises(ValueError, match="frames, channels"):
            from_trajectories(np.ones((3, 4, 4)))


def test_a_mask_chooses_where_it_is_true() -> None:
    data = from_arrays(torch.arange(6.0).reshape(6, 1, 1), torch.zeros(6, 1, 1))
    mask = [False, True, False, False, True, True]
    for chosen in (mask, torch.tensor(mask), np.array(mask), [1, 4, 5], np.array([1, 4, -1])):
        assert data.subset(chosen).batch(range(3))[0].flatten().tolist() == [1, 4, 5]
    with pytest.raises(ValueError, match="a mask for 6 samples must have as many booleans, but has 3"):
        data.subset(mask[:3])
    for wrong in (3, 1.5, [0.5], "ab"):
        with pytest.raises(TypeError, match="expected a slice, a list of indices or of booleans"):
            data.subset(wrong)
