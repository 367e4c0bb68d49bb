"""Files that grow chunk by chunk under a temporary name, survive being stopped, and appear whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from torch import Tensor

from kinn._version import __version__
from kinn.data.layouts.ours import FORMAT_VERSION, read_attributes
from kinn.locks import alone
from kinn.records import plain

Progress = Callable[[int, int], None]
_OVERWRITE = "overwrite it (overwrite=True, --overwrite)"


@dataclass(frozen=True)
class FilePlan:
    """What a file is to hold.

    Args:
        kind: `OPERATOR_FORMAT` or `TRAJECTORY_FORMAT`.
        equation: its name.
        samples: how many.
        shapes: shape of one sample in each array, float32.
        parameters: everything that determines the numbers (plain values).
        constants: arrays that do not grow, such as the times of the frames.
        work_per_sample: units of progress that a sample stands for.
    """

    kind: str
    equation: str
    samples: int
    shapes: Mapping[str, tuple[int, ...]]
    parameters: Mapping[str, Any]
    constants: Mapping[str, np.ndarray] = field(default_factory=dict)
    work_per_sample: int = 1

    @property
    def n_bytes(self) -> int:
        """Size of the file, headers aside."""
        return 4 * self.samples * sum(int(np.prod(shape)) for shape in self.shapes.values())

    def difference(self, attributes: Mapping[str, Any]) -> str | None:
        """The first parameter in which a file's attributes differ from this plan."""
        theirs = {"equation": str(attributes["equation"]), **attributes["parameters"]}
        held = int(attributes["samples"])
        if held != theirs.get("samples", held):
            return f"it is a part, {held} of {theirs['samples']} samples"
        ours = {"equation": self.equation, **json.loads(json.dumps(plain(self.parameters)))}
        for name in [*ours, *theirs]:
            if theirs.get(name) != ours.get(name):
                return f"{name} is {theirs.get(name)} there and {ours.get(name)} here"
        return None


