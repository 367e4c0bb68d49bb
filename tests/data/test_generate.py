from __future__ import annotations

import errno
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

import kinn.data.writer
import kinn.locks
from kinn.data import export_dataset, generate_navier_stokes, generate_poisson, open_dataset
from kinn.data.generators.common import sample_generator
from kinn.pde import default_forcing, gaussian_random_field, solve_navier_stokes

poisson = partial(generate_poisson, samples=10, resolution=24, chunk=3)
flow = partial(generate_navier_stokes, samples=5, resolution=8, solver_resolution=16, final_time=2, chunk=2)
both = pytest.mark.parametrize("generate", [poisson, flow])


class StoppedError(Exception):
    pass


def stop_at(units: int) -> Callable[[int, int], None]:
    def progress(done: int, total: int) -> None:
        if done >= units:
            raise StoppedError

    return progress


def arrays(path: Path) -> dict[str, np.ndarray]:
    with h5py.File(path) as file:
        return {name: file[name][()] for name in file}


def assert_same(a: Path, b: Path) -> None:
    first, second = arrays(a), arrays(b)
    assert first.keys() == second.keys()
    for name in first:
        assert np.array_equal(first[name], second[name]), name


@both
@pytest.mark.parametrize("units", [1, 4, 7])
def test_stopped_and_resumed_is_bit_identical(tmp_path: Path, generate: Callable, units: int) -> None:
    whole = generate(tmp_path / "whole.h5")
    path = tmp_path / "stopped.h5"
    with pytest.raises(StoppedError):
        generate(path, progress=stop_at(units))
    assert not path.exists()
    assert (tmp_path / "stopped.h5.part").exists() == (generate is poisson or units > 1)  # a chunk was finished
    seen = []
    generate(path, progress=lambda done, total: seen.append((done, total)))
    assert_same(path, whole)
    assert seen[-1][0] == seen[-1][1]
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    if units >= 7:
        assert seen[0][0] > 3  # it went on, and did not start again
    assert sorted(os.listdir(tmp_path)) == ["stopped.h5", "whole.h5"]


def test_killed_in_the_middle_goes_on(tmp_path: Path) -> None:
    """SIGKILL leaves no time to close anything."""
    path = tmp_path / "killed.h5"
    options = "samples=400, resolution=32, chunk=1"
    code = f"from kinn.data import generate_poisson; generate_poisson({str(path)!r}, {options})"
    process = subprocess.Popen([sys.executable, "-c", code], env=os.environ | {"OMP_NUM_THREADS": "1"})
    part = tmp_path / "killed.h5.part"
    for _ in range(3000):
        if part.exists():
            break
        time.sleep(0.01)
    time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not path.exists()
    generate_poisson(path, samples=400, resolution=32, chunk=100)
    assert_same(path, generate_poisson(tmp_path / "whole.h5", samples=400, resolution=32))


def test_a_second_process_waits_for_the_first(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "shared.h5"
    code = (
        f"from kinn.data import generate_poisson; generate_poisson({str(path)!r}, samples=10, resolution=24, chunk=3)"
    )
    second: list[subprocess.Popen] = []

    def progress(done: int, total: int) -> None:
        if not second and done:
            second.append(subprocess.Popen([sys.executable, "-c", code], env=os.environ | {"OMP_NUM_THREADS": "1"}))
            while "another process makes" not in capfd.readouterr().err:
                assert second[0].poll() is None
                time.sleep(0.02)

    poisson(path, progress=progress)
    assert second[0].wait(60) == 0
    assert_same(path, poisson(tmp_path / "whole.h5"))
    assert sorted(os.listdir(tmp_path)) == ["shared.h5", "whole.h5"]


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.EACCES])
def test_where_locks_are_refused_a_file_is_made_unguarded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, "refused")

    monkeypatch.setattr(kinn.locks.FileLock, "acquire", refuse)
    if code == errno.EACCES:  # another user's lock, say
        with pytest.raises(PermissionError):
            poisson(tmp_path / "x.h5")
    else:
        with pytest.warns(UserWarning, match=r"x\.h5 is made unguarded .*refused.*: start no second command"):
            poisson(tmp_path / "x.h5")
        assert os.listdir(tmp_path) == ["x.h5"]


