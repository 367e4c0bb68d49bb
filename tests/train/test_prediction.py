from __future__ import annotations

import pytest
import torch

from kinn.data import Identity, Standard
from kinn.models import UNet
from kinn.train import Rollout, TrainedModel


class Shift(torch.nn.Module):
    """The exact next frame of a pattern that moves one cell per frame, from the newest channel."""

    def __init__(self):
        super().__init__()
        self.gain = torch.nn.Parameter(torch.ones(()))

    def forward(self, x):
        return self.gain * x[:, -1:].roll(1, -1)


class Spaced(Shift):
    """Is told the distance of grid points."""

    def forward(self, x, *, dt_scale=1.0):
        return super().forward(x) * dt_scale


def moving(n_frames):
    first = torch.randn(3, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    return torch.stack([first.roll(t, -1) for t in range(n_frames)], dim=1)


def test_an_exact_step_gives_an_exact_rollout():
    frames = moving(9)
    torch.testing.assert_close(Rollout(n_history=3).unroll(Shift(), frames[:, :3], 6), frames[:, 3:], rtol=0, atol=0)


def test_history_reaches_the_model_oldest_first_and_predictions_follow():
    seen = []

    def model(x):
        seen.append(x.flatten().tolist())
        return x[:, -1:] + 1

    Rollout(n_history=3).unroll(model, torch.tensor([0.0, 1.0, 2.0]).reshape(1, 3, 1, 1), 3)
    assert seen == [[0, 1, 2], [1, 2, 3], [2, 3, 4]]


def test_several_channels_stay_together_in_a_frame():
    history = torch.arange(4.0).reshape(1, 2, 2, 1)  # two frames of two channels
    seen = []
    Rollout(n_history=2).unroll(lambda x: seen.append(x.flatten().tolist()) or x[:, -2:], history, 1)
    assert seen == [[0, 1, 2, 3]]


def test_increments_add_to_the_newest_frame():
    rollout = Rollout(n_history=2, predict_increment=True)
    frames = rollout.unroll(lambda x: torch.full_like(x[:, -1:], 0.5), torch.zeros(1, 2, 1, 4), 3)
    assert frames[0, :, 0, 0].tolist() == [0.5, 1.0, 1.5]


def test_the_gradient_goes_through_the_whole_unroll():
    model = Shift()
    Rollout(n_history=1).unroll(model, torch.ones(1, 1, 1, 4), 5)[:, -1].mean().backward()
    assert model.gain.grad.item() == pytest.approx(5.0)  # d(gain^5)/d gain at 1


def test_prediction_is_in_physical_units():
    normalizer = Standard(mean=10.0, std=2.0)
    operator = TrainedModel(torch.nn.Identity(), Standard(mean=1.0, std=4.0), normalizer)
    assert operator.predict(torch.full((1, 1, 2), 5.0)).unique().tolist() == [12.0]
    forecaster = TrainedModel(Shift(), normalizer, normalizer, Rollout(n_history=2))
    frames = 2 * moving(7) + 10
    torch.testing.assert_close(forecaster.forecast(frames[:, :2], 5), frames[:, 2:])


def test_one_step_becomes_a_module_in_physical_units():
    normalizers = Standard(mean=1.0, std=4.0), Standard(mean=10.0, std=2.0)
    operator = TrainedModel(Spaced(), *normalizers)
    forecaster = TrainedModel(Shift(), normalizers[1], normalizers[1], Rollout(2, predict_increment=True))
    x, frames = torch.randn(2, 1, 6), 2 * moving(2) + 10
    for trained, given, expected in (
        (operator, x, operator.predict(x)),
        (forecaster, frames, forecaster.forecast(frames, 1)[:, 0]),
    ):
        module = trained.as_module()
        assert not trained.model.training
        assert len(list(module.parameters())) == 1
        torch.testing.assert_close(module(given), expected)
        program = torch.export.export(module, (given,), dynamic_shapes=({0: torch.export.Dim("b", min=1, max=8)},))
        torch.testing.assert_close(program.module()(given[:1]), expected[:1])
    scaled = operator.predict(x, dt_scale=0.5)
    torch.testing.assert_close(operator.as_module(dt_scale=0.5)(x), scaled)
    assert not torch.allclose(scaled, operator.predict(x))


def test_fields_may_be_arrays_of_any_precision():
    network = torch.nn.Sequential(torch.nn.Conv1d(1, 1, 1))
    network.register_parameter("spectrum", torch.nn.Parameter(torch.zeros(1, dtype=torch.complex64)))  # comes first
    model = TrainedModel(network, Standard(mean=1.0, std=4.0), Standard(mean=10.0, std=2.0))
    x = torch.randn(2, 1, 5)
    for given in (x.double(), x.numpy(), x.double().numpy()):
        torch.testing.assert_close(model.predict(given), model.predict(x))
    flipped = x.numpy()[..., ::-1]
    for given in (flipped, flipped.astype(">f4")):
        torch.testing.assert_close(model.predict(given), model.predict(x.flip(-1)))


def test_a_model_that_knows_no_spacing_says_so():
    model = TrainedModel(torch.nn.Identity(), Identity(), Identity())
    with pytest.raises(ValueError, match=r"Identity is not told the grid's spacing: it takes no dt_scale, got 0\.5"):
        model.predict(torch.ones(1, 1, 4), dt_scale=0.5)


def test_nodes_are_told_from_cells_by_the_grid_of_the_training(monkeypatch):
    """17 points at twice the spacing are 33 nodes or 34 cells."""
    model, seen = UNet(1, 1, width=2, levels=1), []
    monkeypatch.setattr(model, "_apply_halving", lambda x: seen.append(tuple(x.shape[2:])) or x)
    for grid in ((33, 33), (34, 34), (40, 40), None):
        trained = TrainedModel(model, Identity(), Identity(), metadata={"extra": {"grid": grid} if grid else {}})
        trained.predict(torch.ones(1, 1, 17, 17), dt_scale=2.0)
    assert seen == [(33, 33), (34, 34), (34, 34), (34, 34)]
    ring = TrainedModel(UNet(1, 1, width=2, levels=1, boundary="periodic"), Identity(), Identity())
    ring.metadata["extra"] = {"grid": (64, 64)}
    assert ring.predict(torch.ones(1, 1, 22, 22), dt_scale=3.0).shape == (1, 1, 22, 22)  # 64 nodes, had it ends


def test_errors_say_what_was_expected():
    operator = TrainedModel(torch.nn.Identity(), Identity(), Identity())
    with pytest.raises(TypeError, match=r"fields must be real, but are torch\.complex64"):
        operator.predict(1j * torch.ones(1, 1, 4))
    with pytest.raises(ValueError, match="call predict"):
        operator.forecast(torch.ones(1, 1, 1, 4), 2)
    forecaster = TrainedModel(Shift(), Identity(), Identity(), Rollout(n_history=2))
    with pytest.raises(ValueError, match="call forecast"):
        forecaster.predict(torch.ones(1, 1, 4))
    with pytest.raises(ValueError, match=r"2 frames.*\(1, 3, 1, 4\)"):
        forecaster.forecast(torch.ones(1, 3, 1, 4), 2)
    with pytest.raises(ValueError, match=r"one frame \(1, 1, 4\), but its output is \(1, 2, 4\)"):
        Rollout(n_history=2).unroll(torch.nn.Identity(), torch.ones(1, 2, 1, 4), 1)
    with pytest.raises(ValueError, match="at least 1 frame"):
        Rollout(n_history=0)
