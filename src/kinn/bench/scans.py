"""The selective scan, forward and backward: every contender that gives the right result, at our models' shapes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kinn.bench.contenders import CONTENDERS, prepare, reason_of
from kinn.bench.counting import scan_cost
from kinn.bench.machine import Machine
from kinn.bench.timing import summary, take_turns
from kinn.ops import selective_scan

TOLERANCE = 1e-5


class Shape(NamedTuple):
    """Sequences, steps, channels, potentials per channel."""

    b: int
    l: int  # noqa: E741
    d: int
    n: int


SHAPES: dict[str, Shape] = {
    "fkno": Shape(20, 4096, 40, 16),
    "vision-56": Shape(8, 3136, 192, 1),
    "vision-28": Shape(8, 784, 384, 1),
    "vision-14": Shape(8, 196, 768, 1),
    "vision-7": Shape(8, 49, 1536, 1),
    "long": Shape(1, 65536, 64, 16),
    "short-16": Shape(2, 1024, 64, 16),
    "short-1": Shape(2, 1024, 64, 1),
}
QUICK = {"short-16": Shape(2, 256, 32, 16), "short-1": Shape(2, 256, 32, 1)}


def draw(shape: Shape, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Arguments of a scan, always the same ones."""
    generator = torch.Generator().manual_seed(0)

    def normal(*sizes: int) -> Tensor:
        return torch.randn(sizes, generator=generator)

    b, l, d, n = shape  # noqa: E741
    arguments = {
        "x": normal(b, l, d),
        "dt": torch.nn.functional.softplus(normal(b, l, d) - 3),
        "a": torch.arange(1.0, n + 1).expand(d, n) * torch.exp(0.3 * normal(d, n)),
        "B": normal(b, l, n),
        "C": normal(b, l, n),
        "D": normal(d),
    }
    return {name: tensor.to(device, dtype) for name, tensor in arguments.items()}


def bench_scans(
    shapes: Mapping[str, Shape],
    device: torch.device,
    machine: Machine,
    *,
    repeats: int,
    contenders: Iterable[str] | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> list[dict[str, Any]]:
    """Check, then time the forward and backward pass of every contender at every shape.

    Args:
        shapes: by name.
        device: to run on.
        machine: its limits, for the share of them that is reached.
        repeats: turns that count.
        contenders: names out of `CONTENDERS`; by default all.
        say: hears what is going on.

    Returns:
        for each shape a dictionary: `name`, `shape`, `least_s` (what the machine needs at least, and what `bounds` it)
        and `contenders`: each with a `reason` why it was not timed, or with its `error` against float64 (the largest
        over the largest value, of `y` and all gradients), `median_s`, `min_s`, `quartiles_s`, `runs` and
        `roofline_percent`.
    """
    ready = {name: prepare(name, device) for name in (CONTENDERS if contenders is None else contenders)}
    results = []
    for title, shape in shapes.items():
        say(f"{title}: {shape.b} x {shape.l} x {shape.d}, {shape.n} potentials")
        rows: dict[str, dict[str, Any]] = {}
        steps = {}
        small = Shape(min(shape.b, 2), min(shape.l, 300), *shape[2:])
        exact = _differentiate(selective_scan, draw(small, device, torch.float64), backend="reference")
        for name, (function, reason) in ready.items():
            reason = reason or _too_large(name, shape)
            if function is None or reason:
                rows[name] = {"reason": reason}
                continue
            try:
                error = _error(_differentiate(function, draw(small, device)), exact)
                step = _step(function, draw(shape, device))
                step()  # what runs out of memory is found out here, not in its turn
            except Exception as failure:
                rows[name] = {"reason": reason_of(failure)}
                continue
            rows[name] = {"error": error}
            if error <= TOLERANCE:
                steps[name] = step
            else:
                rows[name]["reason"] = f"wrong: it differs from float64 by {error:.1e} of the largest value"
        least, bounds = machine.shortest(scan_cost(*shape, backward=True))
        for name, seconds in take_turns(steps, repeats, warm_up=2, least=0.05).items():
            found = summary(seconds)
            rows[name] |= {**found, "roofline_percent": 100 * least / found["median_s"]}
        results.append({"name": title, "shape": list(shape), "least_s": least, "bounds": bounds, "contenders": rows})
    return results


def print_table(results: Iterable[Mapping[str, Any]]) -> None:
    """Print what `bench_scans` found: the fastest first, with its lead over the others."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    for result in results:
        b, l, d, n = result["shape"]  # noqa: E741
        title = f"{result['name']}: batch {b}, length {l}, {d} channels, {n} potentials"
        table = Table(title=title, title_justify="left")
        for column in ("forward + backward", "median (ms)", "quartiles (ms)", "vs fastest", "of the limit"):
            table.add_column(column, justify="left" if column.startswith("forward") else "right")
        timed = {name: row for name, row in result["contenders"].items() if "median_s" in row}
        fastest = min((row["median_s"] for row in timed.values()), default=0.0)
        for name, row in sorted(timed.items(), key=lambda item: item[1]["median_s"]):
            low, high = row["quartiles_s"]
            table.add_row(
                name, f"{1e3 * row['median_s']:.2f}", f"{1e3 * low:.2f}-{1e3 * high:.2f}",
                f"{row['median_s'] / fastest:.1f}x", f"{row['roofline_percent']:.0f} % ({result['bounds']})",
            )  # fmt: skip
        console.print(table)
        for name, row in result["contenders"].items():
            if "reason" in row:
                console.print(f"  not timed: {name}: {row['reason']}", style="dim", highlight=False)


def _too_large(name: str, shape: Shape) -> str:
    contender, size = CONTENDERS[name], shape.b * shape.l * shape.d * shape.n
    if shape.l > contender.longest:
        return f"a sequence of {shape.l} steps is too long for it"
    return f"{size:.1e} potentials in all are too many for it" if size > contender.most else ""


def _differentiate(function: Callable[..., Any], arguments: dict[str, Tensor], **options: Any) -> list[Tensor]:
    leaves = {name: tensor.detach().requires_grad_() for name, tensor in arguments.items()}
    y = function(**leaves, **options)
    given = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y)
    return [y.detach(), *torch.autograd.grad(y, list(leaves.values()), given)]


def _error(got: list[Tensor], exact: list[Tensor]) -> float:
    return max(((g.double() - e).abs().max() / e.abs().max()).item() for g, e in zip(got, exact, strict=True))


def _step(function: Callable[..., Tensor], arguments: dict[str, Tensor]) -> Callable[[], object]:
    leaves = {name: tensor.detach().requires_grad_() for name, tensor in arguments.items()}
    given = torch.randn_like(arguments["x"])
    return lambda: torch.autograd.grad(function(**leaves), list(leaves.values()), given)
