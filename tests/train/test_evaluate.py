from __future__ import annotations

import numpy as np
import pytest
import torch

from kinn import metrics
from kinn.data import MinMax, Standard, from_arrays
from kinn.spectrum import power_spectrum
from kinn.train import Rollout, TrainedModel, evaluate


@pytest.fixture
def operator(small_fno):
    return TrainedModel(small_fno(), Standard(1.0, 3.0), MinMax(-20.0, 20.0))


def test_metrics_are_those_of_the_whole_set_in_both_units(operator, pairs):
    inputs, outputs = pairs.inputs.read(range(24)), pairs.outputs.read(range(24))
    prediction = operator.predict(inputs)
    found = evaluate(operator, pairs, batch_size=24).metrics
    encode = operator.output_normalizer.encode
    for name in ("rmse", "nrmse", "max_error", "relative_l2"):
        measure = getattr(metrics, name)
        assert found[name] == pytest.approx(measure(prediction, outputs), rel=1e-5)
        assert found[f"{name}_normalized"] == pytest.approx(measure(encode(prediction), encode(outputs)), rel=1e-5)
    assert found["relative_l1_median"] == pytest.approx(metrics.relative_l1(prediction, outputs), rel=1e-5)


@pytest.mark.parametrize("batch_size", [1, 5, 7])
def test_the_batch_size_does_not_matter(operator, pairs, batch_size):
    whole, cut = evaluate(operator, pairs, batch_size=24), evaluate(operator, pairs, batch_size=batch_size)
    assert cut.metrics == pytest.approx(whole.metrics, rel=1e-5)


class Fading(torch.nn.Module):
    def forward(self, x):
        return 0.9 * x[:, -1:].roll(1, -1)


def test_rollout_error_per_step_is_the_exact_one(trajectories):
    normalizer = Standard(mean=1.0, std=2.0)
    model = TrainedModel(Fading(), normalizer, normalizer, Rollout(n_history=2))
    found = evaluate(model, trajectories, batch_size=3)
    # in normalised units each step keeps 0.9 of the moving pattern
    truth = trajectories.trajectories.read(range(8))[:, 2:]
    exact = [(1 - 0.9**k) for k in range(1, 8)]
    for k, (value, factor) in enumerate(zip(found.rollout_relative_l2, exact)):
        scale = ((truth[:, k] - 1).flatten(1).norm(dim=1) / truth[:, k].flatten(1).norm(dim=1)).mean().item()
        assert value == pytest.approx(factor * scale, rel=1e-4)
    assert found.metrics["nrmse_normalized"] == pytest.approx(sum(exact) / 7, rel=1e-4)


def test_sample_fields_are_the_fields(trajectories, pairs, operator):
    model = TrainedModel(torch.nn.Identity(), MinMax(0.0, 1.0), MinMax(0.0, 1.0), Rollout(n_history=1))
    fields = evaluate(model, trajectories, field_samples=[0, 5], field_steps=[1, -1]).fields
    assert [(f["label"], f["step"]) for f in fields] == [(f"sample {s}", k) for s in (0, 5) for k in (1, 8)]
    trajectory = trajectories[5]
    torch.testing.assert_close(torch.tensor(fields[3]["input"]), trajectory[0, 0], rtol=1e-4, atol=0)
    torch.testing.assert_close(torch.tensor(fields[3]["truth"]), trajectory[8, 0], rtol=1e-4, atol=0)
    assert fields[3]["prediction"] == fields[3]["input"]
    [field] = evaluate(operator, pairs, field_samples=[2]).fields
    assert field["step"] is None
    assert torch.tensor(field["truth"]).shape == (8, 8)
    with pytest.raises(IndexError, match="no rollout step 9"):
        evaluate(model, trajectories, field_samples=[0], field_steps=[9])


@pytest.mark.parametrize("batch_size", [3, 8])
def test_spectra_are_means_over_the_whole_set(trajectories, pairs, operator, batch_size):
    model = TrainedModel(Fading(), Standard(0.0, 2.0), Standard(0.0, 2.0), Rollout(n_history=2))
    found = evaluate(model, trajectories, batch_size=batch_size, field_steps=(1, -1), spectra=True).spectra
    assert [(s["step"], s["samples"]) for s in found] == [(1, 8), (7, 8)]
    truth = trajectories.trajectories.read(range(8))[:, -1, 0].double().numpy()
    for name, factor in (("truth", 1.0), ("error", 1 - 0.9**7)):
        expected = power_spectrum(factor * truth)[1].mean(axis=0)
        np.testing.assert_allclose(found[1][name], expected, rtol=1e-3, atol=1e-6 * expected.max())
    options = {"batch_size": batch_size, "spectra": True, "field_samples": (0,)}
    twice = evaluate(model, trajectories, field_steps=(1, 7, -1), **options)  # the seventh is the last
    assert twice.spectra == evaluate(model, trajectories, field_steps=(1, -1), **options).spectra
    assert [shown["step"] for shown in twice.fields] == [1, 7]
    [found] = evaluate(operator, pairs, batch_size=batch_size, spectra=True).spectra
    assert (found["step"], found["samples"], len(found["error"])) == (None, 24, 4)
    assert evaluate(operator, pairs).spectra == []


def test_the_model_is_left_in_its_mode_and_progress_counts_samples(operator, pairs):
    operator.model.train()
    seen = []
    evaluate(operator, pairs, batch_size=10, progress=lambda done, total: seen.append((done, total)))
    assert operator.model.training
    assert seen == [(10, 24), (20, 24), (24, 24)]


def test_fields_of_a_volume_are_slices():
    x = torch.rand(2, 1, 4, 5, 6)
    model = TrainedModel(torch.nn.Identity(), MinMax(0.0, 1.0), MinMax(0.0, 1.0))
    [field] = evaluate(model, from_arrays(x, x), field_samples=[1]).fields
    torch.testing.assert_close(torch.tensor(field["truth"]), x[1, 0, 2], rtol=1e-4, atol=1e-6)
