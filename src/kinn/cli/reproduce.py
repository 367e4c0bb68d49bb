"""`kinn reproduce` and `kinn report`: experiments of the paper from one command, and the page that shows them."""

from __future__ import annotations

import sys
from pathlib import Path

from jsonargparse import Namespace

from kinn.cli.parser import Commands, Parser


def add(commands: Commands) -> None:
    """Declare both commands."""
    parser = Parser(
        usage="kinn reproduce [NAME] [options]",
        description="Rerun an experiment: generate its data, train our models and the baselines alike, print a table "
        "and write an HTML report. Without a name, list the experiments.",
        epilog="Example:\n  kinn reproduce demo --output runs/demo",
    )
    commands.add(
        "reproduce",
        parser,
        _reproduce_options,
        _reproduce,
        help="rerun an experiment of the paper",
        after_interrupt="the same command goes on from what is finished",
    )

    parser = Parser(
        usage="kinn report FOLDER [options]",
        description="Draw result records as one HTML page: tables, error curves and pictures of fields.",
        epilog="Example:\n  kinn report runs/demo --paper figures",
    )
    commands.add(
        "report",
        parser,
        _report_options,
        _report,
        help="draw result records as an HTML page",
        after_interrupt="nothing was written",
    )


def _reproduce_options(parser: Parser) -> None:
    parser.add_argument("name", type=str, nargs="?", default=None, help="of the experiment")
    parser.add_argument(
        "--budget", type=str | None, default=None, help="how much data and training; by default the smallest"
    )
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[0], help="one run each: of initialisation and data order"
    )
    parser.add_argument("--variants", type=str, nargs="+", default=[], help="which contenders, by name; all by default")
    parser.add_argument("--device", type=str, default="auto", help="where to train: auto, cpu or cuda")
    parser.add_argument("--devices", type=int, default=1, help="how many train one model together")
    parser.add_argument(
        "--data",
        type=str,
        nargs="+",
        default=[],
        help="public file to use instead of generated data, then one for each further test set",
    )
    parser.add_argument(
        "--output", type=str | None, default=None, help="folder; by default runs/NAME-BUDGET; finished runs are kept"
    )


def _report_options(parser: Parser) -> None:
    parser.add_argument("folder", type=str, help="with result records (*.json), at any depth")
    parser.add_argument("--output", type=str | None, default=None, help="HTML file; by default FOLDER/report.html")
    parser.add_argument(
        "--paper",
        type=str | None,
        default=None,
        help="folder for every figure (SVG, PDF, PNG) and table (LaTeX, Markdown) as a file of its own",
    )


def _reproduce(options: Namespace) -> int:
    from kinn import recipes

    if options.name is None:
        for name in recipes.names():
            print(f"kinn reproduce {name:15}{recipes.describe(name)}")
        return 0
    budget = options.budget or recipes.budgets(options.name)[0]
    folder = Path(options.output or f"runs/{'-'.join(dict.fromkeys((options.name, budget)))}")
    records = recipes.run(
        options.name,
        budget=budget,
        seeds=options.seeds,
        device=options.device,
        output=folder,
        devices=options.devices,
        data=options.data,
        variants=options.variants,
    )

    if not records:  # the warnings say why
        print("No contender has a result: there is nothing to report", file=sys.stderr)
        return 1

    from kinn.report import print_table, write_report

    page = None
    try:
        page = write_report(folder / "records", folder / "report.html")  # what cannot be printed does not cost it
    except ImportError as error:  # the results are there, only the page needs the extra
        print(f"No report: {error}", file=sys.stderr)
    print_table(folder / "records")  # those of earlier calls, too
    if page is not None:
        print(f"Report: {page}")
    return 0


def _report(options: Namespace) -> int:
    from kinn.report import export, write_report

    folder = Path(options.folder)
    if folder.is_file():
        raise ValueError(f"{folder} is a file: give the folder with the records")
    print(f"Report: {write_report(folder, options.output or folder / 'report.html')}")
    if options.paper is not None:
        print(f"For a paper: {len(export(folder, options.paper))} files in {options.paper}")
    return 0
