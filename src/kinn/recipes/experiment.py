"""What a recipe is made of: experiments, each one data set on which several variants are trained alike."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from kinn.data.writer import Progress
from kinn.nn.regridding import Points
from kinn.train import OptimizerSettings, Rollout, TrainSettings

PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class Source:
    """Data made from a seed.

    Args:
        name: of its file; experiments with the same data share it.
        generator: makes the file at a path, in any layout that `kinn.data.open_dataset` reads; takes `progress`, to be
            called with the work done and all of it, and the parameters by name. It is called again where the file is
            there, and may leave it as it is.
        parameters: of the generator, as they go into the records; `samples`, `resolution` and `seed` among them.
        note: what a reader of the tables must know of these data; not said where a public file takes their place.
        equation: which files of data may take the place of these; by default as the generator is called.
    """

    name: str
    generator: Callable[..., Path]
    parameters: dict[str, Any]
    note: str = ""
    equation: str = ""

    def __post_init__(self) -> None:
        if not self.equation:
            name = self.generator.__name__.removeprefix("generate_").replace("_", "-")
            object.__setattr__(self, "equation", name)

    def make(self, path: Path, progress: Progress, device: str = "cpu") -> None:
        """Generate the file, or go on with it, or find it finished; on a device where the generator knows of any."""
        where = {"device": device} if "device" in inspect.signature(self.generator).parameters else {}
        self.generator(path, progress=progress, **where, **self.parameters)

    def but(self, name: str, **changes: Any) -> Source:
        """The same source with other parameters, under another name."""
        return replace(self, name=name, parameters={**self.parameters, **changes})

    @property
    def settings(self) -> dict[str, Any]:
        """All that the generator is given, its defaults among them."""
        known = inspect.signature(self.generator).parameters.values()
        defaults = {option.name: option.default for option in known if option.default is not option.empty}
        return {**defaults, **self.parameters}

    @property
    def points(self) -> Points:
        """Where the grid points lie: see `kinn.nn.regrid`."""
        if self.equation == "navier-stokes":
            return "periodic"
        return "nodes" if self.equation == "poisson" and self.parameters.get("points") != "centers" else "centres"


@dataclass(frozen=True)
class File:
    """Data of your own, with whatever channels and axes the contenders can take.

    Args:
        path: of the file, in any layout that `kinn.data.open_dataset` reads.
        samples: how many to take, the first ones; None for all.
        last: how many of these to take from the file's end instead, as publishers do with the test's.
        split_seed: of a random choice of the parts; None takes them in the order in which they lie.
        resolution: points a side to train on, where that is a coarser grid than the file's, or where the experiment
            has further `resolutions`; None for the file's own grid.
        points: where the points of its square grid lie, "periodic", "centres" or "nodes" (see `kinn.nn.regrid`), which
            says what a coarser grid is.
        in_memory: whether the data are loaded; None loads up to 2 GiB.
        note: what a reader of the tables must know of these data.

    Raises:
        ValueError: if there is a resolution without points, or a value makes no sense.
    """

    path: str | Path
    samples: int | None = None
    last: int = 0
    split_seed: int | None = None
    resolution: int | None = None
    points: Points | None = None
    in_memory: bool | None = None
    note: str = ""

    def __post_init__(self) -> None:
        where = f"File({str(self.path)!r})"
        for name in ("samples", "resolution"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{where}: {name} must be at least 1, but is {value}")
        if not 0 <= self.last <= (self.samples or 0):
            raise ValueError(f"{where}: last must be from 0 to samples, {self.samples or 0}, but is {self.last}")
        if self.points not in (None, *get_args(Points)):
            raise ValueError(f"{where}: points must be one of {', '.join(get_args(Points))}, but are {self.points!r}")
        if self.resolution is not None and self.points is None:
            raise ValueError(f"{where} has a resolution, and must tell its points: {', '.join(get_args(Points))}")

    @property
    def parameters(self) -> dict[str, Any]:
        """What determines the data beside the file itself."""
        told = {name: getattr(self, name) for name in ("samples", "last", "split_seed", "resolution", "points")}
        return {name: value for name, value in told.items() if value is not None and (name, value) != ("last", 0)}


def spacing(resolution: int, points: Points) -> float:
    """Distance of grid points in units of the domain's side, from how many there are to a side and where they lie."""
    return 1 / (resolution - (points == "nodes"))


