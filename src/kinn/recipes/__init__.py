"""Recipes: experiments of the paper as plain Python, each rerun by one command, `kinn reproduce NAME`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kinn.recipes.darcy import darcy
from kinn.recipes.demo import demo
from kinn.recipes.experiment import Experiment, File, Source, Variant
from kinn.recipes.navier_stokes import ns_rollout, ns_routes
from kinn.recipes.poisson_order import poisson_order
from kinn.recipes.shallow_water import shallow_water
from kinn.recipes.ukno_layouts import ukno_layouts

if TYPE_CHECKING:
    from kinn.recipes.runner import run_experiment

__all__ = [
    "Experiment",
    "File",
    "Source",
    "Variant",
    "budgets",
    "describe",
    "experiments",
    "names",
    "run",
    "run_experiment",
]


@dataclass(frozen=True)
class _Recipe:
    make: Callable[[str], tuple[Experiment, ...]]
    what: str
    budgets: tuple[str, ...] = ("demo", "small", "paper")


_RECIPES = {
    "demo": _Recipe(demo, "the first journey: Poisson and Navier-Stokes, minutes", ("demo",)),
    "darcy": _Recipe(darcy, "Table 1: UKNO beside U-Net and FNO on Darcy flow"),
    "shallow-water": _Recipe(shallow_water, "Table 2: FKNO beside U-Net, FNO and a PINN on a radial dam break"),
    "poisson-order": _Recipe(poisson_order, "Table 3: UKNO of order 0 to 4, CNO, U-Net and FNO, on Poisson's equation"),
    "ns-rollout": _Recipe(ns_rollout, "Table 4: FKNO, U-Net and FNO on Navier-Stokes, unrolled 3, 5 and 10 steps"),
    "ns-routes": _Recipe(ns_routes, "Table 5: FKNO with 1, 2 and 4 routes, U-Net and FNO, on Navier-Stokes"),
    "ukno-layouts": _Recipe(ukno_layouts, "which of UKNO's two layouts is the default", ("small",)),
}


def names() -> list[str]:
    """Names of the recipes that :func:`run` knows.

    >>> names()
    ['demo', 'darcy', 'shallow-water', 'poisson-order', 'ns-rollout', 'ns-routes', 'ukno-layouts']
    """
    return list(_RECIPES)


def budgets(name: str) -> tuple[str, ...]:
    """The budgets of a recipe, the smallest first.

    Raises:
        ValueError: unknown recipe.

    >>> budgets("darcy")
    ('demo', 'small', 'paper')
    """
    return _recipe(name).budgets


def describe(name: str) -> str:
    """What a recipe shows, in a line, with its budgets.

    >>> describe("ns-routes")
    'Table 5: FKNO with 1, 2 and 4 routes, U-Net and FNO, on Navier-Stokes (demo, small, paper)'
    """
    recipe = _recipe(name)
    return f"{recipe.what} ({', '.join(recipe.budgets)})"


def experiments(name: str, budget: str | None = None) -> tuple[Experiment, ...]:
    """The experiments that a recipe consists of, at a budget.

    Raises:
        ValueError: unknown recipe or budget.

    >>> [variant.name for variant in experiments("ns-routes", "paper")[0].variants]
    ['FNO', 'U-Net', 'FKNO-1', 'FKNO-2', 'FKNO-4']
    """
    recipe = _recipe(name)
    budget = budget or recipe.budgets[0]
    if budget not in recipe.budgets:
        raise ValueError(f"recipe {name!r} has no budget {budget!r}; it has: {', '.join(recipe.budgets)}")
    return recipe.make(budget)


def run(
    name: str,
    *,
    budget: str | None = None,
    seeds: Sequence[int] = (0,),
    device: str = "auto",
    output: str | Path,
    devices: int = 1,
    data: Sequence[str | Path] = (),
    variants: Sequence[str] = (),
    progress: bool = True,
) -> list[Path]:
    """Run a recipe: generate its data, train every variant with every seed, write one result record for each.

    Called again with the same arguments, it goes on where it stopped; finished variants are not run again. A variant
    whose training diverges is recorded as such, with a warning.

    Args:
        name: of the recipe.
        budget: how much data and training; None for the recipe's smallest.
        seeds: of initialisation and data order, one run each; a repeated one counts once. The data do not depend on it.
        device: "auto", "cpu" or "cuda".
        output: folder for data, runs and records.
        devices: how many train one model together.
        data: public files to use instead of generated data: the data, then one file per further test set.
        variants: which contenders, by name; all if empty. Others' records are left as they are.
        progress: show progress bars.

    Returns:
        the records' paths, in the order of the variants.

    Raises:
        ValueError: unknown recipe, budget, variant or device, no seed, data that do not fit, the folder of another run.
    """
    from kinn.recipes.runner import run_experiment

    chosen = experiments(name, budget)
    known = dict.fromkeys(variant.name for experiment in chosen for variant in experiment.variants)
    for variant in variants:
        if variant not in known:
            raise ValueError(f"recipe {name!r} has no variant {variant!r}; it has: {', '.join(known)}")
    if data and any(experiment.source != chosen[0].source for experiment in chosen):
        raise ValueError(f"recipe {name!r} consists of experiments on different data: it takes no public files")
    return [
        path
        for experiment in chosen
        for path in run_experiment(
            replace(experiment, variants=tuple(v for v in experiment.variants if not variants or v.name in variants)),
            recipe=name,
            budget=budget or budgets(name)[0],
            seeds=seeds,
            device=device,
            output=output,
            devices=devices,
            data=data,
            progress=progress,
        )
    ]


def __getattr__(name: str) -> Any:
    """What needs the trainer is imported when asked for: naming recipes does without."""
    if name != "run_experiment":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from kinn.recipes.runner import run_experiment

    return run_experiment


def _recipe(name: str) -> _Recipe:
    if name not in _RECIPES:
        raise ValueError(f"unknown recipe {name!r}; known recipes: {', '.join(names())}")
    return _RECIPES[name]