def test_a_folder_that_cannot_be_synced_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sync, refused = os.fsync, []

    def choosy(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            refused.append(handle)
            raise OSError(errno.EINVAL, "Invalid argument")
        sync(handle)

    monkeypatch.setattr(os, "fsync", choosy)
    assert len(open_dataset(poisson(tmp_path / "x.h5"))) == 10
    assert refused


def test_a_part_that_goes_away_is_not_begun_in_the_middle(tmp_path: Path) -> None:
    def remove(done: int, total: int) -> None:
        if done == 3:
            (tmp_path / "gone.h5.part").unlink()

    with pytest.raises(OSError, match="nothing was kept; run again"):
        poisson(tmp_path / "gone.h5", progress=remove)
    assert os.listdir(tmp_path) == []


@both
def test_samples_do_not_depend_on_chunks_or_their_number(tmp_path: Path, generate: Callable) -> None:
    name = "input" if generate is poisson else "trajectory"
    one = arrays(generate(tmp_path / "a.h5"))[name]
    other = arrays(generate(tmp_path / "b.h5", samples=4, chunk=4))[name]
    assert np.allclose(one[:4], other, rtol=0, atol=2e-6 * abs(other).max())
    assert not np.allclose(one[0], one[1])
    assert not np.allclose(one, arrays(generate(tmp_path / "c.h5", seed=1))[name])


def test_poisson_file_holds_the_pair(tmp_path: Path) -> None:
    """Second-order differences of the output give back the input."""
    data = open_dataset(poisson(tmp_path / "p.h5", resolution=128, max_mode=3))
    f, u = data[7]
    h = 1 / 127
    laplace = (u[0, 2:, 1:-1] + u[0, :-2, 1:-1] + u[0, 1:-1, 2:] + u[0, 1:-1, :-2] - 4 * u[0, 1:-1, 1:-1]) / h**2
    assert (laplace + f[0, 1:-1, 1:-1]).abs().max() < 1e-2 * f.abs().max()


def test_numbers_of_numpys_are_numbers(tmp_path: Path) -> None:
    made = [
        generate_poisson(tmp_path / f"{kind.__name__}.h5", samples=kind(3), resolution=kind(32), seed=kind(5))
        for kind in (int, np.int64)
    ]
    plain, numpys = (open_dataset(path) for path in made)
    assert numpys.metadata == plain.metadata
    assert torch.equal(numpys[2][0], plain[2][0])


def test_other_modes_draw_other_coefficients(tmp_path: Path) -> None:
    """The out-of-distribution file must not repeat the numbers of the training file: a_11 by the sine transform."""
    first = []
    for mode in (16, 20):
        f = open_dataset(poisson(tmp_path / f"{mode}.h5", max_mode=mode))[0][0][0].double()
        sine = torch.sin(torch.pi * torch.linspace(0, 1, 24, dtype=torch.float64))
        first.append((4 / 23**2 * (sine @ f @ sine) * mode**2 / (torch.pi * 2**0.5)).item())
    assert max(map(abs, first)) <= 1
    assert abs(first[0] - first[1]) > 1e-3


def test_flow_file_holds_the_solution(tmp_path: Path) -> None:
    """Frames at 1, 2, ... without the initial field; every second point of the solver's grid."""
    data = open_dataset(flow(tmp_path / "n.h5", dtype=torch.float64, viscosity=1e-2))
    w0 = gaussian_random_field(1, 16, generator=sample_generator(0, 3))
    w = solve_navier_stokes(w0, 2, viscosity=1e-2, forcing=default_forcing(16))
    assert torch.allclose(data[3][:, 0], w[0, :, ::2, ::2].float(), rtol=1e-5, atol=1e-6)
    assert data.time == [1, 2]


def test_an_exported_part_is_not_taken_for_the_whole(tmp_path: Path) -> None:
    how = {"resolution": 8, "max_mode": 2, "seed": 0}
    whole = open_dataset(generate_poisson(tmp_path / "whole.h5", samples=6, **how))
    part = export_dataset(whole.subset(slice(2)), tmp_path / "part.h5", layout="kinn")
    for samples in (2, 6):
        with pytest.raises(ValueError, match="it is a part, 2 of 6 samples"):
            generate_poisson(part, samples=samples, **how)


@both
def test_existing_file_is_kept_replaced_or_defended(tmp_path: Path, generate: Callable) -> None:
    path = generate(tmp_path / "deep" / "folder" / "x.h5")
    before = path.stat()
    assert generate(path, progress=stop_at(0)) == path  # nothing to do, no progress to report
    assert generate(str(path), chunk=1) == path
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    with pytest.raises(ValueError, match=r"already holds other data \(seed is 0 there and 3 here\)"):
        generate(path, seed=3)
    assert path.stat().st_ino == before.st_ino
    generate(path, seed=3, overwrite=True)
    assert open_dataset(path).metadata["seed"] == 3


def test_another_equation_is_other_data(tmp_path: Path) -> None:
    poisson(tmp_path / "x.h5")
    with pytest.raises(ValueError, match="equation is poisson there and navier-stokes here"):
        flow(tmp_path / "x.h5")


def test_foreign_file_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "thesis.h5"
    path.write_text("chapter one")
    with pytest.raises(ValueError, match="not an HDF5 file"):
        poisson(path)
    assert path.read_text() == "chapter one"
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = 1
    with pytest.raises(ValueError, match="was not written by kinn"):
        poisson(tmp_path / "other.h5")


def test_part_of_another_run_is_not_mixed_in(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    with pytest.raises(StoppedError):
        poisson(path, progress=stop_at(3))
    with pytest.raises(ValueError, match=r"part is left from another run \(max_mode is 16 there and 8 here\)"):
        poisson(path, max_mode=8)
    poisson(path, max_mode=8, overwrite=True)
    assert open_dataset(path).metadata["max_mode"] == 8
    assert not (tmp_path / "x.h5.part").exists()


def test_damaged_part_is_reported(tmp_path: Path) -> None:
    (tmp_path / "x.h5.part").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(50))
    with pytest.raises(ValueError, match=r"left from another run .*damaged"):
        poisson(tmp_path / "x.h5")


def test_disk_too_small_is_found_before_starting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type(shutil.disk_usage(tmp_path))(10**9, 10**9 - 10**6, 10**6)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(OSError, match=r"the data need 8,\d+\.\d MB, but .* has 1\.0 MB left") as caught:
        flow(tmp_path / "x.h5", samples=10_000, resolution=64, solver_resolution=64, final_time=50)
    assert caught.value.errno == errno.ENOSPC
    assert os.listdir(tmp_path) == []


def test_disk_that_gets_full_leaves_no_file_under_the_final_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, sync, calls = tmp_path / "x.h5", kinn.data.writer._sync, []

    def full(target: Path) -> None:
        calls.append(target)
        if len(calls) == 4:  # creation, first chunk twice, second chunk
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(target)

    monkeypatch.setattr(kinn.data.writer, "_sync", full)
    with pytest.raises(OSError, match=r"disk is full: .*x.h5.part keeps 3 of 10 samples; run again") as caught:
        poisson(path)
    assert caught.value.errno == errno.ENOSPC
    assert not path.exists()
    monkeypatch.undo()
    poisson(path)
    assert_same(path, poisson(tmp_path / "whole.h5"))


def test_hdf5_message_of_a_full_disk_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise RuntimeError("Unable to synchronously close file (file write failed: errno = 28, error message = ...)")

    monkeypatch.setattr(h5py.File, "create_dataset", full)
    with pytest.raises(OSError, match="disk is full: nothing was kept"):
        poisson(tmp_path / "x.h5")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("generate", "options", "message"),
    [
        (poisson, {"samples": 0}, "samples must be positive"),
        (poisson, {"seed": -1}, "seed not negative"),
        (poisson, {"chunk": 0}, "chunk must be positive"),
        (poisson, {"samples": 2.5}, "samples must be a whole number, but is 2.5"),
        (poisson, {"seed": True}, "seed must be a whole number, but is True"),
        (poisson, {"chunk": 1.5}, "chunk must be a whole number, but is 1.5"),
        (poisson, {"max_mode": 2.5}, "max_mode must be a whole number, but is 2.5"),
        (flow, {"resolution": 8.0}, "resolution must be a whole number, but is 8.0"),
        (poisson, {"resolution": 16}, "max_mode is 16"),
        (poisson, {"max_mode": 0}, "max_mode must be positive, but are 1 and 0"),
        (poisson, {"points": "edges"}, "'nodes' or 'centers'"),
        (flow, {"solver_resolution": 20}, "multiple of resolution, but they are 20, 8"),
        (flow, {"final_time": 2.5}, "multiple of frame_interval"),
        (flow, {"final_time": -1}, "must be positive"),
        (flow, {"viscosity": -1.0}, "viscosity must not be negative"),
        (flow, {"alpha": 0.5}, "alpha > 1"),
        (flow, {"dtype": torch.float16}, "torch.float32 or torch.float64"),
    ],
)
def test_wrong_parameters_leave_nothing_behind(tmp_path: Path, generate: Callable, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        generate(tmp_path / "x.h5", **options)
    assert os.listdir(tmp_path) == []


def test_device_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="device is 'cuda', but PyTorch finds no GPU here"):
        flow(tmp_path / "x.h5", device="cuda")