@dataclass(frozen=True)
class Variant:
    """One contender.

    Args:
        name: as tables and legends show it.
        model: registered model (`kinn.models.model_names`).
        role: "ours" or "baseline".
        arguments: of the model beside `in_channels` and `out_channels`, which the data determine.
        lr: the peak learning rate found best for it on validation data; None for the experiment's.
        unroll: the steps unrolled found best for it, in epochs as much fewer as they are more, so that the model is
            evaluated as often; None for the experiment's.
        factor: the number in which the variants of an experiment differ, by its name: `{"order": 2}`.
        paper: the paper's figure for it by metric, if it has one; its training time as "train_seconds".
        paper_ratio: by metric, how many times lower the paper's model is than this baseline.
        solve: for what is not trained on the data: makes the result from the experiment, its test part, and `seed`,
            `device` and `folder` by name.
    """

    name: str
    model: str
    role: Literal["ours", "baseline"]
    arguments: dict[str, Any] = field(default_factory=dict)
    lr: float | None = None
    unroll: int | None = None
    factor: dict[str, float] | None = None
    paper: dict[str, float] | None = None
    paper_ratio: dict[str, float] | None = None
    solve: Callable[..., dict[str, Any]] | None = None


@dataclass(frozen=True)
class Experiment:
    """Variants trained on the same data with the same budget, loss, optimiser and seed, tuned alike.

    Args:
        name: short, for files.
        title: a sentence, for people; `{steps}` and `{viscosity}` in it stand for what the data say of these.
        source: of the data: made from a seed, or a file of yours.
        sizes: samples for "train", "validation" and "test", in the order in which they lie in the file.
        variants: the contenders.
        loss: a name in `kinn.train.LOSSES`.
        primary_metric: by which the table compares; lower is better.
        normalize: "min-max" (to [0, 1]) or "standard", fitted on the training part, or "none".
        optimizer: of all variants; a variant may have a learning rate of its own.
        training: of all variants; the seed is set per run.
        label: shorter than the title, where experiments of a recipe stand side by side.
        rollout: for trajectories; None for pairs.
        unroll: steps unrolled in training, for trajectories.
        window_stride: frames from one training window to the next, for trajectories.
        input_noise: standard deviation of the noise on training windows, in normalised units, for trajectories.
        field_steps: rollout steps whose fields are kept for pictures; 1 is the first, -1 the last.
        tests: further test sets, such as one out of distribution, under the names of their metrics: files if the source
            is one, on its grid, all of whose samples are taken unless they say otherwise.
        resolutions: grids on which the trained models are evaluated, too; that of the training is best among them.
        transfer_samples: how many samples that takes, of a seed of their own; of a public file it takes the test part.
        notes: what a reader of the table must know.
    """

    name: str
    title: str
    source: Source | File
    sizes: dict[str, int]
    variants: tuple[Variant, ...]
    loss: str
    primary_metric: str
    normalize: Literal["min-max", "standard", "none"]
    optimizer: OptimizerSettings
    training: TrainSettings
    label: str = ""
    rollout: Rollout | None = None
    unroll: int = 1
    window_stride: int = 1
    input_noise: float = 0.0
    field_steps: tuple[int, ...] = (-1,)
    tests: Mapping[str, Source | File] = field(default_factory=dict)
    resolutions: tuple[int, ...] = ()
    transfer_samples: int = 32
    notes: tuple[str, ...] = ()

    def tuned_to(self, variant: Variant) -> Experiment:
        """The experiment at a contender's own learning rate and number of steps unrolled, in the same budget."""
        unroll = variant.unroll or self.unroll
        epochs = max(1, self.training.epochs * self.unroll // unroll)
        lr = self.optimizer.lr if variant.lr is None else variant.lr
        return replace(
            self,
            optimizer=replace(self.optimizer, lr=lr),
            training=replace(self.training, epochs=epochs),
            unroll=unroll,
        )

    def transfer_sources(self) -> list[Source]:
        """Samples that no training saw, the same functions at each resolution; none where a file is the source."""
        source, samples = self.source, self.transfer_samples
        if isinstance(source, File):
            return []
        seed = source.parameters["seed"] + 1
        return [
            source.but(f"{source.name}-at-{resolution}", resolution=resolution, samples=samples, seed=seed)
            for resolution in self.resolutions
        ]
