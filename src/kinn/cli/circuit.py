"""`kinn circuit`: the time constants of a trained model's cells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jsonargparse import Namespace

from kinn.cli.parser import Commands, Parser, expect_spare

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kinn.nn import TimeScale


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = Parser(
        usage="kinn circuit MODEL [options]",
        description="Show what a trained model's RC circuits do: per route and cell, the steps and the time constants, "
        "in grid points. Cells are selective, so their steps follow from what drives them: with --data they are those "
        "met on its samples, without it those of cells at rest.",
        epilog="Example:\n  kinn circuit runs/p/model.safetensors --data test.h5",
    )
    commands.add("circuit", parser, _options, _run, help="show a model's time constants", after_interrupt="all is kept")


def _options(parser: Parser) -> None:
    parser.add_argument("model", type=str, help="file of the model, as kinn train writes it")
    parser.add_argument("--data", type=str | None, default=None, help="data file to drive the cells with")
    parser.add_argument("--samples", type=int, default=4, help="how many of its samples")
    parser.add_argument("--device", type=str, default="auto", help="where to compute: auto, cpu or cuda")
    parser.add_argument("--output", type=str | None, default=None, help="JSON file for the numbers")


def _run(options: Namespace) -> int:
    from rich.console import Console

    from kinn.data import open_dataset
    from kinn.nn import time_scales
    from kinn.records import write_record
    from kinn.train import evaluate, load_model

    expect_spare(options)
    if options.samples < 1:
        raise ValueError(f"--samples must be at least 1, but is {options.samples}")
    trained = load_model(options.model, device=options.device)
    if options.data is None:
        found, drive, samples = time_scales(trained.model), "at rest", None
    else:
        dataset = open_dataset(options.data)
        few = dataset.subset(range(min(options.samples, len(dataset))))
        samples = len(few)
        found = time_scales(trained.model, lambda: evaluate(trained, few, batch_size=samples))
        drive = f"driven by {len(few)} samples of {options.data}"
    Console().print(_table(found, f"{options.model}, {drive}"))
    if options.output is not None:
        record: dict[str, Any] = {
            "kind": "circuit",
            "model": options.model,
            "data": options.data,
            "samples": samples,
            "quantiles": [0.1, 0.5, 0.9],
            "cells": [{**scale._asdict(), "route": scale.route._asdict()} for scale in found],
        }
        write_record(options.output, record)
    return 0


def _table(found: Sequence[TimeScale], title: str):
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title, style="table.title"), title_justify="left", caption_justify="left")
    table.caption = "route: grid axis, - in reverse; step: median; tau: quantiles of the time constants, in grid points"
    for name in ("block", "route", "cell", "step", "tau 10 %", "50 %", "90 %"):
        table.add_column(name, justify="left" if name in ("block", "route") else "right")
    for scale in found:
        constants = (f"{value:.3g}" for value in scale.time_constant)
        route = f"{'-' if scale.route.reverse else '+'}{scale.route.axis}"
        table.add_row(Text(scale.block), route, str(scale.cell), f"{scale.step[1]:.3g}", *constants)
    return table
