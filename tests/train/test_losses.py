from __future__ import annotations

import pytest
import torch

from kinn.train.losses import LOSSES, loss_named, mse_loss, relative_l1_loss, relative_l2_loss


def test_values_by_hand():
    truth = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    prediction = torch.tensor([[3.0, 5.0], [1.0, 0.0]])
    assert relative_l2_loss(prediction, truth).item() == pytest.approx((1 / 5 + 5**0.5 / 2) / 2)
    assert relative_l1_loss(prediction, truth).item() == pytest.approx((1 / 7 + 3 / 2) / 2)
    assert mse_loss(prediction, truth).item() == pytest.approx((1 / 2 + 5 / 2) / 2)


@pytest.mark.parametrize("loss", LOSSES.values())
def test_is_a_mean_over_samples_whatever_their_size(loss):
    truth = torch.randn(6, 2, 5, 5)
    prediction = truth + 0.1 * torch.randn_like(truth)
    size = torch.logspace(-6, 6, 6).reshape(6, 1, 1, 1)
    one_by_one = torch.stack([loss(p[None], y[None]) for p, y in zip(prediction, truth)]).mean()
    torch.testing.assert_close(loss(prediction, truth), one_by_one)
    if loss is not mse_loss:
        torch.testing.assert_close(loss(size * prediction, size * truth), one_by_one)


@pytest.mark.parametrize("loss", LOSSES.values())
def test_zero_truth_and_exact_prediction_have_finite_gradients(loss):
    truth = torch.stack([torch.zeros(4), torch.ones(4)])
    prediction = torch.stack([torch.full((4,), 0.5), torch.ones(4)]).requires_grad_()
    value = loss(prediction, truth)
    value.backward()
    assert value.item() > 0
    assert torch.isfinite(prediction.grad).all()


def test_half_precision_does_not_overflow():
    truth = torch.full((1, 1, 64, 64), 300.0, dtype=torch.float16)
    assert relative_l2_loss(2 * truth, truth).item() == pytest.approx(1.0)
    assert mse_loss(2 * truth, truth).item() == pytest.approx(9e4)


def test_errors_say_what_came():
    with pytest.raises(ValueError, match=r"\(2, 3\) and \(3, 2\)"):
        relative_l2_loss(torch.ones(2, 3), torch.ones(3, 2))
    with pytest.raises(ValueError, match="mse, relative_l1, relative_l2, but is 'h2'"):
        loss_named("h2")
