"""`kinn generate`: benchmark data from a seed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from jsonargparse import Namespace

from kinn.cli.parser import Commands, Parser

_RESUME = "the same command goes on where this one stopped"


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = Parser(
        usage="kinn generate EQUATION --output FILE [options]",
        description="Generate benchmark data: fields of a partial differential equation, solved from random inputs.",
        epilog="Examples:\n"
        "  kinn generate poisson --output p.h5 --samples 1024\n"
        "  kinn generate navier-stokes --output flow.h5 --samples 1200 --viscosity 1e-3",
    )
    equations = commands.add_group(
        "generate", parser, choice="equation", help="make benchmark data from a seed", after_interrupt=_RESUME
    )
    parser = Parser(
        usage="kinn generate poisson --output FILE [options]",
        description="Generate pairs (source, potential) of Poisson's equation -Laplace(u) = f on the unit square with "
        "u = 0 on its boundary, in closed form.",
        epilog="Example:\n  kinn generate poisson --output p.h5 --samples 1024 --resolution 64",
    )
    equations.add(
        "poisson",
        parser,
        _poisson_options,
        _poisson,
        help="steady potential of a source, on the unit square",
        after_interrupt=_RESUME,
    )
    parser = Parser(
        usage="kinn generate navier-stokes --output FILE [options]",
        description="Generate trajectories of the vorticity of forced two-dimensional flow on the unit torus.",
        epilog="Example:\n"
        "  kinn generate navier-stokes --output flow.h5 --samples 1200 --viscosity 1e-3 --final-time 50",
    )
    equations.add(
        "navier-stokes",
        parser,
        _navier_stokes_options,
        _navier_stokes,
        help="two-dimensional flow, frame by frame",
        after_interrupt=_RESUME,
    )


def _poisson_options(parser: Parser) -> None:
    _add_file(parser, samples=1024)
    group = parser.add_argument_group("Equation")
    group.add_argument("--resolution", type=int, default=64, help="grid points along each axis")
    group.add_argument(
        "--max-mode",
        type=int,
        default=16,
        help="highest sine mode of the source; 20 is the test out of range",
    )
    group.add_argument(
        "--smoothness", type=float, default=0.5, help="exponent r of the source's spectrum; lower is smoother"
    )
    group.add_argument(
        "--points",
        type=Literal["nodes", "centers"],
        default="nodes",
        help="where the grid points lie: nodes (boundary included) or centers of cells",
    )


def _navier_stokes_options(parser: Parser) -> None:
    _add_file(parser, samples=200)
    group = parser.add_argument_group("Equation")
    group.add_argument(
        "--viscosity", type=float, default=1e-3, help="kinematic viscosity; the benchmark has 1e-3, 1e-4 and 1e-5"
    )
    group.add_argument("--final-time", type=float, default=50.0, help="time of the last frame, in time units")
    group.add_argument("--frame-interval", type=float, default=1.0, help="time between frames, in time units")
    group.add_argument("--resolution", type=int, default=64, help="grid points along each axis that are kept")
    group = parser.add_argument_group("Solver")
    group.add_argument(
        "--solver-resolution", type=int, default=256, help="its grid points along each axis, a multiple of --resolution"
    )
    group.add_argument("--chunk", type=int, default=20, help="trajectories solved at once; less needs less memory")
    group.add_argument("--device", type=str, default="cpu", help="where to compute: cpu or cuda")


def _add_file(parser: Parser, *, samples: int) -> None:
    group = parser.add_argument_group("File")
    group.add_argument("--output", type=str, required=True, help="HDF5 file to make; it appears when it is complete")
    group.add_argument("--samples", type=int, default=samples, help="how many to generate")
    group.add_argument("--seed", type=int, default=0, help="of the random inputs; another seed gives other samples")
    group.add_argument("--overwrite", action="store_true", help="replace an existing file")


def _poisson(options: Namespace) -> int:
    from kinn.data import generate_poisson

    return _generate("Poisson", generate_poisson, options, unit="samples")


def _navier_stokes(options: Namespace) -> int:
    from kinn.data import generate_navier_stokes

    return _generate("Navier-Stokes", generate_navier_stokes, options, unit="frames")


def _generate(title: str, generator: Callable[..., Any], options: Namespace, *, unit: str) -> int:
    from kinn.data import open_dataset
    from kinn.train import ProgressBar

    parameters = options.as_dict()
    path = Path(parameters.pop("output"))
    path.parent.mkdir(parents=True, exist_ok=True)
    with ProgressBar(title, total=0, unit=unit) as bar:

        def report(done: int, total: int) -> None:
            bar.total = total
            bar.update(done)

        generator(path, **parameters, progress=report)
    print(f"{path}: {open_dataset(path)!r}")
    return 0
