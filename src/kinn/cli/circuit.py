"""`kinn circuit`: the time constants of a trained model's cells; the circuit of one channel at one position."""

from __future__ import annotations

import itertools
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from jsonargparse import Namespace

from kinn.cli.parser import Commands, Parser, add_import, expect_spare, import_modules

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rich.console import Console
    from torch import nn

    from kinn.circuit import Cascade
    from kinn.nn import TimeScale
    from kinn.train import TrainedModel


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = Parser(
        usage="kinn circuit MODEL [options]",
        description="Show what a trained model's RC circuits do: per route and cell, the steps and the time constants, "
        "in points of the block's own grid. Cells are selective, so their steps follow from what drives them: with "
        "--data they are those met on its samples (by a forecaster, in its first step), without it those of cells at "
        "rest. With --channel also the circuit itself: that of one channel of a block, its coefficients held at what "
        "they are at one position of the first sample.",
        epilog="Examples:\n"
        "  kinn circuit runs/p/model.safetensors --data test.h5\n"
        "  kinn circuit runs/p/model.safetensors --data test.h5 --channel 3 --route 1 --position 8 12",
    )
    commands.add(
        "circuit", parser, _options, _run, help="show a model's time constants and circuits",
        after_interrupt="all is kept",
    )  # fmt: skip


def _options(parser: Parser) -> None:
    parser.add_argument("model", type=str, help="file of the model, as kinn train writes it")
    parser.add_argument("--data", type=str | None, default=None, help="data file to drive the cells with")
    parser.add_argument("--samples", type=int, default=4, help="how many of its samples")
    parser.add_argument(
        "--channel", type=int | None, default=None, help="inner channel of a block whose circuit to show, from 0"
    )
    parser.add_argument(
        "--block", type=str | None, default=None, help="the block, by its name in the table; by default the first"
    )
    parser.add_argument(
        "--route", type=int | None, default=None, help="its route, from 0 in the table's order; by default the first"
    )
    parser.add_argument(
        "--position",
        type=int,
        nargs="+",
        default=None,
        help="where on the block's grid, one index for each axis; by default the middle",
    )
    parser.add_argument("--device", type=str, default="auto", help="where to compute: auto, cpu or cuda")
    parser.add_argument("--output", type=str | None, default=None, help="JSON file for the numbers")
    add_import(parser)


def _run(options: Namespace) -> int:
    from rich.console import Console

    from kinn.nn import time_scales
    from kinn.records import write_record
    from kinn.train import load_model

    expect_spare(options)
    _expect_fitting(options)
    import_modules(options)
    trained, console = load_model(options.model, device=options.device), Console()
    record: dict[str, Any] = {"kind": "circuit", "model": options.model, "data": options.data}
    if options.data is None:
        run = samples = grid = None
        drive = "at rest"
    else:
        run, samples, grid = _one_step(trained, options)
        drive = f"driven by {samples} samples of {options.data}"
    found = time_scales(trained.model, run)
    console.print(_table(found, f"{options.model}, {drive}", grid))
    cells = [{**scale._asdict(), "route": scale.route._asdict()} for scale in found]
    record.update(samples=samples, input_grid=grid, quantiles=[0.1, 0.5, 0.9], cells=cells)
    if run is not None and options.channel is not None:
        record["circuit"] = _show(trained.model, run, found, options, console)
    if options.output is not None:
        write_record(options.output, record)
    return 0


def _expect_fitting(options: Namespace) -> None:
    if options.samples < 1:
        raise ValueError(f"--samples must be at least 1, but is {options.samples}")
    if options.channel is not None and options.data is None:
        raise ValueError("--channel needs --data: a cell at rest injects nothing")
    for name in ("block", "route", "position"):
        if options.channel is None and options[name] is not None:
            raise ValueError(f"--{name} chooses a circuit: give its --channel, too")