def write_chunks(
    path: str | Path,
    plan: FilePlan,
    make: Callable[[range, Callable[[int], None]], Mapping[str, Tensor]],
    *,
    chunk: int,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Write a file under `<path>.part`, chunk by chunk, and give it its name when it is whole.

    Stopped in the middle, the `.part` file keeps the chunks that were finished and a second call goes on after them. A
    file that already holds the same is left alone. While another process makes the file, this one waits for it.

    Args:
        path: the file to make; folders on the way are made, too.
        plan: what it holds.
        make: from a range of samples and a function to report units of work as they get done within that range, to the
            samples of each array.
        chunk: samples made and written at once.
        overwrite: replace what lies at `path`, or a `.part` file with other parameters.
        progress: called with the units of work done and their total.

    Returns:
        `path`.

    Raises:
        ValueError: if `path` or the `.part` file holds something else and `overwrite` is not set.
        OSError: if the disk is too small or gets full, or the `.part` file goes away.
    """
    path = Path(path)
    if chunk < 1:
        raise ValueError(f"chunk must be positive, but is {chunk}")
    if path.is_dir():
        raise ValueError(f"{path} is a folder: name the file to make")
    if not overwrite and _is_made(path, plan):
        return path
    with alone(path, partial(_say_waiting, path)):  # the slower would spoil the `.part` that the faster has finished
        if overwrite or not _is_made(path, plan):  # by the process that this one waited for
            _write_part(path, plan, make, chunk, overwrite, progress)
    return path


def _is_made(path: Path, plan: FilePlan) -> bool:
    if not path.exists():
        return False
    difference = plan.difference(read_attributes(path))
    if difference is not None:
        raise ValueError(f"{path} already holds other data ({difference}): choose another path, or {_OVERWRITE}")
    return True


def _say_waiting(path: Path, lock: str) -> None:
    print(f"kinn: another process makes {path}: waiting for it (its lock is {lock})", file=sys.stderr, flush=True)


def _write_part(
    path: Path,
    plan: FilePlan,
    make: Callable[[range, Callable[[int], None]], Mapping[str, Tensor]],
    chunk: int,
    overwrite: bool,
    progress: Progress | None,
) -> None:
    part = path.with_name(path.name + ".part")
    if part.exists():
        _check_part(part, plan, overwrite=overwrite)
    done = int(read_attributes(part)["finished"]) if part.exists() else 0
    total = plan.samples * plan.work_per_sample
    if done == 0:
        check_disk(part, plan.n_bytes)
    elif progress:
        progress(done * plan.work_per_sample, total)
    while done < plan.samples:
        rows = range(done, min(done + chunk, plan.samples))
        before = done * plan.work_per_sample
        arrays = make(rows, lambda units, before=before: progress(before + units, total) if progress else None)
        if done == 0 and not part.exists():  # as late as this: wrong parameters leave nothing behind
            _create(part, plan)
        _append(part, rows, arrays, plan.samples)
        done = rows.stop
        if progress:
            progress(done * plan.work_per_sample, total)
    os.replace(part, path)
    _sync(path.parent)


def _check_part(part: Path, plan: FilePlan, *, overwrite: bool) -> None:
    try:
        difference = plan.difference(read_attributes(part))
    except ValueError as error:
        difference = str(error)
    if difference is None:
        return
    if not overwrite:
        raise ValueError(f"{part} is left from another run ({difference}): delete it, or {_OVERWRITE}")
    part.unlink()


def check_disk(part: Path, n_bytes: int) -> None:
    """Refuse, with an OSError, to begin a file for which there is no room."""
    free = shutil.disk_usage(part.parent).free
    needed = n_bytes + 2**20
    if needed > free:
        raise OSError(
            errno.ENOSPC,
            f"the data need {_megabytes(needed)}, but {part.parent} has {_megabytes(free)} left",
        )


def _megabytes(n_bytes: int) -> str:
    return f"{n_bytes / 1e6:,.1f} MB"


def _create(part: Path, plan: FilePlan) -> None:
    # begun under a third name, so that a .part file always has its attributes
    begun = part.with_name(part.name + ".new")
    try:
        with h5py.File(begun, "w") as file:
            # room for all samples from the start, not initialised: later writes change numbers, never the structure
            room = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            room.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
            room.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
            for name, shape in plan.shapes.items():
                file.create_dataset(name, (plan.samples, *shape), "float32", dcpl=room)
            for name, values in plan.constants.items():
                file[name] = values
            file.attrs.update(
                {
                    "format": plan.kind,
                    "format_version": FORMAT_VERSION,
                    "equation": plan.equation,
                    "parameters": json.dumps(plain(plan.parameters)),
                    "seed": plan.parameters["seed"],
                    "kinn_version": __version__,
                    "samples": plan.samples,
                    "finished": 0,
                }
            )
        _sync(begun)
        os.replace(begun, part)
    except (OSError, RuntimeError) as error:
        raise _write_error(part, 0, plan.samples, error) from error
    finally:
        begun.unlink(missing_ok=True)


def _append(part: Path, rows: range, arrays: Mapping[str, Tensor], samples: int) -> None:
    # opened and closed for every chunk, data on disk before they are counted: killed at any moment, the file is sound
    try:
        with h5py.File(part, "r+") as file:
            for name, values in arrays.items():
                target: Any = file[name]
                target[rows.start : rows.stop] = values.to("cpu").numpy()
        _sync(part)
        with h5py.File(part, "r+") as file:
            file.attrs.modify("finished", rows.stop)
        _sync(part)
    except (OSError, RuntimeError) as error:
        raise _write_error(part, rows.start, samples, error) from error


def _write_error(part: Path, done: int, samples: int, error: Exception) -> OSError:
    full = is_full(error)
    reason = "the disk is full" if full else f"writing failed ({error})"
    kept = f"{part} keeps {done} of {samples} samples" if part.exists() else "nothing was kept"
    code = errno.ENOSPC if full else (getattr(error, "errno", None) or errno.EIO)
    return OSError(code, f"{reason}: {kept}; run again to go on from there")


def is_full(error: Exception) -> bool:
    """Whether an error says that the disk is full: HDF5 has its own way to."""
    return getattr(error, "errno", None) == errno.ENOSPC or "errno = 28" in str(error)


def _sync(path: Path) -> None:
    folder = path.is_dir()
    # Windows opens no folders, some network file systems do not sync them; Windows syncs only what is open for writing
    with suppress(OSError) if folder else nullcontext():
        handle = os.open(path, os.O_RDONLY if folder else os.O_RDWR)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
