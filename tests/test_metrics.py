"""Metrics against values worked out by hand, and their independence of how a set is cut into batches."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from kinn.metrics import METRICS, FieldErrors, max_error, nrmse, relative_l1, relative_l2, relative_l2_per_step, rmse

# Two samples, two channels, two points each.
TRUTH = torch.tensor([[[3.0, 4.0], [1.0, 1.0]], [[0.0, 2.0], [2.0, 2.0]]])
ERROR = torch.tensor([[[1.0, -1.0], [0.0, 2.0]], [[0.0, 0.0], [-3.0, 4.0]]])
PREDICTION = TRUTH + ERROR


def fields(*shape: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)


def test_values_by_hand():
    per_sample_channel = [1.0, math.sqrt(2.0), 0.0, math.sqrt(12.5)]
    truth_rms = [math.sqrt(12.5), 1.0, math.sqrt(2.0), 2.0]
    assert rmse(PREDICTION, TRUTH) == pytest.approx(sum(per_sample_channel) / 4, rel=1e-15)
    expected = sum(e / t for e, t in zip(per_sample_channel, truth_rms)) / 4
    assert nrmse(PREDICTION, TRUTH) == pytest.approx(expected, rel=1e-15)
    # Largest over batch and space: 1 in the first channel, 4 in the second; their mean.
    assert max_error(PREDICTION, TRUTH) == 2.5
    # Sample 1: |e| sums to 4, |y| to 9; sample 2: 7 and 6.
    assert relative_l1(PREDICTION, TRUTH, reduction="mean") == pytest.approx(50 * (4 / 9 + 7 / 6), rel=1e-15)
    # Sample 1: e^2 sums to 6, y^2 to 27; sample 2: 25 and 12.
    expected = (math.sqrt(6 / 27) + math.sqrt(25 / 12)) / 2
    assert relative_l2(PREDICTION, TRUTH) == pytest.approx(expected, rel=1e-15)


def test_median_is_over_samples():
    truth = torch.ones(4, 1, 3)
    prediction = truth + torch.tensor([0.1, 10.0, 0.3, 0.2]).view(4, 1, 1)
    assert relative_l1(prediction[:3], truth[:3]) == pytest.approx(30.0, rel=1e-6)
    assert relative_l1(prediction, truth) == pytest.approx(25.0, rel=1e-6)
    assert relative_l1(prediction, truth, reduction="mean") == pytest.approx(265.0, rel=1e-6)


def test_time_axis():
    # One sample, two steps, one channel: e^2 sums 1 and 8, y^2 4 and 16.
    truth = torch.tensor([[[[2.0, 0.0]], [[0.0, 4.0]]]])
    prediction = truth + torch.tensor([[[[1.0, 0.0]], [[2.0, 2.0]]]])
    assert relative_l2_per_step(prediction, truth, time_axis=1) == pytest.approx([0.5, math.sqrt(0.5)], rel=1e-15)
    assert relative_l2(prediction, truth) == pytest.approx(math.sqrt(9 / 20), rel=1e-15)
    assert rmse(prediction, truth, time_axis=1) == pytest.approx((math.sqrt(0.5) + 2) / 2, rel=1e-15)
    assert nrmse(prediction, truth, time_axis=1) == pytest.approx((0.5 + math.sqrt(0.5)) / 2, rel=1e-15)
    assert max_error(prediction, truth, time_axis=1) == 1.5


def test_error_of_a_step_is_one_norm_over_its_channels():
    truth = torch.tensor([[[[3.0, 0.0], [0.0, 4.0]]]])  # one sample, one step, two channels
    prediction = truth + torch.tensor([[[[3.0], [0.0]]]])
    assert relative_l2_per_step(prediction, truth, time_axis=1) == pytest.approx([math.sqrt(18) / 5], rel=1e-15)


def test_time_axis_anywhere():
    prediction, truth = fields(3, 5, 2, 4, 6)
    moved = prediction.movedim(1, -1), truth.movedim(1, -1)  # (batch, channel, *space, time)
    for metric in (rmse, nrmse, max_error):
        assert metric(*moved, time_axis=-1) == pytest.approx(metric(prediction, truth, time_axis=1), rel=1e-14)
    per_step = relative_l2_per_step(prediction, truth, time_axis=1)
    assert relative_l2_per_step(*moved, time_axis=4) == pytest.approx(per_step, rel=1e-14)
    assert len(per_step) == 5


@pytest.mark.parametrize("batch", [1, 2, 3, 7, 10])
def test_result_does_not_depend_on_the_batch_size(batch):
    prediction, truth = fields(10, 4, 2, 5, 3)
    prediction[-1] *= 50  # one bad sample in a short last batch: an average of batch averages would tell
    whole, cut = FieldErrors(time_axis=1), FieldErrors(time_axis=1)
    whole.update(prediction, truth)
    for p, y in zip(prediction.split(batch), truth.split(batch)):
        cut.update(p, y)
    assert cut.samples == 10
    assert cut.compute() == pytest.approx(whole.compute(), rel=1e-14)
    assert cut.relative_l2_per_step() == pytest.approx(whole.relative_l2_per_step(), rel=1e-14)
    assert relative_l2_per_step(prediction, truth, time_axis=1) == whole.relative_l2_per_step()


def test_merged_errors_are_those_of_the_whole():
    prediction, truth = fields(7, 4, 2, 5)
    whole, merged = FieldErrors(time_axis=1), FieldErrors(time_axis=1)
    whole.update(prediction, truth)
    for part in (slice(0, 3), slice(3, 3), slice(3, 7)):
        errors = FieldErrors(time_axis=1)
        errors.update(prediction[part], truth[part])
        merged.merge(errors)
    assert merged.samples == 7
    assert merged.compute() == whole.compute()
    assert merged.relative_l2_per_step() == whole.relative_l2_per_step()
    other = FieldErrors(time_axis=1)
    other.update(prediction[:, :3], truth[:, :3])
    with pytest.raises(ValueError, match="expected 4 time steps and 2 channels as in the batches before, got 3 time"):
        merged.merge(other)


@pytest.mark.parametrize("time_axis", [None, 1])
def test_errors_of_a_channel_are_those_of_the_channel_alone(time_axis):
    prediction, truth = fields(7, 4, 3, 5) if time_axis else fields(7, 3, 5)
    together = FieldErrors(time_axis=time_axis)
    for part in (slice(0, 3), slice(3, 7)):
        together.update(prediction[part], truth[part])
    found = together.per_channel()
    assert len(found) == 3
    for channel, errors in enumerate(found):
        alone = FieldErrors(time_axis=time_axis)
        alone.update(*(field[..., channel, None, :] for field in (prediction, truth)))
        assert errors == pytest.approx(alone.compute(), rel=1e-14)


def test_large_fields_are_taken_in_pieces(monkeypatch):
    prediction, truth = fields(9, 2, 8)
    expected = FieldErrors()
    expected.update(prediction, truth)
    monkeypatch.setattr("kinn.metrics._CHUNK", 40)
    errors = FieldErrors()
    errors.update(prediction, truth)
    assert len(errors._sums) == 5
    assert errors.compute() == pytest.approx(expected.compute(), rel=1e-14)


def test_agrees_with_numpy():
    prediction, truth = fields(6, 3, 4, 5)
    p, y = prediction.double().numpy(), truth.double().numpy()
    axes = (1, 2, 3)
    l1 = 100 * np.abs(p - y).mean(axes) / np.abs(y).mean(axes)
    l2 = np.sqrt(((p - y) ** 2).sum(axes) / (y**2).sum(axes))
    root = np.sqrt(((p - y) ** 2).mean((2, 3)))
    errors = FieldErrors()
    errors.update(prediction, truth)
    assert errors.compute() == pytest.approx(
        {
            "rmse": root.mean(),
            "nrmse": (root / np.sqrt((y**2).mean((2, 3)))).mean(),
            "max_error": np.abs(p - y).max((0, 2, 3)).mean(),
            "relative_l1_median": np.median(l1),
            "relative_l1_mean": l1.mean(),
            "relative_l2": l2.mean(),
        },
        rel=1e-13,
    )
    assert tuple(errors.compute()) == METRICS
    np.testing.assert_allclose(errors.relative_l2_per_sample().numpy(), l2, rtol=1e-13)
    np.testing.assert_allclose(100 * errors.relative_l1_per_sample().numpy(), l1, rtol=1e-13)


def test_accumulates_in_float64():
    truth = torch.full((1, 1, 2**20), 4096.0, dtype=torch.float32)
    prediction = truth + 2.0**-10  # float32 sums of the squares would lose the small ones
    assert rmse(prediction, truth) == 2.0**-10
    half = torch.full((1, 1, 1000), 300.0, dtype=torch.float16)
    assert rmse(half, torch.zeros_like(half)) == 300.0  # its square overflows float16


def test_zero_truth_is_zero_or_infinite():
    zero = torch.zeros(2, 1, 3)
    assert (nrmse(zero, zero), relative_l1(zero, zero), relative_l2(zero, zero)) == (0.0, 0.0, 0.0)
    wrong = zero.clone()
    wrong[0] = 1.0
    assert nrmse(wrong, zero) == relative_l2(wrong, zero) == relative_l1(wrong, zero, reduction="mean") == math.inf
    assert relative_l1(torch.ones(3, 1, 2), torch.tensor([1.0, 0.0, 0.5]).view(3, 1, 1).expand(3, 1, 2)) == 100.0


def test_nan_shows_in_every_metric():
    prediction, truth = fields(5, 2, 4)
    prediction[3, 1, 2] = math.nan
    errors = FieldErrors()
    errors.update(prediction, truth)
    assert all(math.isnan(value) for value in errors.compute().values())


def test_gradients_are_not_kept():
    prediction, truth = fields(2, 1, 3)
    errors = FieldErrors()
    errors.update(prediction.requires_grad_(), truth)
    assert not errors.relative_l2_per_sample().requires_grad


def test_batches_of_different_grids():
    coarse, fine = fields(2, 1, 4), fields(2, 1, 8, seed=1)
    errors = FieldErrors()
    errors.update(*coarse)
    errors.update(*fine)
    assert errors.rmse() == pytest.approx((rmse(*coarse) + rmse(*fine)) / 2, rel=1e-15)


def test_wrong_input_is_named():
    a = torch.zeros(2, 1, 4)
    with pytest.raises(ValueError, match=r"one shape, got \(2, 1, 4\) and \(2, 4\)"):
        rmse(a, torch.zeros(2, 4))
    with pytest.raises(ValueError, match=r"time axis between 1 and 2, got 0"):
        rmse(a, a, time_axis=0)
    with pytest.raises(ValueError, match="got 3"):
        rmse(a, a, time_axis=3)
    with pytest.raises(ValueError, match=r"\(batch, channel, \*space\)"):
        rmse(torch.zeros(3), torch.zeros(3))
    with pytest.raises(ValueError, match="with time as axis 1"):
        nrmse(torch.zeros(3, 2), torch.zeros(3, 2), time_axis=1)
    with pytest.raises(ValueError, match="none of them empty"):
        rmse(torch.zeros(2, 1, 0), torch.zeros(2, 1, 0))
    with pytest.raises(TypeError, match="real fields"):
        rmse(a.to(torch.complex64), a.to(torch.complex64))
    for wrong in ((a.numpy(), a.numpy()), (a, a.numpy())):
        with pytest.raises(TypeError, match=r"expected fields as a torch\.Tensor, got ndarray"):
            relative_l1(*wrong)
    with pytest.raises(ValueError, match='"median" or "mean"'):
        relative_l1(a, a, reduction="max")
    with pytest.raises(ValueError, match="at least one sample"):
        FieldErrors().compute()
    with pytest.raises(ValueError, match="at least one sample"):
        max_error(a[:0], a[:0])
    with pytest.raises(ValueError, match="need a time axis"):
        FieldErrors().relative_l2_per_step()
    errors = FieldErrors()
    errors.update(a, a)
    with pytest.raises(ValueError, match=r"1 time steps and 1 channels as in the batches before, got .* 3 channels"):
        errors.update(torch.zeros(2, 3, 4), torch.zeros(2, 3, 4))


def test_empty_batch_changes_nothing():
    errors = FieldErrors()
    errors.update(PREDICTION, TRUTH)
    before = errors.compute()
    errors.update(PREDICTION[:0], TRUTH[:0])
    assert errors.compute() == before
