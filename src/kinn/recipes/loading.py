"""Where an experiment's data come from: generated from its seed, or a file, kept in memory where it fits."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from kinn.data import open_dataset, split
from kinn.data.datasets import resident
from kinn.progress import ProgressBar
from kinn.recipes.experiment import Experiment, File, Source
from kinn.recipes.files import read_file, read_files
from kinn.recipes.grids import Data, on_grid, why_not

_COARSEST = 32  # points a side to evaluate on


def load_parts(
    experiment: Experiment, folder: Path, files: Sequence[File], *, progress: bool, device: str = "cpu"
) -> dict[str, Data]:
    """The parts "train", "validation" and "test", and the further tests under their names.

    Args:
        experiment: says how many samples, in which order, and on which grid.
        folder: for generated files.
        files: see `kinn.recipes.files.files_of`.
        progress: show progress bars.
        device: where data are generated, "cpu" or "cuda".

    Raises:
        ValueError: if the files do not fit the experiment.
    """
    data: list[Any]
    if files:
        data = [resident(dataset, file.in_memory) for dataset, file in zip(read_files(files, experiment), files)]
    else:
        sources = [source for source in (experiment.source, *experiment.tests.values()) if isinstance(source, Source)]
        paths = [generated(source, folder, progress=progress, device=device) for source in sources]
        data = [resident(open_dataset(path)) for path in paths]
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
    test = split(read_file(file, experiment), experiment.sizes, seed=file.split_seed)["test"]
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
        source.make(path, (lambda done, total: None) if bar is None else bar.report, device)
    return path
