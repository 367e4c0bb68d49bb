"""Where an experiment's data come from: generated from its seed, or a file, kept in memory where it fits."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from kinn.data import OperatorDataset, TrajectoryDataset, open_dataset, split
from kinn.data.datasets import resident
from kinn.progress import ProgressBar
from kinn.recipes.experiment import Experiment, File, Source
from kinn.recipes.grids import Data, on_grid, why_not
from kinn.recipes.pinn import posed_by

_BLOCK = 2**16
_COARSEST = 32  # points a side to evaluate on


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


def load_parts(
    experiment: Experiment, folder: Path, files: Sequence[File], *, progress: bool, device: str = "cpu"
) -> dict[str, Data]:
    """The parts "train", "validation" and "test", and the further tests under their names.

    Args:
        experiment: says how many samples, in which order, and on which grid.
        folder: for generated files.
        files: see `files_of`.
        progress: show progress bars.
        device: where data are generated, "cpu" or "cuda".

    Raises:
        ValueError: if the files do not fit the experiment.
    """
    data: list[Any]
    if files:
        data = [_at_resolution(_read(file, experiment), file, experiment) for file in files]
        for file, test in zip(files[1:], data[1:]):
            if (_channels(test), len(test.grid)) != (_channels(data[0]), len(data[0].grid)):
                raise ValueError(
                    f"{file.path} holds fields of {_told(test)} channels on {len(test.grid)} axes, but "
                    f"{files[0].path}, to train on, of {_told(data[0])} on {len(data[0].grid)}"
                )
    else:
        sources = [source for source in (experiment.source, *experiment.tests.values()) if isinstance(source, Source)]
        data = [open_dataset(generated(source, folder, progress=progress, device=device)) for source in sources]
    data = [resident(dataset) for dataset in data]
    parts = split(data[0], experiment.sizes, seed=files[0].split_seed if files else None)
    return {**parts, **dict(zip(experiment.tests, data[1:]))}


def load_transfer(
    experiment: Experiment, folder: Path, files: Sequence[File], *, progress: bool, device: str = "cpu"
) -> tuple[list[Data], str]:
    """Samples to evaluate trained models on at each resolution, and why a file gives none.

    Generated ones are of a seed of their own; a file gives its test part, on the training's grid and on others: the
    experiment's resolutions and the file's own, as far as the file can give them; where it gives none, half the
    training's. Models are trained and chosen by other samples, whatever the grid.
    """
    if not files:
        sources = experiment.transfer_sources()
        paths = [generated(source, folder, progress=progress, device=device) for source in sources]
        return [resident(open_dataset(path)) for path in paths], ""
    file = files[0]
    trained, points = file.resolution, file.points
    if not experiment.resolutions or trained is None or points is None:
        return [], ""
    half = trained // 2
    test = split(_read(file, experiment), experiment.sizes, seed=file.split_seed)["test"]
    wanted = {*experiment.resolutions, trained, test.grid[0]}
    able = [resolution for resolution in sorted(wanted) if not why_not(test, resolution, points)]
    if able == [trained]:
        reason = why_not(test, half, points)
        if half < _COARSEST:
            reason = f"fewer than {_COARSEST} would be too coarse"
        if reason:
            grid = " x ".join(map(str, test.grid))
            return [], f"Not evaluated at other resolutions: {Path(file.path).name} has {grid} points, and {reason}."
        able = [half, trained]
    return [resident(on_grid(test, resolution, points)) for resolution in able], ""


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
    """Public files as the sources would be: as many samples, on the grid to train on."""
    if len(public) != len(sources):
        names = ", ".join(["the data", *experiment.tests])
        raise ValueError(
            f"experiment {experiment.name!r} reads {len(sources)} files ({names}), but {len(public)} were given"
        )
    generators = [source for source in sources if isinstance(source, Source)]
    resolution, points = generators[0].parameters["resolution"], generators[0].points
    return [
        File(path, samples=source.parameters["samples"], resolution=resolution, points=points)
        for path, source in zip(public, generators)
    ]


def _read(file: File, experiment: Experiment) -> Any:
    """The samples of a file, if they are of the kind that the experiment is about."""
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
        raise ValueError(f"{path} holds {len(dataset)} samples, but {_who(experiment)} takes {file.samples}")
    return dataset.subset(slice(file.samples))


def _channels(dataset: Data) -> tuple[int, ...]:
    if isinstance(dataset, OperatorDataset):
        return dataset.in_channels, dataset.out_channels
    return (dataset.channels,)


def _told(dataset: Data) -> str:
    return " and ".join(map(str, _channels(dataset)))


def _who(experiment: Experiment) -> str:
    """Who asks too much of a file, and whether there is a smaller one."""
    return "this budget" if isinstance(experiment.source, Source) else f"experiment {experiment.name!r}"


def _at_resolution(dataset: Data, file: File, experiment: Experiment) -> Data:
    if file.resolution is None or file.points is None:
        return dataset
    if reason := why_not(dataset, file.resolution, file.points):
        raise ValueError(
            f"{file.path} has the grid {dataset.grid}, but {_who(experiment)} takes {file.resolution} points a side: "
            f"{reason}"
        )
    return on_grid(dataset, file.resolution, file.points)
