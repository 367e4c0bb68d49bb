"""`kinn evaluate`: how good a trained model is on a data set."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import Namespace

from kinn.cli.parser import Commands, Parser


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = Parser(
        usage="kinn evaluate MODEL DATA [options]",
        description="Measure a trained model on a data set: errors over all its samples, in physical and in normalised "
        "units; for a model that forecasts, over full rollouts and step by step.",
        epilog="Example:\n  kinn evaluate runs/p/model.safetensors test.h5",
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
        "grid: 0.5 on a grid twice as fine",
    )
    parser.add_argument("--output", type=str | None, default=None, help="JSON file for the numbers")


def _evaluate(options: Namespace) -> int:
    from rich.console import Console

    from kinn.data import open_dataset
    from kinn.progress import ProgressBar
    from kinn.records import write_record
    from kinn.train import evaluate, load_model

    if options.batch_size < 1:
        raise ValueError(f"--batch-size must be at least 1, but is {options.batch_size}")
    trained, dataset = load_model(options.model, device=options.device), open_dataset(options.data)
    with ProgressBar("Evaluating", total=len(dataset), unit="samples") as bar:
        found = evaluate(
            trained,
            dataset,
            batch_size=options.batch_size,
            dt_scale=options.dt_scale,
            progress=lambda done, total: bar.update(done),
        )
    console = Console()
    console.print(_table(found.metrics, f"{options.model} on {options.data} ({len(dataset)} samples)"))
    if found.rollout_relative_l2:
        console.print(_steps(found.rollout_relative_l2))
    if options.output is not None:
        write_record(
            Path(options.output),
            {
                "kind": "evaluation",
                "model": options.model,
                "data": options.data,
                "metrics": found.metrics,
                "rollout_relative_l2": found.rollout_relative_l2,
                "dt_scale": options.dt_scale,
                "seconds": found.seconds,
            },
        )
    return 0


def _table(metrics: dict[str, float], title: str):
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    table.add_column("error")
    table.add_column("physical units", justify="right")
    table.add_column("normalised units", justify="right")
    for name, value in metrics.items():
        if not name.endswith("_normalized"):
            unit = " (%)" if name.startswith("relative_l1") else ""
            table.add_row(f"{name}{unit}", f"{value:.4g}", f"{metrics[f'{name}_normalized']:.4g}")
    return table


def _steps(errors: list[float]) -> str:
    shown = sorted({1, *range(5, len(errors) + 1, max(5, len(errors) // 8 // 5 * 5)), len(errors)})
    return "relative_l2 by rollout step:  " + "  ".join(f"{step}: {errors[step - 1]:.3g}" for step in shown)
