"""Forward and backward of every contender that gives the right result, at every shape, against the machine's limits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from kinn.bench.checks import difference
from kinn.bench.contenders import CONTENDERS, prepare, reason_of
from kinn.bench.machine import Machine
from kinn.bench.memory import peak_memory_apart
from kinn.bench.shapes import CascadeShape, Shape, draw
from kinn.bench.timing import summary, take_turns

TOLERANCE = 1e-5
_ROUGHLY = 1e-4  # where sums are long
BUDGET = 20.0  # seconds that a contender may take at a shape once it had three turns


def bench_scans(
    shapes: Mapping[str, Shape | CascadeShape],
    device: torch.device,
    machine: Machine,
    *,
    repeats: int,
    contenders: Iterable[str] | None = None,
    memory: bool = False,
    without: Mapping[str, str] | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Iterator[dict[str, Any]]:
    """Check, then time the forward and backward pass of every contender at every shape.

    Args:
        shapes: by name.
        device: to run on.
        machine: its limits, for the share of them that is reached.
        repeats: turns that count; slow contenders take fewer.
        contenders: names out of `CONTENDERS`; by default all. Those of other work than the shape's are left out.
        memory: also measure peak memory, on a CPU in a process for each contender.
        without: names that are listed with the reason given here instead of being timed.
        say: hears what is going on.

    Yields:
        for each shape, when it is done, a dictionary: `name`, `work`, `title`, `shape`, `least_s` (what the machine
        needs at least, and what `bounds` it), `contenders`: each with a `reason` why it was not timed, or with its
        `error` against float64 (the largest over the largest value, of `y` and all gradients), `median_s`, `min_s`,
        `quartiles_s`, `runs`, `roofline_percent` and `peak_bytes` (None where not measured); and `lead`: how many
        times the median of ours the fastest alternative takes, or None.
    """
    names = list(CONTENDERS if contenders is None else contenders)
    left_out = without or {}
    ready = {name: (None, left_out[name]) if name in left_out else prepare(name, device) for name in names}
    for title, shape in shapes.items():
        say(f"{title}: {shape}")
        rows: dict[str, dict[str, Any]] = {}
        steps = {}
        for name in (name for name in names if CONTENDERS[name].work == shape.work):
            function, reason = ready[name]
            if not reason and getattr(shape, "l", 0) > CONTENDERS[name].longest:
                reason = f"its time grows with the square of the length: too long at {shape[1]} steps"
            if function is None or reason:
                rows[name] = {"reason": reason}
                continue
            try:
                rows[name] = {"error": _error(name, function, shape, device), "peak_bytes": None}
                if rows[name]["error"] > TOLERANCE:
                    rows[name]["reason"] = (
                        f"wrong: it differs from float64 by {rows[name]['error']:.1e} of the largest value"
                    )
                    continue
                if memory:
                    peak = peak_memory_apart(prepared_step, name, shape, str(device), device=device)
                    rows[name]["peak_bytes"] = peak
                steps[name] = _step(function, _arguments(name, shape, device))
                steps[name]()  # what runs out of memory is found out here, not in its turn
            except Exception as failure:
                steps.pop(name, None)
                rows[name] = {**rows.get(name, {}), "reason": reason_of(failure)}
        for name, seconds in take_turns(steps, repeats, warm_up=2, least=0.05, budget=BUDGET).items():
            found = summary(seconds)
            least, _ = machine.shortest(shape.cost(CONTENDERS[name].injection))
            rows[name] |= {**found, "roofline_percent": 100 * least / found["median_s"]}
        least, bounds = machine.shortest(shape.cost(shape.injection))
        yield {
            "name": title, "work": shape.work, "title": str(shape), "shape": list(shape), "least_s": least,
            "bounds": bounds, "contenders": rows, "lead": _lead(rows),
        }  # fmt: skip


def prepared_step(name: str, shape: Shape | CascadeShape, device: str) -> Callable[[], object]:
    """Forward and backward of a contender, from names that another process understands."""
    function, reason = prepare(name, torch.device(device))
    if function is None:
        raise RuntimeError(reason)
    return _step(function, _arguments(name, shape, torch.device(device)))


def print_table(results: Iterable[Mapping[str, Any]]) -> None:
    """Print what `bench_scans` found: the fastest first, with its lead over the others."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    for result in results:
        table = Table(title=f"{result['name']}: {result['title']}; {result['bounds']} limits", title_justify="left")
        for column in ("forward + backward", "median (ms)", "quartiles (ms)", "vs fastest", "of limit", "MiB"):
            table.add_column(column, justify="left" if column.startswith("forward") else "right")
        timed = {name: row for name, row in result["contenders"].items() if "median_s" in row}
        fastest = min((row["median_s"] for row in timed.values()), default=0.0)
        for name, row in sorted(timed.items(), key=lambda item: item[1]["median_s"]):
            low, high = row["quartiles_s"]
            peak = row["peak_bytes"]
            table.add_row(
                name, f"{1e3 * row['median_s']:.2f}", f"{1e3 * low:.2f}-{1e3 * high:.2f}",
                f"{row['median_s'] / fastest:.1f}x", f"{row['roofline_percent']:.0f} %",
                "" if peak is None else f"{peak / 2**20:.0f}",
            )  # fmt: skip
        console.print(table)
        for name, row in result["contenders"].items():
            if "reason" in row:
                console.print(f"  not timed: {name}: {row['reason']}", style="dim", highlight=False)


def _lead(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
    """The first of ours that was timed, against the fastest alternative."""
    medians = {name: row["median_s"] for name, row in rows.items() if "median_s" in row}
    ours = next((name for name in medians if CONTENDERS[name].ours), None)
    others = [name for name in medians if not CONTENDERS[name].ours]
    if ours is None or not others:
        return None
    fastest = min(others, key=medians.__getitem__)
    return {"of": ours, "over": fastest, "times": medians[fastest] / medians[ours]}


def _error(name: str, function: Callable[..., Any], shape: Shape | CascadeShape, device: torch.device) -> float:
    """Of a small size against the definition; at full size, with all threads, our own scan in float64 is the judge."""
    small, injection = shape.shortened(), CONTENDERS[name].injection
    found = difference(function, _arguments(name, small, device), small.exact(injection))
    if found <= TOLERANCE and shape != small:
        whole = difference(function, _arguments(name, shape, device), shape.exact(injection, "auto"))
        if whole > _ROUGHLY:
            raise ArithmeticError(f"wrong at full size: it differs from float64 by {whole:.1e} of the largest value")
    return found


def _arguments(name: str, shape: Shape | CascadeShape, device: torch.device) -> dict[str, Tensor]:
    """Those at a shape, in memory as the contender wants them."""
    tensors = draw(shape, device)
    if not CONTENDERS[name].steps_last:
        return tensors
    return {name: t.mT.contiguous().mT if t.dim() == 3 else t for name, t in tensors.items()}


def _step(function: Callable[..., Any], arguments: dict[str, Tensor]) -> Callable[[], object]:
    leaves = {name: tensor.detach().requires_grad_() for name, tensor in arguments.items()}
    given = torch.randn_like(arguments["x"])
    return lambda: torch.autograd.grad(function(**leaves), list(leaves.values()), given)