def _one_step(trained: TrainedModel, options: Namespace) -> tuple[Callable[[], object], int, tuple[int, ...]]:
    """A call of the model on the data's own fields, how many samples those are, and their grid."""
    from kinn.data import open_dataset
    from kinn.train.evaluate import evaluation_items

    dataset = open_dataset(options.data)
    items = evaluation_items(dataset.subset(range(min(options.samples, len(dataset)))), trained.rollout)
    given = items.batch(range(len(items)))[0].to(trained.device)
    return lambda: trained.predict_normalized(given), len(given), dataset.grid


def _table(found: Sequence[TimeScale], title: str, grid: tuple[int, ...] | None):
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title, style="table.title"), title_justify="left", caption_justify="left")
    table.caption = (
        "route: grid axis, - in reverse; step: median; tau: quantiles of the time constants, in points of the block's "
        "own grid, which may be coarser than the input's; times its spacing they give a length"
    )
    for name in ("block", "route", "cell", "step", "tau 10 %", "50 %", "90 %"):
        table.add_column(name, justify="left" if name in ("block", "route") else "right", overflow="fold")
    if grid is not None:
        table.add_column("input", justify="right")
        table.caption += "; input: the median in points of the input's grid"
    for scale in found:
        constants = [f"{value:.3g}" for value in scale.time_constant]
        if grid is not None and scale.grid is not None:
            axis = scale.route.axis
            constants.append(f"{scale.time_constant[1] * grid[axis] / scale.grid[axis]:.3g}")
        route = f"{'-' if scale.route.reverse else '+'}{scale.route.axis}"
        table.add_row(Text(scale.block), route, str(scale.cell), f"{scale.step[1]:.3g}", *constants)
    return table


def _show(
    model: nn.Module, run: Callable[[], object], found: Sequence[TimeScale], options: Namespace, console: Console
) -> dict[str, Any]:
    """Print the circuit that was asked for; what a record says of it."""
    from kinn.nn import circuit_of

    block = found[0].block if options.block is None else options.block
    middle = [[n // 2 for n in scale.grid] for scale in found if scale.block == block and scale.grid is not None]
    place = {
        "block": block,
        "route": options.route or 0,
        "channel": options.channel,
        "position": options.position or (middle[0] if middle else None),
    }
    circuit = circuit_of(model, run, **place)
    # the step response while the slowest potential settles, at times four times as long from one to the next
    slowest = max(node.time_constant for node in circuit.nodes)
    times = [0, *itertools.takewhile(lambda time: time < 20 * slowest, (4**k for k in itertools.count()))]
    responses = circuit.step_response(times).tolist()
    console.print(_elements(circuit, ", ".join(f"{name} {value}" for name, value in place.items())))
    shown = (", ".join(f"{value:.4g}" for value in values) for values in (times, responses))
    console.print(
        f"Order {circuit.degree()}, of {len(circuit.nodes)} potentials. Gain {circuit.feedthrough:.4g} at once, "
        f"{circuit.dc_gain:.4g} in the end.\nStep response after {next(shown)} points: {next(shown)}.",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    return {
        **place,
        "dense": circuit.dense,
        "stages": [asdict(bank) for bank in circuit.banks],
        "poles": circuit.poles,
        "dc_gain": circuit.dc_gain,
        "feedthrough": circuit.feedthrough,
        "step_response": {"points": times, "values": responses},
    }


def _elements(circuit: Cascade, title: str):
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title, style="table.title"), title_justify="left", caption_justify="left")
    table.caption = (
        "tau, 1/pole in points of the block's grid; C = 1; gain: of a constant drive, what the potential, the direct "
        f"path and the stage hand on{'; the outputs of all stages are added' if circuit.dense else ''}"
    )
    for name in ("stage", "tau", "pole", "g_l", "g_c", "c", "gain"):
        table.add_column(name, justify="left" if name == "stage" else "right")
    for place, bank in enumerate(circuit.banks, start=1):
        for node in bank.nodes:
            values = node.time_constant, -node.a, node.leak, node.coupling, node.c, node.c * node.dc_gain
            table.add_row(str(place), *(f"{value:.3g}" for value in values))
        table.add_row(f"{place}, direct", *5 * [""], f"{bank.d:.3g}")
        table.add_row(f"{place}, all", *5 * [""], f"{bank.dc_gain:.3g}", end_section=True)
    return table
