"""From a model's name and data to a task: channels, weights and normalisers come from where they should."""

from __future__ import annotations

import pytest
import torch

from kinn.data import from_arrays, from_trajectories
from kinn.train import OperatorTask, Rollout, RolloutTask, build_task

TINY = {"width": 4, "n_modes": [3, 3]}


def fields(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def pairs():
    return from_arrays(3 * fields(6, 2, 8, 8), 1 - fields(6, 1, 8, 8))


@pytest.mark.parametrize(("given", "loss"), [(None, "relative_l1"), ("relative_l2", "relative_l2")])
def test_pairs_make_an_operator(pairs, given, loss):
    task = build_task("FNO", TINY, pairs, seed=0, loss=given, loss_units="physical")
    assert isinstance(task, OperatorTask)
    assert (task.model.arguments["in_channels"], task.model.arguments["out_channels"]) == (2, 1)
    assert (task.loss, task.loss_units) == (loss, "physical")
    x, y = pairs.batch(range(6))
    for normalizer, part in ((task.input_normalizer, x), (task.output_normalizer, y)):
        encoded = normalizer.encode(part)
        torch.testing.assert_close(encoded.mean((0, 2, 3)), torch.zeros(part.shape[1]), rtol=0, atol=1e-5)


def test_trajectories_make_a_forecaster():
    flows = from_trajectories(fields(2, 6, 2, 8, 8))
    task = build_task("FNO", TINY, flows, seed=0, rollout=Rollout(n_history=3), unroll=2, input_noise=0.1)
    assert isinstance(task, RolloutTask)
    assert (task.model.arguments["in_channels"], task.model.arguments["out_channels"]) == (6, 2)
    assert (task.loss, task.rollout.n_history, task.unroll, task.input_noise) == ("relative_l2", 3, 2, 0.1)


def test_published_ranges_take_the_place_of_the_training_parts_where_they_are_known(pairs):
    task = build_task("FNO", TINY, pairs, seed=0, normalize="min-max", ranges={"input_range": (-1.0, 5.0)})
    assert task.input_normalizer.state() == {"kind": "minmax", "low": -1.0, "high": 5.0}
    assert task.output_normalizer.encode(pairs.batch(range(6))[1]).aminmax() == (0, 1)
    other = build_task("FNO", TINY, pairs, seed=0, normalize="standard", ranges={"input_range": (-1.0, 5.0)})
    assert other.input_normalizer.state()["kind"] == "standard"


def test_the_seed_alone_decides_the_weights(pairs):
    before = torch.get_rng_state()
    one, same, other = (build_task("FNO", TINY, pairs, seed=seed).model.state_dict() for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(value, same[name]) for name, value in one.items())
    assert not all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "FON"}, "unknown model 'FON'"),
        ({"arguments": {"wings": 2}}, "argument 'wings'; its arguments are in_channels"),
        ({"arguments": {"width": "wide"}}, "FNO cannot be built with .*'wide'"),
        ({"normalize": "max"}, "normalize must be one of none, min-max, standard, but is 'max'"),
    ],
)
def test_what_cannot_be_built_is_named(pairs, change, message):
    with pytest.raises(ValueError, match=message):
        build_task(**{"name": "FNO", "arguments": TINY, "train": pairs, "seed": 0, **change})
