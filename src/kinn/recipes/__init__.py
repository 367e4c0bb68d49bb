"""Recipes: experiments of the paper as plain Python, each rerun by one command, `kinn reproduce NAME`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from kinn.recipes.demo import demo
from kinn.recipes.experiment import Experiment, Variant
from kinn.recipes.runner import run_experiment
from kinn.recipes.ukno_layouts import ukno_layouts

__all__ = ["Experiment", "Variant", "names", "run"]

_RECIPES: dict[str, dict[str, Callable[[], tuple[Experiment, ...]]]] = {
    "demo": {"demo": demo},
    "ukno-layouts": {"small": ukno_layouts},
}


def names() -> list[str]:
    """Names of the recipes that :func:`run` knows.

    >>> names()
    ['demo', 'ukno-layouts']
    """
    return list(_RECIPES)


def run(
    name: str,
    *,
    budget: str | None = None,
    seeds: Sequence[int] = (0,),
    device: str = "auto",
    output: str | Path,
    progress: bool = True,
) -> list[Path]:
    """Run a recipe: generate its data, train every variant with every seed, write one result record for each.

    Called again with the same arguments, it goes on where it stopped; finished variants are not run again.

    Args:
        name: of the recipe.
        budget: how much data and training; None for the recipe's smallest.
        seeds: of initialisation and data order, one run each. The data do not depend on them.
        device: "auto", "cpu" or "cuda".
        output: folder for data, runs and records.
        progress: show progress bars.

    Returns:
        the records' paths, in the order of the variants.

    Raises:
        ValueError: unknown recipe or budget, no seed, or a folder that holds another run.
    """
    if name not in _RECIPES:
        raise ValueError(f"unknown recipe {name!r}; known recipes: {', '.join(names())}")
    budgets = _RECIPES[name]
    budget = budget or next(iter(budgets))
    if budget not in budgets:
        raise ValueError(f"recipe {name!r} has no budget {budget!r}; it has: {', '.join(budgets)}")
    if not seeds:
        raise ValueError(f"recipe {name!r} needs at least one seed, got none")
    return [
        path
        for experiment in budgets[budget]()
        for path in run_experiment(
            experiment, recipe=name, budget=budget, seeds=seeds, device=device, output=Path(output), progress=progress
        )
    ]
