"""Where an experiment's data come from: generated from its seed, or a public file, kept in memory where it fits."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from kinn.data import OperatorDataset, TrajectoryDataset, from_arrays, from_trajectories, open_dataset, split
from kinn.data.samples import Samples
from kinn.recipes.experiment import Experiment, Source
from kinn.train import ProgressBar

Data = OperatorDataset | TrajectoryDataset
_BLOCK = 2**16
_FITS = 2 * 2**30  # bytes: reading single samples from a file costs more than a small training step


def load_parts(
    experiment: Experiment, folder: Path, public: Sequence[Path], *, progress: bool, device: str = "cpu"
) -> dict[str, Data]:
    """The parts "train", "validation" and "test", and the further tests under their names.

    Args:
        experiment: says how many samples, in which order, and on which grid.
        folder: for generated files.
        public: instead of generated files: the data, then one file per further test; empty for none.
        progress: show progress bars.
        device: where data are generated, "cpu" or "cuda".

    Raises:
        ValueError: if the public files are too few or too many, or do not fit the experiment.
    """
    if public and len(public) != 1 + len(experiment.tests):
        names = ", ".join(["the data", *experiment.tests])
        raise ValueError(
            f"experiment {experiment.name!r} reads {1 + len(experiment.tests)} files ({names}), "
            f"but {len(public)} were given"
        )
    sources = [experiment.source, *experiment.tests.values()]
    files = public or [generated(source, folder, progress=progress, device=device) for source in sources]
    resolution = experiment.source.parameters["resolution"]
    data: list[Any] = [
        _resident(_open_public(file, experiment) if public else open_dataset(file), resolution, limit, file)
        for file, limit in zip(files, [sum(experiment.sizes.values()), *(None for _ in experiment.tests)])
    ]
    parts: dict[str, Any] = split(data[0], experiment.sizes, seed=None)
    return {**parts, **dict(zip(experiment.tests, data[1:]))}


def load_transfer(source: Source, folder: Path, *, progress: bool, device: str = "cpu") -> Data:
    """The samples of one resolution."""
    return _resident(
        open_dataset(generated(source, folder, progress=progress, device=device)), source.parameters["resolution"]
    )


def generated(source: Source, folder: Path, *, progress: bool, device: str = "cpu") -> Path:
    """The source's file in a folder, made now if it is not there."""
    path = folder / f"{source.name}.h5"
    with ProgressBar(f"Data: {source.name}", total=1) if progress else nullcontext() as bar:

        def report(done: int, total: int) -> None:
            if bar is not None:
                bar.total = total
                bar.update(done)

        source.make(path, report, device)
    return path


def file_identity(path: Path) -> dict[str, Any]:
    """What tells a public file from another of its name: its size, and a checksum of 64 blocks spread over it.

    Raises:
        FileNotFoundError: if there is no such file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no data file {path}")
    size, checksum = path.stat().st_size, 0
    with path.open("rb") as file:
        for block in range(64):
            file.seek(block * max(0, size - _BLOCK) // 63)
            checksum = zlib.crc32(file.read(_BLOCK), checksum)
    return {"name": path.name, "bytes": size, "checksum": checksum}


def _open_public(path: Path, experiment: Experiment) -> Data:
    """The data of a public file, if they are of the kind that the experiment is about."""
    dataset = open_dataset(path)
    flows, about = isinstance(dataset, TrajectoryDataset), experiment.rollout
    equation, wanted = dataset.metadata.get("equation"), experiment.source.equation
    if equation not in (None, wanted):
        raise ValueError(f"{path} holds data of {equation!r}, but experiment {experiment.name!r} is about {wanted!r}")
    if flows != (about is not None):
        came, needed = ("trajectories", "pairs of fields") if flows else ("pairs of fields", "trajectories")
        raise ValueError(f"{path} holds {came}, but experiment {experiment.name!r} needs {needed}")
    if len(dataset.grid) != 2:
        raise ValueError(f"{path} has the grid {dataset.grid}, but experiment {experiment.name!r} needs two axes")
    if isinstance(dataset, TrajectoryDataset) and about is not None:
        least = about.n_history + experiment.unroll
        if dataset.n_frames < least:
            raise ValueError(f"{path} has {dataset.n_frames} frames, but {experiment.name!r} needs at least {least}")
        if dataset.time is None and any(variant.solve for variant in experiment.variants):
            raise ValueError(f"{path} does not tell the times of its frames, which {experiment.name!r} needs")
    return dataset


def _resident(dataset: Data, resolution: int, limit: int | None = None, path: Path | None = None) -> Data:
    """The first samples, on a grid of `resolution` points a side, loaded unless they are too large for that."""
    if limit is not None:
        if limit > len(dataset):
            raise ValueError(f"{path} holds {len(dataset)} samples, but this budget takes {limit}: choose a smaller")
        dataset = dataset.subset(slice(limit))
    every = dataset.grid[0] // resolution
    if any(points != every * resolution for points in dataset.grid):
        raise ValueError(
            f"{path} has the grid {dataset.grid}, but this budget takes {resolution} points a side, or a multiple"
        )
    if every > 1:
        return _thinned(dataset, every)
    return dataset.in_memory() if dataset.n_bytes <= _FITS else dataset


def _thinned(dataset: Data, every: int) -> Data:
    """Every `every`-th point along both axes, as the codes that published the data sets thin them."""

    def points(samples: Samples) -> torch.Tensor:
        return torch.cat([batch[..., ::every, ::every] for batch in samples.batches(64)])

    if isinstance(dataset, OperatorDataset):
        return from_arrays(points(dataset.inputs), points(dataset.outputs))
    return from_trajectories(points(dataset.trajectories), time=dataset.time)
