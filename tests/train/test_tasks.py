from __future__ import annotations

import pytest
import torch

from kinn.data import MinMax, Standard
from kinn.train import OperatorTask, Rollout, RolloutTask
from kinn.train.losses import relative_l1_loss, relative_l2_loss


class Scale(torch.nn.Module):
    def __init__(self, gain=0.5):
        super().__init__()
        self.gain = torch.nn.Parameter(torch.tensor(gain))

    def forward(self, x):
        return self.gain * x[:, -1:]


@pytest.fixture
def batch():
    x = torch.rand(4, 1, 5, 5, generator=torch.Generator().manual_seed(0))
    return 10 * x, 100 * x + 7


def step(task, batch, monkeypatch):
    logged = {}
    monkeypatch.setattr(task, "log", lambda name, value, **_: logged.update({name: float(value)}))
    return task.training_step(batch, 0), logged


@pytest.mark.parametrize("units", ["normalized", "physical"])
def test_operator_loss_is_taken_in_the_units_asked_for(batch, units, monkeypatch):
    inputs, outputs = MinMax(0.0, 10.0), MinMax(7.0, 107.0)
    task = OperatorTask(Scale(), input_normalizer=inputs, output_normalizer=outputs, loss_units=units)
    loss, _ = step(task, batch, monkeypatch)
    x, y = batch
    prediction = 0.5 * inputs.encode(x)
    expected = {
        "normalized": relative_l1_loss(prediction, outputs.encode(y)),
        "physical": relative_l1_loss(outputs.decode(prediction), y),
    }
    torch.testing.assert_close(loss, expected[units])
    assert not torch.isclose(expected["normalized"], expected["physical"])


def test_rollout_loss_is_the_sum_over_unrolled_steps(monkeypatch):
    frames = torch.rand(3, 5, 1, 4, 4, generator=torch.Generator().manual_seed(0)) + 1
    task = RolloutTask(Scale(), rollout=Rollout(n_history=2), unroll=3)
    loss, logged = step(task, (frames[:, :2], frames[:, 2:]), monkeypatch)
    by_hand = sum(relative_l2_loss(0.5**k * frames[:, 1], frames[:, 1 + k]) for k in (1, 2, 3))
    torch.testing.assert_close(loss, by_hand)
    assert logged["train_loss_step"] == pytest.approx(by_hand.item() / 3, rel=1e-5)


def test_the_gradient_of_a_rollout_is_that_of_the_sum(monkeypatch):
    truth = torch.ones(1, 4, 1, 1, 4)
    task = RolloutTask(Scale(0.5), rollout=Rollout(n_history=1), unroll=3)
    loss, _ = step(task, (truth[:, :1], truth[:, 1:]), monkeypatch)
    loss.backward()
    # sum_k (1 - g^k): derivative -(1 + 2 g + 3 g^2)
    assert task.model.gain.grad.item() == pytest.approx(-(1 + 1 + 0.75))


def test_input_noise_has_its_size_and_depends_on_seed_and_step_alone(monkeypatch):
    seen = []

    class Watch(Scale):
        def forward(self, x):
            seen.append(x.detach())
            return super().forward(x)

    normalizer = Standard(mean=5.0, std=3.0)
    task = RolloutTask(Watch(), normalizer=normalizer, rollout=Rollout(n_history=2), input_noise=0.1)
    given = torch.full((16, 2, 1, 32, 32), 5.0)
    task.predict_for_training(given, 1)
    torch.rand(1)
    task.predict_for_training(given, 1)
    task.seed = 1
    task.predict_for_training(given, 1)
    assert seen[0].std().item() == pytest.approx(0.1, rel=0.05)
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0], seen[2])
    task.trained.forecast(given, 1)
    assert seen[3].abs().max() == 0  # none outside training


def test_windows_of_training_and_validation(trajectories):
    task = RolloutTask(Scale(), rollout=Rollout(n_history=2), unroll=3, window_stride=2)
    assert len(task.training_items(trajectories)) == 8 * 3
    history, future = task.validation_items(trajectories)[1]
    assert torch.equal(torch.cat([history, future]), trajectories[1])


def test_data_of_the_other_kind_is_refused(pairs, trajectories):
    with pytest.raises(ValueError, match="expected trajectories, but the data are pairs of fields"):
        RolloutTask(Scale()).training_items(pairs)
    with pytest.raises(ValueError, match="expected pairs of fields, but the data are trajectories"):
        OperatorTask(Scale()).training_items(trajectories)
    with pytest.raises(ValueError, match="10 frames needs longer trajectories than these, of 9"):
        RolloutTask(Scale()).validation_items(trajectories)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"unroll": 0}, "unroll"), ({"input_noise": -1.0}, "input_noise"), ({"loss": "h2"}, "loss must be one of")],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        RolloutTask(Scale(), **options)


def test_divergence_is_named(batch, monkeypatch):
    task = OperatorTask(Scale(float("nan")))
    with pytest.raises(
        FloatingPointError, match=r"became nan in epoch 1, step 1: lower the learning rate \(now 0.001\)"
    ):
        step(task, batch, monkeypatch)
