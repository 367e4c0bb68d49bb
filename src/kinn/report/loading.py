"""Result records, read from files and grouped by experiment and variant."""

from __future__ import annotations

import json
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

from kinn.report.records import Experiment, Variant, natural_order
from kinn.report.schema import ROLES, Record, parse_record

Source: TypeAlias = "str | Path | Mapping[str, Any] | Sequence[str | Path | Mapping[str, Any]]"


def load_records(source: Source) -> list[Experiment]:
    """Read result records and group them by experiment and variant.

    In a folder every ``*.json`` at any depth is looked at, and files that are no result records (model metadata, for
    example) are passed over; a file that is named must be a record. Of two records of the same run the newer counts.

    Args:
        source: a folder, a file, a record as a mapping, or a list of these.

    Returns:
        The experiments in the order of their names, each with its variants (baselines first).

    Raises:
        FileNotFoundError: there is no such file or folder.
        ValueError: no record was found, or a file is truncated, foreign, written by a newer version, or contradicts
            the others.

    Example:
        >>> run = {"schema": 1, "experiment": "poisson", "variant": "UKNO", "role": "ours", "seed": 0,
        ...        "primary_metric": "relative_l2", "metrics": {"test": {"relative_l2": 0.01}}}
        >>> load_records(run)[0].variants[0].metric("relative_l2").mean
        0.01
    """
    items = [source] if isinstance(source, (str, Path, Mapping)) else list(source)
    records: list[Record] = []
    for item in items:
        if isinstance(item, Mapping):
            records.append(parse_record(item, "the record given"))
        else:
            records.extend(_read(Path(item)))
    if not records:
        raise ValueError(f"no result records in {', '.join(str(item) for item in items) or 'an empty list'}")
    return _group(records)


def _read(path: Path) -> list[Record]:
    if path.is_dir():
        contents = ((file, _parse_json(file)) for file in sorted(path.rglob("*.json")))
        return [parse_record(content, str(file)) for file, content in contents if _looks_like_record(content)]
    if not path.exists():
        raise FileNotFoundError(f"no such file or folder: {path}")
    return [parse_record(_parse_json(path), str(path))]


def _looks_like_record(content: object) -> bool:
    return isinstance(content, Mapping) and {"schema", "experiment", "variant"} <= content.keys()


def _parse_json(path: Path) -> object:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid JSON, it may be truncated: {error}") from None


def _group(records: list[Record]) -> list[Experiment]:
    newest: dict[tuple[str, str, str, str, int], Record] = {}
    for record in records:
        run = (record.recipe, record.experiment, record.budget, record.variant, record.seed)
        if run in newest:
            older, newer = sorted((newest[run], record), key=lambda r: r.date)
            alike = older.arguments == newer.arguments and older.data == newer.data
            if record.kind == "evaluation" and not alike:
                raise ValueError(
                    f"{older.origin} and {newer.origin} are both seed {record.seed} of {record.variant}, but of other "
                    f"models or data: {_APART}"
                )
            message = f"{newer.origin} replaces {older.origin}: both are seed {record.seed} of {record.variant}"
            warnings.warn(message, stacklevel=3)
            record = newer
        newest[run] = record
    experiments: dict[tuple[str, str, str], dict[str, list[Record]]] = {}
    for record in newest.values():
        variants = experiments.setdefault((record.recipe, record.experiment, record.budget), {})
        variants.setdefault(record.variant, []).append(record)
    ordered = sorted(experiments.items(), key=lambda item: [natural_order(part) for part in item[0]])
    found, places = [], Counter[str]()
    for experiment in (_experiment(*key, variants) for key, variants in ordered):
        places[experiment.slug] += 1
        found.append(replace(experiment, place=places[experiment.slug]))
    return found


_APART = "give them names of their own (kinn evaluate --name), or a folder of their own"


def _experiment(recipe: str, name: str, budget: str, groups: dict[str, list[Record]]) -> Experiment:
    metrics = sorted({record.primary_metric for runs in groups.values() for record in runs})
    if len(metrics) > 1:
        raise ValueError(f"the records of {name} disagree on their primary metric: {', '.join(metrics)}")
    evaluated = {repr(r.data.get("file")): r.origin for runs in groups.values() for r in runs if r.kind == "evaluation"}
    if len(evaluated) > 1:
        raise ValueError(f"{' and '.join(evaluated.values())} are of different data under one name: {_APART}")
    variants = []
    for variant, runs in groups.items():
        for what in ("role", "parameters", "factor"):
            values = {str(getattr(record, what)) for record in runs} - {"{}", "None"}  # a diverged run knows less
            if len(values) > 1:
                files = ", ".join(record.origin for record in runs)
                raise ValueError(
                    f"the records of {variant} in {name} disagree on {what}, {sorted(values)}: {_APART}; {files}"
                )
        variants.append(Variant(variant, runs[0].role, tuple(sorted(runs, key=lambda r: r.seed))))
    variants.sort(key=lambda v: (ROLES.index(v.role), natural_order(v.name)))
    title = next((r.title for runs in groups.values() for r in runs if r.title), name)
    label = next((r.experiment_label for runs in groups.values() for r in runs if r.experiment_label), name)
    return Experiment(name, recipe, budget, title, label, metrics[0], tuple(variants))
