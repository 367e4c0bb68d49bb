"""Errors of predicted fields: root mean square, normalised, largest, relative L1 and L2; at once or batch by batch.

Fields are `(batch, channel, *space)`. Where there is a time axis, `time_axis` names it: trajectories
`(batch, time, channel, *space)` have `time_axis=1`. The first axis is always the batch, the first of the others that is
not time is the channel, the rest is space.

Every value is weighted by sample, never an average of batch averages, and accumulates in float64. A ratio whose truth
is zero everywhere is 0 where the prediction is zero too and infinite where it is not. NaN in a field gives NaN.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float

METRICS = ("rmse", "nrmse", "max_error", "relative_l1_median", "relative_l1_mean", "relative_l2")
_CHUNK = 2**22  # values converted to float64 at once: 32 MiB


def rmse(
    prediction: Float[Tensor, "b *rest"], truth: Float[Tensor, "b *rest"], *, time_axis: int | None = None
) -> float:
    """Root mean square error: mean over batch, channel and time of `sqrt(mean_space (p - y)^2)`, in the field's unit.

    >>> rmse(torch.tensor([[[3.0, 4.0]]]), torch.tensor([[[0.0, 0.0]]])) == 12.5**0.5
    True
    """
    return _gathered(prediction, truth, time_axis).rmse()


def nrmse(
    prediction: Float[Tensor, "b *rest"], truth: Float[Tensor, "b *rest"], *, time_axis: int | None = None
) -> float:
    """Normalised error: mean over batch, channel, time of `sqrt(mean_space (p - y)^2) / sqrt(mean_space y^2)`.

    >>> nrmse(torch.tensor([[[3.0, 5.0]]]), torch.tensor([[[3.0, 4.0]]]))
    0.2
    """
    return _gathered(prediction, truth, time_axis).nrmse()


def max_error(
    prediction: Float[Tensor, "b *rest"], truth: Float[Tensor, "b *rest"], *, time_axis: int | None = None
) -> float:
    """Mean over channel and time of the largest `|p - y|` over batch and space, in the field's unit.

    Depends on the evaluation set as a whole: it is not a mean over samples.

    >>> max_error(torch.tensor([[[1.0, 2.0]], [[0.0, 5.0]]]), torch.zeros(2, 1, 2))
    5.0
    """
    return _gathered(prediction, truth, time_axis).max_error()


def relative_l1(
    prediction: Float[Tensor, "b *rest"], truth: Float[Tensor, "b *rest"], *, reduction: str = "median"
) -> float:
    """Median or mean over samples of `mean |p - y| / mean |y|`, **in percent**; the means run over all other axes.

    The median of an even number of samples is the mean of the two in the middle.

    Args:
        prediction: p.
        truth: y, of the same shape.
        reduction: "median" or "mean".

    >>> relative_l1(torch.tensor([[[1.0]], [[3.0]], [[9.0]]]), torch.tensor([[[2.0]], [[2.0]], [[2.0]]]))
    50.0
    """
    return _gathered(prediction, truth, None).relative_l1(reduction)


def relative_l2(prediction: Float[Tensor, "b *rest"], truth: Float[Tensor, "b *rest"]) -> float:
    """Mean over samples of `||p - y|| / ||y||`, as a fraction; the norms run over all other axes, time included.

    >>> relative_l2(torch.tensor([[[3.0, 5.0]]]), torch.tensor([[[3.0, 4.0]]]))
    0.2
    """
    return _gathered(prediction, truth, None).relative_l2()


def relative_l2_per_step(
    prediction: Float[Tensor, "b *rest"], truth: Float[Tensor, "b *rest"], *, time_axis: int
) -> list[float]:
    """One value per rollout step: mean over samples of `||p - y|| / ||y||`, the norms over channel and space.

    >>> truth = torch.ones(1, 2, 1, 4)
    >>> relative_l2_per_step(truth * torch.tensor([1.0, 1.5]).view(1, 2, 1, 1), truth, time_axis=1)
    [0.0, 0.5]
    """
    return _gathered(prediction, truth, time_axis).relative_l2_per_step()


class FieldErrors:
    """The same errors for a set that comes in batches: the result does not depend on how it was cut.

    Keeps four sums per sample, time and channel (of `|p - y|`, `|y|` and their squares), not the fields.

    Args:
        time_axis: the axis of time in what :meth:`update` is given, or None where there is none.

    >>> errors = FieldErrors()
    >>> for prediction in (torch.zeros(3, 1, 4), torch.ones(1, 1, 4)):  # an uneven last batch
    ...     errors.update(prediction, torch.ones_like(prediction))
    >>> errors.compute()["relative_l2"], errors.samples
    (0.75, 4)
    """

    def __init__(self, *, time_axis: int | None = None) -> None:
        self.time_axis = time_axis
        self._sums: list[Tensor] = []  # each (4, batch, time, channel): |e|, |y|, e^2, y^2
        self._points: list[Tensor] = []  # each (batch,): points in space, which may differ from batch to batch
        self._largest: Tensor | None = None  # (time, channel)

    @property
    def samples(self) -> int:
        """Number of samples seen so far."""
        return sum(sums.shape[1] for sums in self._sums)

    def update(self, prediction: Float[Tensor, "b *rest"], truth: Float[Tensor, "b *rest"]) -> None:
        """Take in one batch.

        Raises:
            ValueError: if the shapes differ, an axis is missing, a field has no points, or the number of time steps
                or channels is not that of the batches before.
            TypeError: if a field is no tensor, or complex.
        """
        _check(prediction, truth, self.time_axis)
        if prediction.shape[0] == 0:
            return
        per_chunk = max(1, _CHUNK // max(1, prediction[0].numel()))
        for p, y in zip(prediction.split(per_chunk), truth.split(per_chunk)):
            y = _canonical(y, self.time_axis)
            error = (_canonical(p, self.time_axis) - y).abs()
            sums = torch.stack([error.sum(-1), y.abs().sum(-1), error.square().sum(-1), y.square().sum(-1)])
            points = torch.full((len(y),), y.shape[-1], dtype=torch.float64)
            where = f"fields of shape {tuple(prediction.shape)}"
            self._take(error.amax(dim=(0, 3)).cpu(), [sums.cpu()], [points], where)

    def merge(self, other: FieldErrors) -> None:
        """Take in what another has seen, as if its batches came after these.

        Raises:
            ValueError: if the number of time steps or channels is not that of the batches here.
        """
        if other._largest is not None:
            self._take(other._largest, other._sums, other._points, "the errors to merge")

    def _take(self, largest: Tensor, sums: list[Tensor], points: list[Tensor], where: str) -> None:
        if self._largest is not None and largest.shape != self._largest.shape:
            raise ValueError(
                f"expected {_counts(self._largest)} as in the batches before, got {_counts(largest)} in {where}"
            )
        self._largest = largest if self._largest is None else torch.maximum(self._largest, largest)
        self._sums.extend(sums)
        self._points.extend(points)

    def compute(self) -> dict[str, float]:
        """All errors by name: rmse, nrmse, max_error, relative_l1_median and _mean (percent), relative_l2."""
        return {
            "rmse": self.rmse(),
            "nrmse": self.nrmse(),
            "max_error": self.max_error(),
            "relative_l1_median": self.relative_l1("median"),
            "relative_l1_mean": self.relative_l1("mean"),
            "relative_l2": self.relative_l2(),
        }

    def per_channel(self) -> list[dict[str, float]]:
        """For each channel what :meth:`compute` would give for that channel alone.

        >>> errors = FieldErrors()
        >>> errors.update(torch.tensor([[[1.0, 1.0], [5.0, 5.0]]]), torch.tensor([[[1.0, 1.0], [4.0, 4.0]]]))
        >>> [errors["relative_l2"] for errors in errors.per_channel()]
        [0.0, 0.25]
        """
        sums, found = self._all(), []
        assert self._largest is not None
        for channel in range(sums.shape[-1]):
            alone = FieldErrors(time_axis=self.time_axis)
            alone._sums, alone._points = [sums[..., channel, None]], self._points
            alone._largest = self._largest[:, channel, None]
            found.append(alone.compute())
        return found

    def rmse(self) -> float:
        """See :func:`rmse`."""
        squares = self._all()[2]
        return (squares / torch.cat(self._points)[:, None, None]).sqrt().mean().item()

    def nrmse(self) -> float:
        """See :func:`nrmse`."""
        _, _, squares, truth_squares = self._all()
        return _ratio(squares, truth_squares).sqrt().mean().item()

    def max_error(self) -> float:
        """See :func:`max_error`."""
        self._all()
        assert self._largest is not None
        return self._largest.mean().item()

    def relative_l1(self, reduction: str = "median") -> float:
        """See :func:`relative_l1`."""
        if reduction not in ("median", "mean"):
            raise ValueError(f'expected reduction "median" or "mean", got {reduction!r}')
        per_sample = 100 * self.relative_l1_per_sample()
        return (_median(per_sample) if reduction == "median" else per_sample.mean()).item()

    def relative_l2(self) -> float:
        """See :func:`relative_l2`."""
        return self.relative_l2_per_sample().mean().item()

    def relative_l1_per_sample(self) -> Float[Tensor, " samples"]:
        """`mean |p - y| / mean |y|` of every sample in the order they came, as a fraction, float64."""
        absolute, truth_absolute, _, _ = self._all()
        return _ratio(absolute.sum((1, 2)), truth_absolute.sum((1, 2)))

    def relative_l2_per_sample(self) -> Float[Tensor, " samples"]:
        """`||p - y|| / ||y||` of every sample in the order they came, float64."""
        _, _, squares, truth_squares = self._all()
        return _ratio(squares.sum((1, 2)), truth_squares.sum((1, 2))).sqrt()

    def relative_l2_per_step(self) -> list[float]:
        """See :func:`relative_l2_per_step`; needs a time axis."""
        if self.time_axis is None:
            raise ValueError("errors per step need a time axis: expected FieldErrors(time_axis=...), got None")
        _, _, squares, truth_squares = self._all()
        return _ratio(squares.sum(2), truth_squares.sum(2)).sqrt().mean(0).tolist()

    def _all(self) -> Tensor:
        if not self._sums:
            raise ValueError("expected at least one sample, got none")
        self._sums = [torch.cat(self._sums, dim=1)]
        self._points = [torch.cat(self._points)]
        return self._sums[0]


def _gathered(prediction: Tensor, truth: Tensor, time_axis: int | None) -> FieldErrors:
    errors = FieldErrors(time_axis=time_axis)
    errors.update(prediction, truth)
    return errors


def _check(prediction: Tensor, truth: Tensor, time_axis: int | None) -> None:
    for field in (prediction, truth):
        if not isinstance(field, Tensor):
            raise TypeError(f"expected fields as a torch.Tensor, got {type(field).__name__}: torch.as_tensor makes one")
    if prediction.shape != truth.shape:
        raise ValueError(
            f"expected prediction and truth of one shape, got {tuple(prediction.shape)} and {tuple(truth.shape)}"
        )
    if prediction.is_complex() or truth.is_complex():
        raise TypeError(f"expected real fields, got {prediction.dtype} and {truth.dtype}")
    ndim, layout = prediction.ndim, "(batch, channel, *space)"
    if time_axis is not None:
        layout += f" with time as axis {time_axis}"
        if not -ndim <= time_axis < ndim or time_axis % ndim == 0:
            raise ValueError(f"expected a time axis between 1 and {ndim - 1}, got {time_axis}")
    if ndim < (2 if time_axis is None else 3) or 0 in prediction.shape[1:]:
        raise ValueError(f"expected fields {layout}, none of them empty, got shape {tuple(prediction.shape)}")


def _canonical(field: Tensor, time_axis: int | None) -> Tensor:
    """Field as float64 `(batch, time, channel, points)`."""
    field = field.detach()
    if field.device.type == "mps":  # has no float64
        field = field.cpu()
    field = field.unsqueeze(1) if time_axis is None else field.movedim(time_axis, 1)
    return field.to(torch.float64).reshape(*field.shape[:3], -1)


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Quotient with 0/0 = 0 (an exact prediction of nothing); x/0 stays infinite."""
    exact = (numerator == 0) & (denominator == 0)
    return torch.where(exact, 0.0, numerator / denominator)


def _median(values: Tensor) -> Tensor:
    if values.isnan().any():
        return values.new_tensor(float("nan"))
    ordered = values.sort().values
    return (ordered[(len(values) - 1) // 2] + ordered[len(values) // 2]) / 2


def _counts(largest: Tensor) -> str:
    return f"{largest.shape[0]} time steps and {largest.shape[1]} channels"
