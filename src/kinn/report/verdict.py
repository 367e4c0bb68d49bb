"""Which variant was best, by how much and at what cost, in words: misses as plainly as wins."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from kinn.report.records import Experiment, Measure, Variant
from kinn.report.wording import (
    FACTOR_NAMES,
    RANKS_NOTHING,
    TIMES_APART,
    flatten,
    gap,
    join,
    metric_name,
    number_format,
    split_name,
)

_LEVEL = 5e-4  # shown as 0.0 %
_RATE, _SEED = "config.optimizer.lr", "config.training.seed"
_UNROLL, _EPOCHS = "config.rollout.unroll", "config.training.epochs"


def verdict(experiment: Experiment) -> tuple[str, ...]:
    """Say how our best variant and the best baseline compare on the primary metric, and what ours cost.

    Args:
        experiment: variants with their runs.

    Returns:
        Sentences, the verdict itself first.
    """
    metric = metric_name(experiment.primary_metric)
    ours, baseline = experiment.ours, experiment.baseline
    notes = []
    if ours is None or baseline is None:
        alone = ours or baseline
        role, missing = ("ours", "Kirchhoff variant") if ours is None else ("baseline", "baseline")
        if alone is not None:
            notes.append(f"Lowest {metric}: {_scored(experiment, alone)}.")
            some = any(v.role == role for v in experiment.variants)
            notes.append(f"No {missing} has a finite result to compare." if some else f"No {missing} was trained.")
        else:
            notes.append(f"No variant has a finite {metric}.")
    else:
        notes.append(_duel(experiment, ours, baseline))
        if _apart(experiment, ours, baseline) is None:
            notes.append("With a single seed the spread from seed to seed is unknown, and a small gap may be chance.")
        if (count := sum(v.role == "ours" for v in experiment.variants)) > 1:
            where = "on validation data" if experiment.selection == "validation" else "on this test"
            notes.append(f"{ours.name} is the best of our {count} {where}.")
        notes.extend(_reversals(experiment, ours, baseline))
        notes.extend(_cost(experiment, ours, baseline))
    notes.extend(_trend(experiment))
    diverged = [v.name for v in experiment.variants if not _score(experiment, v).finite]
    if diverged:
        notes.append(f"Diverged, with no finite {metric} on at least one seed: {', '.join(diverged)}.")
    notes.extend(_unlike(experiment))
    if not experiment.ranks:
        notes.insert(1, RANKS_NOTHING)
    return tuple(notes)


def _score(experiment: Experiment, variant: Variant) -> Measure:
    score = variant.metric(experiment.primary_metric)
    assert score is not None  # parse_record asks for the primary metric in every record
    return score


def _scored(experiment: Experiment, variant: Variant) -> str:
    score = _score(experiment, variant)
    show = number_format([score.mean])
    spread = "" if score.spread is None else f"\u00a0±\u00a0{show(score.spread)}"
    return f"{variant.name} ({show(score.mean)}{spread})"


def _duel(experiment: Experiment, ours: Variant, baseline: Variant) -> str:
    metric = metric_name(experiment.primary_metric)
    mine, theirs = _score(experiment, ours).mean, _score(experiment, baseline).mean
    if abs(mine - theirs) < _LEVEL * max(mine, theirs) or mine == theirs:
        return f"On {metric} {_scored(experiment, ours)} and the baseline {_scored(experiment, baseline)} are level."
    if _apart(experiment, ours, baseline) is False:
        return (
            f"Not separated: on {metric} {_scored(experiment, ours)} and the best baseline, "
            f"{_scored(experiment, baseline)}, differ by no more than the spread over seeds."
        )
    if mine > theirs:
        return (
            f"Ours was worse: the baseline {_scored(experiment, baseline)} has the lowest {metric}; "
            f"our best, {_scored(experiment, ours)}, is {gap(theirs, mine, falls=False)}."
        )
    sentence = (
        f"Ours was better: {_scored(experiment, ours)} has the lowest {metric}, {gap(mine, theirs, falls=True)} "
        f"than the best baseline, {_scored(experiment, baseline)}."
    )
    rest = [v for v in experiment.variants if v.role == "ours" and _score(experiment, v).finite]
    worse = [_scored(experiment, v) for v in rest if _score(experiment, v).mean > theirs]
    return sentence + (f" Worse than that baseline: {', '.join(worse)}." if worse else "")


def _apart(experiment: Experiment, ours: Variant, baseline: Variant) -> bool | None:
    """Whether the two differ by more than their spread over seeds, where that is known."""
    return _score(experiment, ours).is_apart(_score(experiment, baseline))


def _reversals(experiment: Experiment, ours: Variant, baseline: Variant) -> Iterator[str]:
    ahead = _score(experiment, ours).mean < _score(experiment, baseline).mean
    reversed_on = []
    for name in experiment.other_metrics:
        mine, theirs = ours.metric(name), baseline.metric(name)
        if mine is None or theirs is None or not mine.finite or not theirs.finite or mine.mean == theirs.mean:
            continue
        if (mine.mean < theirs.mean) != ahead:
            reversed_on.append(metric_name(name))
    if reversed_on:
        leader = baseline if ahead else ours
        yield f"By other metrics the order of these two is reversed: {leader.name} leads on {', '.join(reversed_on)}."


def _trend(experiment: Experiment) -> Iterator[str]:
    """Whether the error falls with every step of the number in which the variants differ."""
    factors = {v.name: v.factor for v in experiment.variants if v.factor and _score(experiment, v).finite}
    names = {name for name, _ in factors.values()}
    if len(names) != 1 or len(factors) < 3 or len({*factors.values()}) < len(factors):  # or several families
        return
    (name,) = names
    ordered = sorted((v for v in experiment.variants if v.name in factors), key=lambda v: factors[v.name][1])
    for split in experiment.splits:
        scores = [(v.name, m) for v in ordered if (m := v.metric(experiment.primary_metric, split)) and m.finite]
        if len(scores) < len(ordered):  # diverged on it, or was not measured
            continue
        rises = [
            f"from {one} to {other}" + (f" (by {100 * (after.mean / before.mean - 1):.0f} %)" if before.mean else "")
            for (one, before), (other, after) in itertools.pairwise(scores)
            if after.mean > before.mean
        ]
        where = "" if split == "test" else f" {split_name(split)}"
        trend = f"rises {join(rises)}" if rises else f"falls at every step from {scores[0][0]} to {scores[-1][0]}"
        yield f"With the {FACTOR_NAMES.get(name, name)} the error{where} {trend}."


def _cost(experiment: Experiment, ours: Variant, baseline: Variant) -> Iterator[str]:
    parts = []
    if ours.parameters and baseline.parameters:
        parts.append(f"has {ours.parameters / baseline.parameters:.2f} times the parameters of {baseline.name}")
    mine, theirs = ours.seconds(), baseline.seconds()
    if mine and theirs and experiment.machines == 1:
        whose = "its" if parts else f"{baseline.name}’s"
        parts.append(f"took {mine / theirs:.2f} times {whose} training time")
        told = [v.published("train_seconds") for v in (ours, baseline)]
        if told[0] and told[1]:
            parts[-1] += f" (paper: {told[0] / told[1]:.2f} times)"
    if parts:
        yield f"{ours.name} {' and '.join(parts)}."


def _unlike(experiment: Experiment) -> Iterator[str]:
    """Name whatever stands in the way of a comparison like for like."""
    if len(experiment.variants) < 2:
        return
    if len({tuple(r.seed for r in v.records) for v in experiment.variants}) > 1:
        yield "Not like for like: the variants were not run with the same seeds."
    if experiment.caveat:
        yield f"Not like for like: {experiment.caveat}"
    differing: dict[str, None] = {}
    for seed in sorted({r.seed for r in experiment.records}):
        runs = [
            flatten({"data": r.data, "config": r.config}) for r in experiment.records if r.seed == seed and r.trained
        ]
        for key in dict.fromkeys(key for run in runs for key in run):
            if len({repr(run.get(key)) for run in runs}) > 1:
                differing[key] = None
    for variant in experiment.variants:
        runs = [flatten({"data": r.data, "config": r.config}) for r in variant.records if r.trained]
        keys = dict.fromkeys(key for run in runs for key in run if key != _SEED)
        if changed := [key for key in keys if len({repr(run.get(key)) for run in runs}) > 1]:
            yield f"Not like for like: the seeds of {variant.name} differ in {', '.join(changed)}."
    # tuned alike, each to its best, is like for like
    tuned = {v.name: flatten({"config": v.records[0].config}) for v in experiment.variants if v.records[0].trained}
    if _RATE in differing:
        del differing[_RATE]
        rates = [f"{name} {config[_RATE]:g}" for name, config in tuned.items() if _RATE in config]
        yield f"Each model has its own learning rate: {', '.join(rates)}."
    if {_UNROLL, _EPOCHS} <= differing.keys() and len(
        {config.get(_UNROLL, 0) * config.get(_EPOCHS, 0) for config in tuned.values()}
    ) == 1:
        del differing[_UNROLL], differing[_EPOCHS]
        steps = [f"{name} {config[_UNROLL]} in {config[_EPOCHS]}" for name, config in tuned.items()]
        yield f"Each model unrolls its own number of steps, the more the fewer its epochs: {', '.join(steps)}."
    if differing:
        yield f"Not like for like: the variants differ in {', '.join(differing)}."
    if experiment.machines > 1:
        yield TIMES_APART
