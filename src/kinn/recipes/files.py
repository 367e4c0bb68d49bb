"""The files that an experiment reads in place of making its data: which, and whether they are what it is about."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from kinn.data import OperatorDataset, TrajectoryDataset, open_dataset
from kinn.recipes.experiment import Experiment, File, Source
from kinn.recipes.grids import Data, on_grid, why_not
from kinn.recipes.pinn import posed_by

_BLOCK = 2**16


def files_of(experiment: Experiment, public: Sequence[str | Path] = ()) -> list[File]:
    """The files that an experiment reads, the data's and one for each further test: its own, or public ones in the
    place of what it would make; none where it makes its data.

    Raises:
        ValueError: if they are too few or too many, or a test's file is the training's.
        FileNotFoundError: if one does not exist.
    """
    sources = [experiment.source, *experiment.tests.values()]
    files = [source for source in sources if isinstance(source, File)]
    if files and public:
        raise ValueError(f"experiment {experiment.name!r} reads its own files: give no others")
    if files and len(files) < len(sources):
        raise ValueError(
            f"experiment {experiment.name!r} mixes files and generated data: its tests must be of one kind"
        )
    for name, file in zip(experiment.tests, files[1:]):
        if replace(file, samples=None) != File(file.path):
            raise ValueError(f"the File of the test {name!r} takes a path and samples alone: all else is the source's")
    if public:
        files = _in_place_of(sources, public, experiment)
    if files:
        main = files[0]
        if experiment.resolutions and main.resolution is None:
            raise ValueError(
                f"experiment {experiment.name!r} has resolutions {experiment.resolutions}: its File must tell the "
                "resolution to train on, and its points"
            )
        files = [replace(file, resolution=main.resolution, points=main.points) for file in files]
        data, *tests = ({**file_identity(Path(file.path)), "name": None} for file in files)
        for name, file, test in zip(experiment.tests, files[1:], tests):
            if test == data:
                raise ValueError(
                    f"{file.path}, given for the test {name!r}, holds the training's samples: it is the same file"
                )
    return files


def read_files(files: Sequence[File], experiment: Experiment) -> list[Any]:
    """The data of all files, each on the grid to train on.

    Raises:
        ValueError: if one does not fit the experiment, or a test's fields are of another kind than the training's.
    """
    data = [_at_resolution(read_file(file, experiment), file, experiment) for file in files]
    for file, test in zip(files[1:], data[1:]):
        if (_channels(test), len(test.grid)) != (_channels(data[0]), len(data[0].grid)):
            raise ValueError(
                f"{file.path} holds fields of {_told(test)} channels on {len(test.grid)} axes, but {files[0].path}, to "
                f"train on, of {_told(data[0])} on {len(data[0].grid)}"
            )
    return data


def read_file(file: File, experiment: Experiment) -> Any:
    """The samples of a file on its own grid, if they are of the kind that the experiment is about.

    Raises:
        ValueError: if they are not, or are too few.
    """
    path, dataset, name = file.path, open_dataset(file.path), experiment.name
    ours = experiment.source if isinstance(experiment.source, Source) else None
    equation = dataset.metadata.get("equation")
    if ours and equation not in (None, ours.equation):
        raise ValueError(f"{path} holds data of {equation!r}, but experiment {name!r} is about {ours.equation!r}")
    flows, about = isinstance(dataset, TrajectoryDataset), experiment.rollout
    if flows != (about is not None):
        came, needed = ("trajectories", "pairs of fields") if flows else ("pairs of fields", "trajectories")
        raise ValueError(f"{path} holds {came}, but experiment {name!r} needs {needed}")
    if ours and len(dataset.grid) != 2:
        raise ValueError(f"{path} has the grid {dataset.grid}, but experiment {name!r} needs two axes")
    if ours and {*_channels(dataset)} != {1}:
        raise ValueError(f"{path} holds fields of {_told(dataset)} channels, but experiment {name!r} needs one")
    if isinstance(dataset, TrajectoryDataset) and about is not None:
        unrolled = [experiment.tuned_to(variant).unroll for variant in experiment.variants]
        least = about.n_history + max([*unrolled, *map(abs, experiment.field_steps)])
        if dataset.n_frames < least:
            raise ValueError(f"{path} has {dataset.n_frames} frames, but {name!r} needs at least {least}")
        if dataset.time is None and any(variant.solve for variant in experiment.variants):
            raise ValueError(f"{path} does not tell the times of its frames, which {name!r} needs")
        if any(variant.model == "PINN" for variant in experiment.variants):
            posed_by(dataset)  # refused now, not after others were trained
    if file.samples is None:
        return dataset
    if file.samples > len(dataset):
        raise ValueError(f"{path} holds {len(dataset)} samples, but {_asks(experiment, str(file.samples))}")
    first = file.samples - file.last
    return dataset.subset([*range(first), *range(len(dataset) - file.last, len(dataset))])


def file_identity(path: Path) -> dict[str, Any]:
    """What tells a file from another of its name: its size, and a checksum of 64 blocks spread over it.

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


def _in_place_of(sources: Sequence[Source | File], public: Sequence[str | Path], experiment: Experiment) -> list[File]:
    """Public files as the sources would be: as many samples, on the grid to train on; the test's where the publishers
    have them, of a file that holds more than the budget takes.
    """
    if len(public) != len(sources):
        names = ", ".join(["the data", *experiment.tests])
        raise ValueError(
            f"experiment {experiment.name!r} reads {len(sources)} files ({names}), but {len(public)} were given"
        )
    generators = [source for source in sources if isinstance(source, Source)]
    resolution, points = generators[0].parameters["resolution"], generators[0].points
    files = [
        File(path, samples=source.parameters["samples"], resolution=resolution, points=points)
        for path, source in zip(public, generators)
    ]
    last = [*experiment.sizes][-1] == "test"
    return [replace(files[0], last=experiment.sizes["test"]) if last else files[0], *files[1:]]


def _channels(dataset: Data) -> tuple[int, ...]:
    if isinstance(dataset, OperatorDataset):
        return dataset.in_channels, dataset.out_channels
    return (dataset.channels,)


def _told(dataset: Data) -> str:
    return " and ".join(map(str, _channels(dataset)))


def _asks(experiment: Experiment, what: str, why: str = "") -> str:
    """Who asks too much of a file, and what else there is."""
    if isinstance(experiment.source, Source):
        return f"this budget takes {what}{why}; choose another budget"
    return f"experiment {experiment.name!r} takes {what}{why}"


def _at_resolution(dataset: Data, file: File, experiment: Experiment) -> Data:
    if file.resolution is None or file.points is None:
        return dataset
    if reason := why_not(dataset, file.resolution, file.points):
        what = _asks(experiment, f"{file.resolution} points a side", f": {reason}")
        raise ValueError(f"{file.path} has the grid {dataset.grid}, but {what}")
    return on_grid(dataset, file.resolution, file.points)
