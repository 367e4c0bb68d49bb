"""Print the tables of rollouts in `docs/results.md` from records: errors at single steps, by seed, on other grids.

    python benchmarks/rollout_tables.py results/ns-rollout results/ns-routes

Of every experiment one row per contender: the error over all steps (mean and standard deviation over seeds), the same
over the first contender's, at single steps, seed by seed over the first contender's, the largest error, and the error
on every grid that it was evaluated on.
"""

from __future__ import annotations

import argparse
import statistics

from kinn.report import load_records
from kinn.report.records import Experiment, Variant

STEPS = (1, 10, -1)


def row(variant: Variant, base: Variant, metric: str) -> list[str]:
    error, of_base = variant.metric(metric), base.metric(metric)
    assert error is not None
    assert of_base is not None
    spread = f" ± {error.spread:.4f}" if error.count > 1 else ""
    by_seed = {record.seed: record.metrics["test"][metric] for record in base.records}
    against = [record.metrics["test"][metric] / by_seed[record.seed] for record in variant.records]
    curves = [record.curves["rollout_relative_l2"] for record in variant.records]
    largest = variant.metric("max_error")
    return [
        variant.name,
        f"{error.mean:.4f}{spread}",
        f"{error.mean / of_base.mean:.2f}",
        *(f"{statistics.mean(curve[step - (step > 0)] for curve in curves):.4f}" for step in STEPS),
        ", ".join(f"{ratio:.2f}" for ratio in against),
        "" if largest is None else f"{largest.mean:.3f}",
        *(f"{at.mean:.4f}" for at in variant.at_resolutions(metric).values()),
    ]


def show(experiment: Experiment) -> None:
    metric, base = experiment.primary_metric, experiment.variants[0]
    grids = [str(grid) for grid in base.at_resolutions(metric)]
    heads = [
        "Model",
        metric,
        f"vs {base.name}",
        *(f"Step {step}" if step > 0 else "Last step" for step in STEPS),
        "by seed",
        "largest",
        *grids,
    ]
    print(f"\n{experiment.title}\n\n| {' | '.join(heads)} |\n|{' --- |' * len(heads)}")
    for variant in experiment.variants:
        print(f"| {' | '.join(row(variant, base, metric))} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", help="with records of forecasts")
    for experiment in load_records(parser.parse_args().folders):
        show(experiment)


if __name__ == "__main__":
    main()
