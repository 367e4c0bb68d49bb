"""The result record: what one training run writes, checked on the way in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

import numpy as np

from kinn.records import SCHEMA

ROLES = ("baseline", "ours")


@dataclass(frozen=True)
class Record:
    """What one training run left behind: who was trained on what, and how well it did.

    The first six attributes are required in the file; whatever else is absent is simply not drawn.

    Args:
        metrics: by test set, "test" and "validation" and others such as "out_of_distribution", then by name.
        experiment_label: the experiment in a word or two, where those of a recipe stand side by side.
        factor: `{"name": "order", "value": 2}`, the number that sets the variants of an experiment apart.
        paper: the paper's figures by metric; those of another set than test by "<set>.<metric>", and its training time
            by "train_seconds".
        paper_ratio: by metric, how many times lower the paper's model is than this baseline.
        transfer: `{"resolution": 64, "dt_scale": 0.5, "metrics": {...}}` for each grid that it was evaluated on;
            `dt_scale` is None for models that are not told the grid spacing.
        spectra: `{"step": 40, "samples": 20, "truth": [...], "error": [...]}`, mean power over the test samples at
            wavenumbers 1, 2, ...; `step` is None for pairs.
        kind: "evaluation" of what `kinn evaluate` wrote; else a training run.
        device: kind of device that trained, "cpu" or "cuda"; "" in records that do not say.
        devices: how many of them trained together.
        compiled: what `torch.compile` made of the training steps; "" in records that do not say.
        test_samples: how many samples of the test set it was measured on; None for all.
        notes: what a reader of the tables must know of the setting.
        origin: where the record came from, for messages.
    """

    experiment: str
    variant: str
    role: str
    seed: int
    primary_metric: str
    metrics: dict[str, dict[str, float | None]]
    kind: str = ""
    recipe: str = ""
    title: str = ""
    experiment_label: str = ""
    budget: str = ""
    model: str = ""
    command: str = ""
    date: str = ""
    arguments: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    factor: dict[str, Any] = field(default_factory=dict)
    paper: dict[str, Any] = field(default_factory=dict)
    paper_ratio: dict[str, Any] = field(default_factory=dict)
    curves: dict[str, list[float]] = field(default_factory=dict)
    time: dict[str, float] = field(default_factory=dict)
    memory: dict[str, float] = field(default_factory=dict)
    hardware: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, Any] = field(default_factory=dict)
    fields: list[dict[str, Any]] = field(default_factory=list)
    spectra: list[dict[str, Any]] = field(default_factory=list)
    transfer: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    parameters: int | None = None
    device: str = ""
    devices: int = 1
    compiled: str = ""
    best_epoch: int | None = None
    test_samples: int | None = None
    origin: str = ""

    @property
    def trained(self) -> bool:
        """Whether the record says how it was trained on the data; what solves each sample by itself says "solver"."""
        return bool(self.config) and "solver" not in self.config

    @property
    def diverged(self) -> bool:
        """Whether the run has no figure for the primary metric; the others that its siblings have it may lack."""
        return self.metrics["test"].get(self.primary_metric) is None


_KINDS = {"str": (str, "text"), "int": (int, "a whole number"), "dict": (dict, "an object"), "list": (list, "a list")}
_IN_FILE = {f.name: _KINDS[re.split(r"\W", str(f.type))[0]] for f in fields(Record) if f.name != "origin"}
"""By the name of a field, what it must be, by the first word of its type."""

_REQUIRED = [f.name for f in fields(Record) if f.default is MISSING and f.default_factory is MISSING]


def parse_record(content: object, origin: str) -> Record:
    """Check one record and give its fields names.

    Args:
        content: what the JSON file holds.
        origin: where it came from, for messages.

    Raises:
        ValueError: it is no record, of another schema, incomplete, or a field is of the wrong kind.
    """
    if not isinstance(content, Mapping) or "schema" not in content:
        raise ValueError(f"{origin} is not a kinn result record: expected a JSON object with 'schema': {SCHEMA}")
    schema = content["schema"]
    if schema != SCHEMA:
        newer = isinstance(schema, int) and schema > SCHEMA
        advice = "; it was written by a newer kinn, please upgrade" if newer else ""
        raise ValueError(f"{origin} has schema {schema!r}, expected {SCHEMA}{advice}")
    missing = [name for name in _REQUIRED if content.get(name) is None]
    if missing:
        raise ValueError(f"{origin} is an incomplete result record: {', '.join(missing)} missing")
    values: dict[str, Any] = {}
    for name, (kind, word) in _IN_FILE.items():
        value = content.get(name)
        if value is None:
            continue
        if not isinstance(value, kind) or isinstance(value, bool):
            raise ValueError(f"{origin}: expected {name} to be {word}, got {value!r:.60}")
        values[name] = value
    record = Record(**values, origin=origin)
    if record.role not in ROLES:
        raise ValueError(f"{origin}: expected role to be one of {', '.join(ROLES)}, got {record.role!r}")
    for split, metrics in record.metrics.items():
        _check_metrics(metrics, f"metrics.{split}", origin)
    if record.primary_metric not in record.metrics.get("test", {}):
        raise ValueError(f"{origin}: primary metric {record.primary_metric!r} is not among its test metrics")
    for what in ("time", "memory", "paper", "paper_ratio"):
        for name, value in getattr(record, what).items():
            if not _number(value):
                raise ValueError(f"{origin}: expected {what}.{name} to be a number, got {value!r:.60}")
    _check_factor(record.factor, origin)
    for place in record.transfer:
        _check_transfer(place, origin)
    if not all(isinstance(note, str) for note in record.notes):
        raise ValueError(f"{origin}: expected notes to be a list of texts, got {record.notes!r:.60}")
    _check_curves(record.curves, origin)
    for sample in record.fields:
        _check_sample(sample, origin)
    for spectrum in record.spectra:
        _check_spectrum(spectrum, origin)
    return record


def _number(value: object) -> bool:
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))


def _check_metrics(metrics: object, what: str, origin: str) -> None:
    if not isinstance(metrics, dict) or not all(_number(value) for value in metrics.values()):
        raise ValueError(f"{origin}: expected {what} to map names to numbers, got {metrics!r:.60}")


def _check_factor(factor: Mapping[str, Any], origin: str) -> None:
    value = factor.get("value")
    if factor and (not isinstance(factor.get("name"), str) or value is None or not _number(value)):
        raise ValueError(f"{origin}: expected factor to hold a name and a number as its value, got {factor!r:.60}")


def _check_transfer(place: object, origin: str) -> None:
    """One resolution that the model was evaluated at."""
    resolution = place.get("resolution") if isinstance(place, dict) else None
    if not isinstance(place, dict) or not isinstance(resolution, int) or isinstance(resolution, bool) or resolution < 1:
        raise ValueError(f"{origin}: expected each of transfer to hold a resolution of at least 1, got {place!r:.60}")
    if not _number(place.get("dt_scale")):
        raise ValueError(f"{origin}: expected dt_scale at resolution {resolution} to be a number, got {place!r:.60}")
    _check_metrics(place.get("metrics"), f"metrics of transfer at resolution {resolution}", origin)


def _check_curves(curves: Mapping[str, Any], origin: str) -> None:
    for name, values in curves.items():
        if values is not None and not (isinstance(values, list) and all(map(_number, values))):
            raise ValueError(f"{origin}: expected curves.{name} to be a list of numbers, got {values!r:.60}")
        places = curves.get("rollout_step" if name.startswith("rollout") else "epoch")
        if values and places and len(values) != len(places):
            raise ValueError(f"{origin}: curves.{name} has {len(values)} values for {len(places)} places")


def _check_spectrum(spectrum: object, origin: str) -> None:
    if isinstance(spectrum, dict) and isinstance(spectrum.get("samples"), int):
        truth, error = spectrum.get("truth"), spectrum.get("error")
        alike = isinstance(truth, list) and isinstance(error, list) and len(truth) == len(error)
        if alike and all(_number(value) for values in (truth, error, [spectrum.get("step")]) for value in values or ()):
            return
    raise ValueError(
        f"{origin}: expected each of spectra to hold samples, and truth and error of one length, got {spectrum!r:.60}"
    )


def _check_sample(sample: object, origin: str) -> None:
    if not isinstance(sample, dict) or not {"truth", "prediction"} <= sample.keys():
        raise ValueError(f"{origin}: expected each of fields to hold truth and prediction, got {sample!r:.60}")
    step = sample.get("step")
    if step is not None and (not isinstance(step, int) or isinstance(step, bool)):
        raise ValueError(f"{origin}: expected step of {sample.get('label')!r} to be a whole number, got {step!r:.60}")
    shapes = {}
    for name in ("truth", "prediction", "input"):
        if sample.get(name) is None and name == "input":
            continue
        try:
            shapes[name] = np.asarray(sample[name], dtype=float).shape
        except (ValueError, TypeError):
            shapes[name] = ()
        if len(shapes[name]) != 2 or 0 in shapes[name]:
            raise ValueError(f"{origin}: expected {name} of {sample.get('label')!r} to be a rectangular 2-D array")
    if shapes["truth"] != shapes["prediction"]:
        raise ValueError(
            f"{origin}: truth and prediction of {sample.get('label')!r} differ in shape, "
            f"{shapes['truth']} and {shapes['prediction']}"
        )
