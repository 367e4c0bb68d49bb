"""`kinn train`: a model on a data file."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Literal

from jsonargparse import Namespace

from kinn.cli.parser import (
    Commands,
    Parser,
    add_config,
    add_import,
    add_settings,
    config_of,
    import_modules,
    settings_of,
)

if TYPE_CHECKING:
    from kinn.data import OperatorDataset, TrajectoryDataset
    from kinn.train import OperatorTask, OptimizerSettings, RolloutTask

_FORECAST = {"history": 10, "unroll": 3, "window_stride": 1, "predict_increment": False, "input_noise": 0.0}
_OPTIMIZER = {"name": "optimizer"}


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = Parser(
        usage="kinn train --data FILE --output FOLDER [options]",
        description="Train a model on a data file. Pairs of fields train an operator, trajectories a forecaster: the "
        "file tells which. The best model on the validation part is kept as OUTPUT/model.safetensors; an interrupted "
        "training goes on when the same command is given again.",
        epilog="Examples:\n"
        "  kinn train --data p.h5 --model FNO --epochs 10 --output runs/p\n"
        "  kinn train --data flow.h5 --model FKNO --model-arguments.routes 2 --unroll 5 --output runs/flow\n"
        "  kinn train --config runs/p/config.yaml --output runs/again",
    )
    commands.add(
        "train",
        parser,
        _options,
        _train,
        help="train a model on a data file",
        after_interrupt="the same command goes on from the last finished epoch",
    )


def _options(parser: Parser) -> None:
    add_config(parser)
    parser.add_argument("--output", type=str, required=True, help="folder for the run's files")
    _add_data(parser)
    _add_model(parser)
    _add_forecast(parser)
    _add_optimizer(parser)
    _add_training(parser)


def _add_data(parser: Parser) -> None:
    group = parser.add_argument_group("Data")
    group.add_argument(
        "--data", type=str, required=True, help="data file: kinn's, or of a layout of CNO, Li or PDEBench"
    )
    group.add_argument(
        "--validation",
        type=float | str,
        default=0.1,
        help="part of the data that decides which epoch is best: a fraction, or another data file",
    )
    group.add_argument("--split-seed", type=int, default=0, help="of the random choice of that part")
    group.add_argument(
        "--normalize",
        type=Literal["standard", "min-max", "none"],
        default="standard",
        help="standard: zero mean and unit variance; min-max: to [0, 1]; constants come from the training part",
    )
    group.add_argument(
        "--in-memory",
        type=bool | None,
        default=None,
        help="true loads the data, false reads them as they are asked for; by default files up to 2 GiB are loaded",
    )


def _add_model(parser: Parser) -> None:
    from kinn.models import model_names

    group = parser.add_argument_group("Model")
    group.add_argument(
        "--model", type=str, default="FKNO", help=f"one of {', '.join(model_names())}; channels come from the data"
    )
    group.add_argument(
        "--model-arguments",
        type=dict,
        default={},
        help="of the model's constructor: --model-arguments.order 2; a wrong name lists those there are",
    )
    group.add_argument(
        "--init", type=str | None, default=None, help="model file whose weights to start from, all of which must fit"
    )
    add_import(group)


def _add_forecast(parser: Parser) -> None:
    group = parser.add_argument_group("Forecasting (trajectories only)")

    def add(name: str, kind: Any, what: str) -> None:  # None tells that it was not given: pairs have no use for it
        default = _FORECAST[name.replace("-", "_")]
        group.add_argument(f"--{name}", type=kind | None, default=None, help=f"{what} (default: {default})")

    add("history", int, "frames that the model sees")
    add("unroll", int, "steps predicted in a row while training")
    add("window-stride", int, "frames from one training window to the next")
    add("predict-increment", bool, "learn the change, not the next frame")
    add("input-noise", float, "added to training windows: standard deviation, normalised units")


def _add_optimizer(parser: Parser) -> None:
    from kinn.train.settings import OptimizerSettings

    group = parser.add_argument_group("Optimiser")
    group.add_argument(
        "--loss",
        type=Literal["relative_l1", "relative_l2", "mse"] | None,
        default=None,
        help="by default relative_l1 for pairs, relative_l2 for trajectories",
    )
    group.add_argument(
        "--loss-units", type=Literal["normalized", "physical"], default="normalized", help="of the fields in the loss"
    )
    add_settings(group, OptimizerSettings, _OPTIMIZER)


def _add_training(parser: Parser) -> None:
    from kinn.train.settings import TrainSettings

    add_settings(parser.add_argument_group("Training"), TrainSettings)


def _train(options: Namespace) -> int:
    from kinn.train import OptimizerSettings, TrainSettings, fit
    from kinn.train.folder import RunFolder

    if "RANK" in os.environ and os.environ.get("WORLD_SIZE", "1") != "1":
        raise ValueError("torchrun started several processes, but kinn train starts its own: give it --devices instead")
    import_modules(options)
    config = config_of(options)
    # settings first: a slip in them should not wait for the data
    optimizer, training = settings_of(config, OptimizerSettings, _OPTIMIZER), settings_of(config, TrainSettings)
    parts = _parts(options)
    config.update(_forecast(options, parts["train"]))
    task = _task(config, parts["train"], optimizer)
    parameters = sum(p.numel() for p in task.model.parameters())
    items = len(task.training_items(parts["train"]))
    steps = -(-items // training.batch_size)
    print(
        f"{options.model}, {parameters:,} parameters, on {parts['train']!r}; validation on {len(parts['validation'])}\n"
        f"An epoch: {items:,} {'pairs' if task.trained.rollout is None else 'windows'}, {steps:,} steps; "
        f"{steps * training.epochs:,} steps in {training.epochs} epochs"
        + (f"; weights to start from: {options.init}" if options.init else "")
    )
    finished_before = RunFolder(options.output).finished() is not None
    found = fit(
        task,
        parts["train"],
        parts["validation"],
        training,
        options.output,
        initial=options.init,
        config=config,
        title=options.model,
    )
    if finished_before:
        print("This run was finished before: there was nothing left to train")
    best = {name: found.curves[name][found.best_epoch - 1] for name in ("validation_loss", "relative_l2")}
    best = {name: "not finite" if value is None else f"{value:.4g}" for name, value in best.items()}
    print(
        f"Best of {found.epochs} epochs: {found.best_epoch}, validation loss {best['validation_loss']}, "
        f"relative L2 error {best['relative_l2']} in physical units\n"
        f"Model: {found.model_path}\nMeasure it on other data: kinn evaluate {found.model_path} DATA"
    )
    return 0


def _parts(options: Namespace) -> dict[str, OperatorDataset | TrajectoryDataset]:
    from kinn.data import open_dataset, split
    from kinn.data.datasets import resident

    data: Any = resident(_on_a_plane(options.data, open_dataset(options.data)), options.in_memory)
    try:
        fraction = float(options.validation)
    except ValueError:
        fraction = None
    if fraction is None:
        other: Any = _on_a_plane(options.validation, open_dataset(options.validation))
        other = resident(other, options.in_memory)
        if _kind(other) != _kind(data):
            raise ValueError(f"--validation {options.validation} holds {other!r}, unlike {options.data} with {data!r}")
        return {"train": data, "validation": other}
    if not 0 < fraction < 1:
        raise ValueError(
            f"--validation must be a fraction between 0 and 1, or a data file, but is {options.validation}"
        )
    held_out = max(1, round(fraction * len(data)))
    if held_out == len(data):
        raise ValueError(f"{options.data} holds {len(data)} samples: too few for training and validation")
    return split(data, {"train": len(data) - held_out, "validation": held_out}, seed=options.split_seed)


def _kind(data: Any) -> tuple[Any, ...]:
    """What two parts of one data set have in common; grids may differ."""
    return type(data), *(getattr(data, name, None) for name in ("in_channels", "out_channels", "channels"))


def _on_a_plane(path: Any, data: Any) -> Any:
    """The data, if the models of the command line can take them."""
    if len(data.grid) != 2:
        raise ValueError(
            f"{path} holds {data!r}, but the models of the command line work on grids of two axes: docs/training.md "
            "tells how to build one for lines or volumes in Python. Arrays have the axes (N, C, *grid), trajectories "
            "(N, T, C, *grid), also where C is 1"
        )
    return data


def _forecast(options: Namespace, train: Any) -> dict[str, Any]:
    """The options of a forecast, defaults filled in; none for pairs."""
    from kinn.data import TrajectoryDataset

    given = {name: options[name] for name in _FORECAST if options[name] is not None}
    if isinstance(train, TrajectoryDataset):
        return {**_FORECAST, **given}
    if given:
        names = ", ".join(f"--{name.replace('_', '-')} {value}" for name, value in given.items())
        raise ValueError(
            f"got {names}, which forecasts take, but {options.data} holds pairs of fields without a time axis: leave "
            "it out, on the command line and in --config"
        )
    return {}


def _task(config: dict[str, Any], train: Any, optimizer: OptimizerSettings) -> OperatorTask | RolloutTask:
    from kinn.data import TrajectoryDataset
    from kinn.train import Rollout, build_task

    forecast: dict[str, Any] = {}
    if isinstance(train, TrajectoryDataset):
        forecast = {name: config[name] for name in ("unroll", "window_stride", "input_noise")}
        forecast["rollout"] = Rollout(n_history=config["history"], predict_increment=config["predict_increment"])
    how = {name: config[name] for name in ("seed", "normalize", "loss", "loss_units")}
    return build_task(config["model"], config["model_arguments"], train, optimizer=optimizer, **how, **forecast)
