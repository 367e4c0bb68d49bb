"""`kinn generate`: benchmark data from a seed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
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
        "  kinn generate navier-stokes --output flow.h5 --samples 1200 --viscosity 1e-3\n"
        "  kinn generate darcy --output darcy.hdf5 --samples 10000 --layout public",
    )
    equations = commands.add_group(
        "generate", parser, choice="equation", help="make benchmark data from a seed", after_interrupt=_RESUME
    )

    def equation(
        name: str, title: str, what: str, example: str, options: Callable[[Parser], None], *, help: str, **how: str
    ) -> None:
        parser = Parser(
            usage=f"kinn generate {name} --output FILE [options]",
            description=f"Generate {what}.",
            epilog=f"Example:\n  kinn generate {name} {example}",
        )
        run = partial(_generate, name, title, **how)
        equations.add(name, parser, options, run, help=help, after_interrupt=_RESUME)

    equation(
        "poisson",
        "Poisson",
        "pairs (source, potential) of Poisson's equation -Laplace(u) = f on the unit square with u = 0 on its "
        "boundary, in closed form",
        "--output p.h5 --samples 1024 --resolution 64",
        _poisson_options,
        help="steady potential of a source, on the unit square",
        unit="samples",
        public="cno",
    )
    equation(
        "navier-stokes",
        "Navier-Stokes",
        "trajectories of the vorticity of forced two-dimensional flow on the unit torus",
        "--output flow.h5 --samples 1200 --viscosity 1e-3 --final-time 50",
        _navier_stokes_options,
        help="two-dimensional flow, frame by frame",
        unit="frames",
        public="li",
    )
    equation(
        "darcy",
        "Darcy",
        "pairs (permeability, pressure) of Darcy flow -div(a grad u) = beta on the unit square with u = 0 on its "
        "boundary, through media of two permeabilities",
        "--output darcy.h5 --samples 1024 --resolution 64",
        _darcy_options,
        help="steady flow through a porous medium, on the unit square",
        unit="samples",
        public="pdebench-darcy",
    )
    equation(
        "shallow-water",
        "Shallow water",
        "trajectories of the depth of shallow water after a radial dam breaks, on the square [-2.5, 2.5]^2",
        "--output dam.h5 --samples 100 --resolution 64",
        _shallow_water_options,
        help="a radial dam break, frame by frame",
        unit="frames",
        public="pdebench-rdb",
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
    _add_solving(group, chunk=20)


def _darcy_options(parser: Parser) -> None:
    _add_file(parser, samples=1024)
    group = parser.add_argument_group("Equation")
    group.add_argument("--resolution", type=int, default=128, help="cells along each axis")
    group.add_argument("--beta", type=float, default=1.0, help="source, the same everywhere")
    group.add_argument("--high", type=float, default=1.0, help="permeability where the sum of bumps is above its mean")
    group.add_argument("--low", type=float, default=0.1, help="permeability elsewhere")
    group.add_argument("--bumps", type=int, default=5, help="Gaussian bumps in a medium")
    _add_solving(parser.add_argument_group("Solver"), chunk=32)


def _shallow_water_options(parser: Parser) -> None:
    _add_file(parser, samples=100)
    group = parser.add_argument_group("Equation")
    group.add_argument("--final-time", type=float, default=1.0, help="time of the last frame")
    group.add_argument("--n-frames", type=int, default=101, help="frames, the first at time 0")
    group.add_argument("--resolution", type=int, default=128, help="cells along each axis that are kept")
    group.add_argument("--gravity", type=float, default=1.0, help="acceleration of gravity")
    group.add_argument("--inner-height", type=float, default=2.0, help="depth inside the dam at time 0")
    group.add_argument("--outer-height", type=float, default=1.0, help="depth outside of it")
    group.add_argument(
        "--radius", type=float, nargs=2, default=[0.3, 0.7], metavar=("LEAST", "MOST"), help="range of the dam's radius"
    )
    group = parser.add_argument_group("Solver")
    group.add_argument(
        "--solver-resolution",
        type=int | None,
        default=None,
        help="its cells along each axis, a multiple of --resolution; by default the same",
    )
    _add_solving(group, chunk=10)


def _add_solving(group: Any, *, chunk: int) -> None:
    group.add_argument("--chunk", type=int, default=chunk, help="samples solved at once; less needs less memory")
    group.add_argument("--device", type=str, default="cpu", help="where to compute: cpu or cuda")


def _add_file(parser: Parser, *, samples: int) -> None:
    group = parser.add_argument_group("File")
    group.add_argument("--output", type=str, required=True, help="HDF5 file to make; it appears when it is complete")
    group.add_argument("--samples", type=int, default=samples, help="how many to generate")
    group.add_argument("--seed", type=int, default=0, help="of the random inputs; another seed gives other samples")
    group.add_argument("--overwrite", action="store_true", help="replace an existing file")
    group.add_argument(
        "--layout",
        type=Literal["kinn", "public"],
        default="kinn",
        help="of the file: kinn's, or the one in which the benchmark is published, for other people's code",
    )


def _generate(name: str, title: str, options: Namespace, *, unit: str, public: str) -> int:
    from kinn import data
    from kinn.data import export_dataset, open_dataset
    from kinn.progress import ProgressBar

    generator = getattr(data, f"generate_{name.replace('-', '_')}")
    parameters = options.as_dict()
    path, layout = Path(parameters.pop("output")), parameters.pop("layout")
    path.parent.mkdir(parents=True, exist_ok=True)
    if layout == "kinn":
        with ProgressBar(title, total=0, unit=unit) as bar:
            generator(path, **parameters, progress=bar.report)
    else:
        if path.is_dir() or (path.exists() and not options.overwrite):  # said now, not after hours of solving
            raise ValueError(f"{path} exists already: choose another --output, or --overwrite a file")
        ours = path.with_name(path.name + ".kinn.h5")
        with ProgressBar(title, total=0, unit=unit) as bar:
            try:  # what an interrupted run left is good, whatever lies at `path`
                generator(ours, **{**parameters, "overwrite": False}, progress=bar.report)
            except ValueError:
                if not options.overwrite:
                    raise
                generator(ours, **parameters, progress=bar.report)
        with ProgressBar("Export", total=0, unit="samples") as bar:
            export_dataset(open_dataset(ours), path, layout=public, overwrite=options.overwrite, progress=bar.report)
        ours.unlink()
    print(f"{path}: {open_dataset(path)!r}")
    return 0
