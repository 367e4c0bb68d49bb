"""`kinn bench`: how fast the scan is on the user's own machine, beside what else could compute it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from kinn.cli.parser import Commands, Parser


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = Parser(
        usage="kinn bench [options]",
        description="Time the selective scan, forward and backward, beside peers that are installed. Each is checked "
        "against float64 first; times are compared with what the machine's memory and arithmetic allow.",
        epilog="Examples:\n  kinn bench --quick\n  kinn bench --shapes fkno vision-56 --output bench.json",
    )
    commands.add(
        "bench",
        parser,
        _options,
        _run,
        help="time the scan on this machine",
        after_interrupt="the output file, if one was named, has the shapes that were finished",
    )


def _options(parser: Parser) -> None:
    parser.add_argument("--shapes", type=str, nargs="+", default=["all"], help="names of shapes, or all")
    parser.add_argument("--device", type=str, default="auto", help="where to run: auto, cpu or cuda")
    parser.add_argument("--threads", type=int | None, default=None, help="of the CPU; by default PyTorch's number")
    parser.add_argument("--repeats", type=int, default=15, help="turns that count")
    parser.add_argument(
        "--quick", action="store_true", help="small shapes and few turns: some seconds, once all is compiled"
    )
    parser.add_argument("--output", type=str | None, default=None, help="JSON file for the results")


def _run(options: Namespace) -> int:
    import os

    import torch

    from kinn.bench import QUICK, SHAPES, bench_scans, measure_machine, print_table
    from kinn.records import write_record
    from kinn.train.memory import keep_freed_memory
    from kinn.train.settings import chosen_device

    known = QUICK if options.quick else SHAPES
    names = list(known) if options.shapes == ["all"] else options.shapes
    for name in names:
        if name not in known:
            raise ValueError(f"unknown shape '{name}'; known shapes: {', '.join(known)}")
    for name in ("threads", "repeats"):
        if options[name] is not None and options[name] < 1:
            raise ValueError(f"--{name} must be at least 1, got {options[name]}")
    if options.output is not None and Path(options.output).is_dir():
        raise ValueError(f"--output must be a file, but {options.output} is a folder")
    device, repeats = chosen_device(options.device), min(options.repeats, 3) if options.quick else options.repeats
    if device.type == "cuda":  # whose end of work and memory are asked for
        torch.cuda.set_device(device)
    keep_freed_memory()  # as in training: what is measured is the work, not the allocator
    threads = torch.get_num_threads()
    torch.set_num_threads(options.threads or threads)
    try:
        machine = measure_machine(device, size=1 << 22 if options.quick else 1 << 25)
        print(
            f"memory {machine.bandwidth / 1e9:.0f} GB/s, arithmetic {machine.peak / 1e9:.0f} GFLOP/s", file=sys.stderr
        )
        record: dict[str, Any] = {
            "command": f"kinn bench --shapes {' '.join(options.shapes)} --repeats {repeats} "
            f"--device {device} --threads {torch.get_num_threads()}" + (" --quick" if options.quick else ""),
            "what": "float32, seconds, forward and backward, in turns",
            "threads": torch.get_num_threads(),
            "device": str(device),
            "seed": 0,
            "machine": machine._asdict(),
            "results": [],
            "load_average": os.getloadavg() if hasattr(os, "getloadavg") else None,
        }
        for result in bench_scans(
            {name: known[name] for name in names}, device, machine, repeats=repeats, memory=not options.quick,
            without={"associative_scan, compiled": "it is compiled, left out by --quick"} if options.quick else None,
            say=lambda line: print(line, file=sys.stderr, flush=True),
        ):  # fmt: skip
            record["results"].append(result)
            if options.output is not None:
                write_record(options.output, record)
    finally:
        torch.set_num_threads(threads)
    print_table(record["results"])
    return 0
