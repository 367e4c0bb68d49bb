"""How good a model is on a data set: metrics over the whole set, errors per rollout step, sample fields."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from kinn.data import OperatorDataset, TrajectoryDataset, TrajectoryWindows
from kinn.metrics import FieldErrors
from kinn.spectrum import power_spectrum
from kinn.train.loading import Items
from kinn.train.prediction import Rollout, TrainedModel

if TYPE_CHECKING:
    from kinn.train.tasks import OperatorTask, RolloutTask


_Kind = TypeVar("_Kind")


class Scores:
    """The errors of a set in physical and in normalised units, batch by batch.

    Args:
        rollout: fields have a time axis, `(B, T, C, *grid)`.
    """

    def __init__(self, *, rollout: bool) -> None:
        self.physical = FieldErrors(time_axis=1 if rollout else None)
        self.normalized = FieldErrors(time_axis=1 if rollout else None)

    def update(self, trained: TrainedModel, prediction: Tensor, truth: Tensor) -> Tensor:
        """Take in a batch: prediction in normalised, truth in physical units; the prediction in physical ones."""
        physical = trained.output_normalizer.decode(prediction)
        self.physical.update(physical, truth)
        self.normalized.update(prediction, trained.output_normalizer.encode(truth))
        return physical

    def merge(self, other: Scores) -> None:
        """Take in what another has seen, as if its batches came after these."""
        self.physical.merge(other.physical)
        self.normalized.merge(other.normalized)

    def compute(self) -> dict[str, float]:
        """Metrics of `kinn.metrics` by name; those in normalised units end in `_normalized`."""
        normalized = {f"{name}_normalized": value for name, value in self.normalized.compute().items()}
        return {**self.physical.compute(), **normalized}


class Spectra:
    """Power spectra of truth and error, in physical units, averaged over a set, batch by batch.

    Args:
        steps: of the rollout, 1 the first, -1 the last; None for pairs, of fields without a time axis.
    """

    def __init__(self, steps: Sequence[int] | None) -> None:
        self.steps, self.samples = steps, 0
        self.sums: dict[int | None, dict[str, Any]] = {}

    def update(self, prediction: Tensor, truth: Tensor) -> None:
        """Take in a batch, `(B, T, C, *grid)` or without the time; of the channels the first counts."""
        self.samples += len(truth)
        for step in [None] if self.steps is None else steps_of(self.steps, truth.shape[1]):
            sums = self.sums.setdefault(step, {"truth": 0.0, "error": 0.0})
            for name, values in (("truth", truth), ("error", prediction - truth)):
                images = (values if step is None else values[:, step - 1])[:, 0].double().cpu().numpy()
                sums[name] = sums[name] + power_spectrum(images, images.ndim - 1)[1].sum(axis=0)

    def compute(self) -> list[dict[str, Any]]:
        """By step, as a result record holds them: `samples`, and the powers of wavenumbers 1, 2, ... to five digits."""
        found = []
        for step, sums in self.sums.items():
            means = {name: _rounded(total / self.samples) for name, total in sums.items()}
            found.append({"step": step, "samples": self.samples, **means})
        return found


@dataclass
class Evaluation:
    """What `evaluate` found.

    Args:
        metrics: by name, over all samples (and steps); `..._normalized` in normalised units.
        channels: of fields with several channels, the metrics of each alone, in physical units, by its name in the
            data's metadata, or its number.
        rollout_relative_l2: mean over samples of the relative L2 error at each step, in physical units; empty for
            one-shot operators.
        fields: sample fields, as the result records hold them (see `evaluate`).
        spectra: mean power spectra of truth and error, as they hold them (see `Spectra`).
        seconds: of the evaluation.
    """

    metrics: dict[str, float]
    channels: dict[str, dict[str, float]] = field(default_factory=dict)
    rollout_relative_l2: list[float] = field(default_factory=list)
    fields: list[dict[str, Any]] = field(default_factory=list)
    spectra: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0


@torch.no_grad()
def evaluate(
    model: TrainedModel | OperatorTask | RolloutTask,
    dataset: OperatorDataset | TrajectoryDataset,
    *,
    batch_size: int = 32,
    dt_scale: float = 1.0,
    field_samples: Sequence[int] = (),
    field_steps: Sequence[int] = (-1,),
    spectra: bool = False,
    predictions: Callable[[Tensor], object] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Measure a model on a data set; rollouts go from the first frames of each trajectory to its end.

    The metrics do not depend on the batch size, beyond rounding.

    Args:
        model: a trained model, or a task that holds one.
        dataset: pairs for an operator, trajectories for a model that forecasts.
        batch_size: samples at once.
        dt_scale: ratio of the grid spacing to that of the training, for models that are to be told it.
        field_samples: numbers of samples whose fields to return, as dicts with `label`, `step` (None for operators),
            and `input`, `truth`, `prediction`: nested lists, 5 significant digits, of the first channel (and the middle
            slice of 3-D grids).
        field_steps: the rollout's steps to return them at; 1 is the first, -1 the last.
        spectra: whether to return the mean power spectra over all samples, at the same steps.
        predictions: called with the predicted fields of each batch, in physical units and the order of the samples,
            `(b, C, *grid)` or `(b, steps, C, *grid)`.
        progress: called with (samples done, all samples).

    Raises:
        ValueError: if the data is of the wrong kind, or does not fit the model.
        IndexError: if a sample or step does not exist.
    """
    trained = model if isinstance(model, TrainedModel) else model.trained
    items = evaluation_items(dataset, trained.rollout)
    if isinstance(items, TrajectoryWindows):
        steps_of(field_steps, items.n_future)  # a slip in them should not wait for the rollouts
    started, was_training = time.perf_counter(), trained.model.training
    trained.model.eval()
    try:
        scores, done = Scores(rollout=trained.rollout is not None), 0
        powers = Spectra(None if trained.rollout is None else field_steps)
        for start in range(0, len(items), batch_size):
            batch = items.batch(range(start, min(start + batch_size, len(items))))
            given, truth = (fields.to(trained.device) for fields in batch)
            prediction = trained.predict_normalized(given, truth.shape[1], dt_scale=dt_scale)
            physical = scores.update(trained, prediction, truth)
            if spectra:
                powers.update(physical, truth)
            if predictions is not None:
                predictions(physical)
            done += len(given)
            if progress is not None:
                progress(done, len(dataset))
        fields = _sample_fields(trained, items, field_samples, field_steps, dt_scale)
    finally:
        trained.model.train(was_training)
    channels = scores.physical.per_channel()
    return Evaluation(
        metrics=scores.compute(),
        channels=dict(zip(_channel_names(dataset, len(channels)), channels)) if len(channels) > 1 else {},
        rollout_relative_l2=[] if trained.rollout is None else scores.physical.relative_l2_per_step(),
        fields=fields,
        spectra=powers.compute(),
        seconds=time.perf_counter() - started,
    )


