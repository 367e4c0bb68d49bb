"""Data sets as files: of our own layout, or in those of public benchmarks, so that other people's code reads them."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kinn.data.datasets import OperatorDataset, TrajectoryDataset
from kinn.data.layouts.cno import write_cno
from kinn.data.layouts.matlab import write_matlab7
from kinn.data.layouts.ours import write_ours
from kinn.data.layouts.pdebench import write_pdebench_darcy, write_pdebench_rdb
from kinn.data.writer import Progress, check_disk, is_full

# a writer gets the file to make, the data, and a function to report how many samples it has written
LAYOUTS: Mapping[str, Callable[[Path, Any, Callable[[int], None]], None]] = {
    "kinn": write_ours,
    "cno": write_cno,
    "li": write_matlab7,
    "pdebench-darcy": write_pdebench_darcy,
    "pdebench-rdb": write_pdebench_rdb,
}


def export_dataset(
    dataset: OperatorDataset | TrajectoryDataset,
    path: str | Path,
    *,
    layout: str,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Write a data set as a file of our own layout, or in that of a public benchmark.

    Fields have one channel and a two-dimensional grid in all but our own. They are read and written a few samples
    at a time, so that files larger than memory can be exported.

    - "kinn": pairs or trajectories of any channels and grid, for `kinn train`; metadata must be plain values (JSON).
    - "cno": pairs on a square grid, as CNO's Poisson files. `min_inp`, `max_inp`, `min_out` and `max_out` are those of
      the data, or `metadata["input_range"]` and `metadata["output_range"]` where these are known.
    - "pdebench-darcy": pairs, as PDEBench's Darcy flow; `metadata["beta"]` becomes the attribute `beta`, the
      coordinates are centres of cells in `metadata["domain"]`, by default `(0, 1)`.
    - "pdebench-rdb": trajectories with their times, as PDEBench's radial dam break; coordinates likewise, the domain
      by default `(-2.5, 2.5)`.
    - "li": trajectories, as Li's Navier-Stokes files: MATLAB 7.3 with `u` and, where the times are known, `t`. The
      field at time 0, `a` in Li's files, is not part of a trajectory and not written.

    Args:
        dataset: pairs or trajectories.
        path: the file to make. It is written as `<path>.export.part` and renamed when it is whole.
        layout: "kinn", "cno", "li", "pdebench-darcy" or "pdebench-rdb".
        overwrite: replace what lies at `path`.
        progress: called with the samples written and their total.

    Returns:
        `path`.

    Raises:
        ValueError: if there is no such layout, the data do not fit it, or there is something at `path`.
        OSError: if the disk is too small or gets full.

    Example:
        >>> import tempfile
        >>> from kinn.data import generate_poisson, open_dataset
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     data = open_dataset(generate_poisson(f"{folder}/p.h5", samples=4, resolution=32))
        ...     open_dataset(export_dataset(data, f"{folder}/cno.h5", layout="cno")).metadata["equation"]
        'poisson'
    """
    path = Path(path)
    if layout not in LAYOUTS:
        raise ValueError(f"layout must be one of {', '.join(LAYOUTS)}, but is '{layout}'")
    if path.is_dir() or (path.exists() and not overwrite):
        way_out = "" if path.is_dir() else ", or overwrite it (overwrite=True, --overwrite)"
        raise ValueError(f"{path} exists already: choose another path{way_out}")
    path.parent.mkdir(parents=True, exist_ok=True)
    # not <path>.part: a generator that was stopped may have left its samples there
    part = path.with_name(path.name + ".export.part")
    check_disk(part, dataset.n_bytes)
    total = len(dataset)
    try:
        LAYOUTS[layout](part, dataset, lambda done: progress(done, total) if progress else None)
        with part.open("r+b") as whole:
            os.fsync(whole.fileno())
        os.replace(part, path)
    except (OSError, RuntimeError) as error:  # HDF5 reports a full disk as either
        if not is_full(error):
            raise
        raise OSError(errno.ENOSPC, f"the disk is full: nothing was kept of {path}") from error
    finally:
        part.unlink(missing_ok=True)
    return path
