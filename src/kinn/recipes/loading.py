"""Where an experiment's data come from: generated from its seed, or a public file, kept in memory where it fits."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from kinn.data import OperatorDataset, TrajectoryDataset, open_dataset, split
from kinn.data.datasets import resident
from kinn.progress import ProgressBar
from kinn.recipes.experiment import Experiment, Source
from kinn.recipes.grids import Data, on_grid, why_not

_BLOCK = 2**16
_COARSEST = 32  # points a side to evaluate on


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
    sources = [experiment.source, *experiment.tests.values()]
    data: list[Any]
    if public:
        _expect_files(experiment, public)
        data = [
            _at_resolution(_open_public(path, experiment, source.parameters["samples"]), experiment.source, path)
            for path, source in zip(public, sources)
        ]
    else:
        files = [generated(source, folder, progress=progress, device=device) for source in sources]
        data = [open_dataset(path) for path in files]
    data = [resident(dataset) for dataset in data]
    return {**split(data[0], experiment.sizes, seed=None), **dict(zip(experiment.tests, data[1:]))}


def load_public_transfer(experiment: Experiment, path: Path) -> tuple[dict[int, Data], str]:
    """The test part of a public file by resolution, on the training's grid and others, and why there are none.

    The others are the experiment's resolutions and the file's own, as far as the file can give them; where it gives
    none, half the training's. Models are trained and chosen by other samples, whatever the grid.
    """
    source = experiment.source
    trained, half = source.parameters["resolution"], source.parameters["resolution"] // 2
    if not experiment.resolutions:
        return {}, ""
    whole: Any = _open_public(path, experiment, source.parameters["samples"])
    test = split(whole, experiment.sizes, seed=None)["test"]
    wanted = {*experiment.resolutions, trained, test.grid[0]}
    found = [resolution for resolution in sorted(wanted) if not why_not(test, resolution, source.points)]
    if found == [trained]:
        reason = why_not(test, half, source.points)
        if half < _COARSEST:
            reason = f"fewer than {_COARSEST} would be too coarse"
        if reason:
            grid = " x ".join(map(str, test.grid))
            return {}, f"Not evaluated at other resolutions: {path.name} has {grid} points, and {reason}."
        found = [half, trained]
    return {resolution: resident(on_grid(test, resolution, source.points)) for resolution in found}, ""


def load_transfer(source: Source, folder: Path, *, progress: bool, device: str = "cpu") -> Data:
    """The samples of one resolution."""
    return resident(open_dataset(generated(source, folder, progress=progress, device=device)))


def generated(source: Source, folder: Path, *, progress: bool, device: str = "cpu") -> Path:
    """The source's file in a folder, made now if it is not there."""
    path = folder / f"{source.name}.h5"
    folder.mkdir(parents=True, exist_ok=True)
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


def _expect_files(experiment: Experiment, public: Sequence[Path]) -> None:
    if len(public) != 1 + len(experiment.tests):
        names = ", ".join(["the data", *experiment.tests])
        raise ValueError(
            f"experiment {experiment.name!r} reads {1 + len(experiment.tests)} files ({names}), "
            f"but {len(public)} were given"
        )
    data, *tests = ({**file_identity(path), "name": None} for path in public)
    for name, path, test in zip(experiment.tests, public[1:], tests):
        if test == data:
            raise ValueError(f"{path}, given for the test {name!r}, holds the training's samples: it is the same file")


def _open_public(path: Path, experiment: Experiment, samples: int) -> Data:
    """The first samples of a public file, if they are of the kind that the experiment is about."""
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
    pairs = isinstance(dataset, OperatorDataset)
    channels = (dataset.in_channels, dataset.out_channels) if pairs else (dataset.channels,)
    if set(channels) != {1}:
        came = " and ".join(map(str, channels))
        raise ValueError(f"{path} holds fields of {came} channels, but experiment {experiment.name!r} needs one")
    if isinstance(dataset, TrajectoryDataset) and about is not None:
        unrolled = [experiment.tuned_to(variant).unroll for variant in experiment.variants]
        least = about.n_history + max([*unrolled, *map(abs, experiment.field_steps)])
        if dataset.n_frames < least:
            raise ValueError(f"{path} has {dataset.n_frames} frames, but {experiment.name!r} needs at least {least}")
        if dataset.time is None and any(variant.solve for variant in experiment.variants):
            raise ValueError(f"{path} does not tell the times of its frames, which {experiment.name!r} needs")
    if samples > len(dataset):
        raise ValueError(f"{path} holds {len(dataset)} samples, but this budget takes {samples}: choose a smaller")
    return dataset.subset(slice(samples))


def _at_resolution(dataset: Data, source: Source, path: Path) -> Data:
    resolution = source.parameters["resolution"]
    if reason := why_not(dataset, resolution, source.points):
        raise ValueError(
            f"{path} has the grid {dataset.grid}, but this budget takes {resolution} points a side: {reason}; choose "
            "another budget"
        )
    return on_grid(dataset, resolution, source.points)