def evaluation_items(dataset: Any, rollout: Rollout | None) -> Items:
    """Pairs (given, truth): the data set's own, or each trajectory's first frames and all that follow.

    Raises:
        ValueError: if the data is of the other kind, or trajectories have no frame beyond the history.
    """
    if rollout is None:
        return expect_kind(dataset, OperatorDataset)
    dataset = expect_kind(dataset, TrajectoryDataset)
    if dataset.n_frames <= rollout.n_history:
        raise ValueError(
            f"a rollout from {rollout.n_history} frames needs longer trajectories than these, of {dataset.n_frames}"
        )
    return TrajectoryWindows(dataset, n_history=rollout.n_history, n_future=dataset.n_frames - rollout.n_history)


def expect_kind(dataset: Any, kind: type[_Kind]) -> _Kind:
    """The data set, if it is of the kind that the task needs.

    Raises:
        ValueError: that says what is needed and what came.
    """
    if not isinstance(dataset, kind):
        words = {OperatorDataset: "pairs of fields", TrajectoryDataset: "trajectories"}
        came = words.get(type(dataset), type(dataset).__name__)
        raise ValueError(f"expected {words.get(kind, kind.__name__)}, but the data are {came}")
    return dataset


def _channel_names(dataset: Any, count: int) -> list[str]:
    names = dataset.metadata.get("channels")
    fits = isinstance(names, (list, tuple)) and len(names) == len(set(map(str, names))) == count
    return list(map(str, names if fits else range(count)))


def _sample_fields(
    trained: TrainedModel, items: Any, samples: Sequence[int], steps: Sequence[int], dt_scale: float
) -> list[dict[str, Any]]:
    found = []
    for sample in samples:
        given, truth = items.batch([sample])
        prediction = trained.predict_normalized(given.to(trained.device), truth.shape[1], dt_scale=dt_scale)
        prediction = trained.output_normalizer.decode(prediction)
        if trained.rollout is None:
            found.append(sample_field(f"sample {sample}", None, given[0, 0], truth[0, 0], prediction[0, 0]))
            continue
        for step in steps_of(steps, truth.shape[1]):
            fields = given[0, -1, 0], truth[0, step - 1, 0], prediction[0, step - 1, 0]
            found.append(sample_field(f"sample {sample}", step, *fields))
    return found


def steps_of(wanted: Sequence[int], steps: int) -> list[int]:
    """Steps of a rollout of so many, each once: 1 is the first; of those wanted -1 is the last.

    Raises:
        IndexError: if the rollout has no such step.

    Example:
        >>> steps_of((1, 10, -1), 10)
        [1, 10]
    """
    for step in wanted:
        if step == 0 or not -steps <= step <= steps:
            raise IndexError(f"there is no rollout step {step}: steps count from 1 to {steps}")
    return list(dict.fromkeys(step if step > 0 else steps + 1 + step for step in wanted))


def sample_field(label: str, step: int | None, given: Tensor, truth: Tensor, prediction: Tensor) -> dict[str, Any]:
    """One entry of a result record's `fields`: three images to five digits; lines `(n, 1)`, of volumes a slice."""
    fields = {"input": given, "truth": truth, "prediction": prediction}
    return {"label": label, "step": step, **{name: _rounded_image(values) for name, values in fields.items()}}


def _rounded_image(values: Tensor) -> list[list[float]]:
    while values.dim() > 2:
        values = values[len(values) // 2]
    return [_rounded(row) for row in values.reshape(len(values), -1)]


def _rounded(values: Tensor | np.ndarray) -> list[float]:
    return [float(f"{number:.5g}") for number in values.tolist()]
