"""`kinn evaluate`: how good a trained model is on a data set."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jsonargparse import Namespace

from kinn.cli.parser import Commands, Parser, add_import, expect_spare, import_modules

if TYPE_CHECKING:
    from kinn.train import Evaluation, TrainedModel

_SEEN = "these samples took part in the training: the errors say nothing of others"


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = Parser(
        usage="kinn evaluate MODEL DATA [options]",
        description="Measure a trained model on a data set: errors over all its samples, in physical and in normalised "
        "units; for a model that forecasts, over full rollouts and step by step.",
        epilog="Examples:\n"
        "  kinn evaluate runs/p/model.safetensors test.h5\n"
        "  kinn evaluate runs/p/model.safetensors test.h5 --name FKNO-4 --output compared/fkno-seed0.json\n"
        "  kinn report compared --paper figures",
    )
    commands.add(
        "evaluate", parser, _options, _evaluate, help="measure a trained model", after_interrupt="nothing was written"
    )


def _options(parser: Parser) -> None:
    parser.add_argument("model", type=str, help="file of the model, as kinn train writes it")
    parser.add_argument("data", type=str, help="data file: kinn's, or of a layout of CNO, Li or PDEBench")
    parser.add_argument("--batch-size", type=int, default=32, help="samples at once; does not change the result")
    parser.add_argument("--device", type=str, default="auto", help="where to compute: auto, cpu or cuda")
    parser.add_argument(
        "--dt-scale",
        type=float,
        default=1.0,
        help="grid spacing of this data over that of the training data, so that a model keeps its meaning on another "
        "grid: 0.5 on twice as many cells, 31/63 = 0.492063 from 32 to 64 nodes with both ends",
    )
    parser.add_argument(
        "--predictions", type=str | None, default=None, help="HDF5 file for the predicted fields, in physical units"
    )
    add_import(parser)
    _record_options(parser.add_argument_group("Record for kinn report"))


def _record_options(group: Any) -> None:
    group.add_argument(
        "--output",
        type=str | None,
        default=None,
        help="JSON file for the numbers, spectra and pictures: a result record, and kinn report compares those of a "
        "folder",
    )
    group.add_argument(
        "--name",
        type=str | None,
        default=None,
        help="of the contender in such a comparison, one for all its seeds; by default the model's",
    )
    group.add_argument(
        "--role",
        type=Literal["ours", "baseline"] | None,
        default=None,
        help="ours or baseline; by default models with Kirchhoff cells are ours, all others baselines",
    )
    group.add_argument(
        "--title", type=str | None, default=None, help="of the comparison; by default the data file's name and grid"
    )
    group.add_argument(
        "--metric",
        type=str,
        default="relative_l2",
        help="by which the comparison ranks: any error of the table, with _normalized in normalised units",
    )
    group.add_argument("--pictures", type=int, nargs="+", default=[0], help="which samples to draw, counted from 0")
    group.add_argument(
        "--steps",
        type=int,
        nargs="+",
        default=[-1],
        help="of a forecast, steps to draw and to take spectra of; 1 is the first, -1 the last",
    )


def _evaluate(options: Namespace) -> int:
    from contextlib import nullcontext

    from rich.console import Console

    from kinn.data import open_dataset
    from kinn.data.predictions import prediction_file
    from kinn.metrics import METRICS
    from kinn.notices import warn_once
    from kinn.progress import ProgressBar
    from kinn.records import write_record
    from kinn.train import evaluate, load_model

    if options.batch_size < 1:
        raise ValueError(f"--batch-size must be at least 1, but is {options.batch_size}")
    if options.metric.removesuffix("_normalized") not in METRICS:
        raise ValueError(
            f"--metric must be one of {', '.join(METRICS)}, or one of them with _normalized, but is {options.metric}"
        )
    expect_spare(options)
    import_modules(options)
    trained, dataset = load_model(options.model, device=options.device), open_dataset(options.data)
    if not 0 <= min(options.pictures) <= max(options.pictures) < len(dataset):
        raise ValueError(
            f"--pictures must be from 0 to {len(dataset) - 1} in {options.data}, but are {options.pictures}"
        )
    seen = _saw(trained, options.data)
    if seen:
        warn_once(f"{_SEEN}: {options.data}")
    about = {"model": options.model, "data": options.data, "dt_scale": options.dt_scale}
    keep = prediction_file(options.predictions, about) if options.predictions else nullcontext()
    with ProgressBar("Evaluating", total=len(dataset), unit="samples") as bar, keep as append:
        found = evaluate(
            trained,
            dataset,
            batch_size=options.batch_size,
            dt_scale=options.dt_scale,
            field_samples=options.pictures if options.output else (),
            field_steps=options.steps,
            spectra=bool(options.output),
            predictions=append,
            progress=lambda done, total: bar.update(done),
        )
    if options.output is not None:  # first: what cannot be printed does not cost it
        record = _record(options, trained, dataset, found)
        write_record(Path(options.output), {**record, "notes": [f"{record['variant']}: {_SEEN}."] if seen else []})
    console = Console()
    console.print(_table(found.metrics, f"{options.model} on {options.data} ({len(dataset)} samples)"))
    if found.channels:
        console.print(_channels(found.channels))
    if found.rollout_relative_l2:
        console.print(_steps(found.rollout_relative_l2))
    return 0


def _saw(trained: TrainedModel, data: str) -> bool:
    """Whether the model was trained, or chosen, on this file."""
    config = trained.metadata["extra"].get("config") or {}
    return any(
        isinstance(used, str) and Path(used).resolve() == Path(data).resolve()
        for used in (config.get("data"), config.get("validation"))
    )


def _seed(extra: Mapping[str, Any]) -> int:
    """Of the training: `kinn train` keeps it beside the other options, recipes among those of the training."""
    config = extra.get("config") or {}
    return config.get("seed", (config.get("training") or {}).get("seed")) or 0


def _changed(options: Namespace) -> list[str]:
    """The options that decide what a record says, where they are not the default, as they are typed."""
    words = ["--dt-scale", f"{options.dt_scale:g}"] if options.dt_scale != 1 else []
    for module in options["import"] or ():
        words += ["--import", module]
    for name, default in (("name", None), ("role", None), ("title", None), ("metric", "relative_l2")):
        if options[name] != default:
            words += [f"--{name}", options[name]]
    for name, default in (("pictures", [0]), ("steps", [-1])):
        if options[name] != default:
            words += [f"--{name}", *map(str, options[name])]
    return words


def _record(options: Namespace, trained: TrainedModel, dataset: Any, found: Evaluation) -> dict[str, Any]:
    """What `kinn report` reads: the data file is the experiment, the model the contender."""
    from kinn.nn import KirchhoffCell
    from kinn.recipes.files import file_identity
    from kinn.records import command_line

    told, ours = trained.metadata, any(isinstance(module, KirchhoffCell) for module in trained.model.modules())
    steps = list(range(1, len(found.rollout_relative_l2) + 1))
    return {
        "kind": "evaluation",
        "command": command_line(["kinn", "evaluate", options.model, options.data, *_changed(options)]),
        "experiment": Path(options.data).stem,
        "title": options.title or f"{Path(options.data).name}, {' x '.join(map(str, dataset.grid))}",
        "variant": options.name or told["model"],
        "role": options.role or ("ours" if ours else "baseline"),
        "model": told["model"],
        "arguments": told["arguments"],
        "seed": _seed(told["extra"]),
        "primary_metric": options.metric,
        "parameters": sum(p.numel() for p in trained.model.parameters()),
        "data": {"file": file_identity(Path(options.data)), "test": len(dataset)},
        "metrics": {"test": found.metrics},
        "channels": found.channels,
        "curves": {"rollout_step": steps, "rollout_relative_l2": found.rollout_relative_l2} if steps else {},
        "dt_scale": options.dt_scale,
        "time": {"evaluate_seconds": found.seconds},
        "device": trained.device.type,
        "fields": found.fields,
        "spectra": found.spectra,
    }


def _table(metrics: dict[str, float], title: str):
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title, style="table.title"), title_justify="left")
    table.add_column("error")
    table.add_column("physical units", justify="right")
    table.add_column("normalised units", justify="right")
    for name, value in metrics.items():
        if not name.endswith("_normalized"):
            unit = " (%)" if name.startswith("relative_l1") else ""
            table.add_row(f"{name}{unit}", f"{value:.4g}", f"{metrics[f'{name}_normalized']:.4g}")
    return table


def _channels(errors: dict[str, dict[str, float]]):
    from rich.table import Table
    from rich.text import Text

    table = Table(title="by channel, physical units", title_justify="left")
    table.add_column("channel")
    names = [name for name in next(iter(errors.values())) if name != "relative_l1_mean"]
    for name in names:
        table.add_column(f"{name} (%)" if name.startswith("relative_l1") else name, justify="right")
    for channel, values in errors.items():
        table.add_row(Text(channel), *(f"{values[name]:.4g}" for name in names))
    return table


def _steps(errors: list[float]) -> str:
    shown = sorted({1, *range(5, len(errors) + 1, max(5, len(errors) // 8 // 5 * 5)), len(errors)})
    return "relative_l2 by rollout step:  " + "  ".join(f"{step}: {errors[step - 1]:.3g}" for step in shown)
