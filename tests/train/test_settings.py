from __future__ import annotations

import itertools
import os

import pytest
import torch

from kinn.nn import KirchhoffCell
from kinn.notices import warn_once
from kinn.train.settings import (
    OptimizerSettings,
    TrainSettings,
    build_optimizer,
    chosen_device,
    fused_fits,
    learning_rate_factor,
)


def factors(settings, steps_per_epoch=10, epochs=10):
    total = steps_per_epoch * epochs
    return [
        learning_rate_factor(settings, step=step, steps_per_epoch=steps_per_epoch, total_steps=total)
        for step in range(total)
    ]


def test_step_falls_at_the_epochs():
    values = factors(OptimizerSettings(schedule="step", step_epochs=3, step_factor=0.5))
    assert [values[10 * epoch] for epoch in range(10)] == [1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25, 0.125]
    assert values[29] == 1
    assert values[30] == 0.5


def test_cosine_starts_at_one_passes_the_middle_and_ends_low():
    values = factors(OptimizerSettings(schedule="cosine", final_fraction=0.1))
    assert values[0] == 1
    assert values[50] == pytest.approx(0.55)
    assert values[-1] == pytest.approx(0.1, abs=1e-3)
    assert all(a >= b for a, b in itertools.pairwise(values))


def test_one_cycle_warms_up_linearly_then_falls():
    values = factors(OptimizerSettings(schedule="one-cycle", warmup_fraction=0.2, final_fraction=0))
    assert values[:20] == pytest.approx([(i + 1) / 20 for i in range(20)])
    assert max(values) == values[20] == 1
    assert values[60] == pytest.approx(0.5)
    assert values[-1] < 1e-3


def test_constant():
    assert set(factors(OptimizerSettings(schedule="constant"))) == {1.0}


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_weight_decay_spares_decay_rates(name):
    cell = KirchhoffCell(4, dt_rank=1)
    settings = OptimizerSettings(name=name, weight_decay=0.3)
    optimizer, _ = build_optimizer(cell, settings, steps_per_epoch=1, total_steps=1)
    decayed = {id(p) for group in optimizer.param_groups if group["weight_decay"] for p in group["params"]}
    assert id(cell.A_log) not in decayed
    assert id(cell.dt_proj.weight) in decayed
    everything = OptimizerSettings(name=name, weight_decay=0.3, decay_all=True)
    optimizer, _ = build_optimizer(cell, everything, steps_per_epoch=1, total_steps=1)
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.3}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(cell.parameters()))


def test_the_schedule_reaches_the_optimizer():
    model = torch.nn.Linear(2, 2)
    settings = OptimizerSettings(lr=0.1, schedule="step", step_epochs=1, step_factor=0.5)
    optimizer, scheduler = build_optimizer(model, settings, steps_per_epoch=2, total_steps=6)
    seen = []
    for _ in range(6):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert seen == pytest.approx([0.1, 0.1, 0.05, 0.05, 0.025, 0.025])


@pytest.mark.parametrize(
    ("parameters", "scaled", "fused"),
    [
        ([("cuda", torch.float32), ("cuda", torch.float64)], False, True),
        ([("cpu", torch.float32)], False, True),
        ([("cuda", torch.float32), ("cuda", torch.complex64)], False, False),
        ([("cuda", torch.float32)], True, False),
        ([("mps", torch.float32)], False, False),
    ],
)
def test_where_one_kernel_updates_all_parameters(parameters, scaled, fused):
    assert fused_fits(parameters, scaled=scaled) is fused


@pytest.mark.parametrize("fused_here", [True, False])
def test_an_optimizer_keeps_its_implementation_when_it_goes_on_from_another(fused_here):
    """As from a CPU to a GPU: the state is taken over, the choice is not."""

    def optimizer(fused):
        model = torch.nn.Linear(2, 2)
        model(torch.ones(1, 2)).sum().backward()
        return build_optimizer(model, OptimizerSettings(), steps_per_epoch=1, total_steps=1, scaled=not fused)[0]

    before, after = optimizer(not fused_here), optimizer(fused_here)
    before.step()
    after.load_state_dict(before.state_dict())
    assert [group["fused"] for group in after.param_groups] == [fused_here or None] * 2
    after.step()
    assert [int(state["step"]) for state in after.state.values()] == [2, 2]


def test_auto_is_a_gpu_that_computes_or_the_cpu(monkeypatch):
    def ones(*size, device):
        if device.type == "cuda":
            raise RuntimeError("CUDA error: no kernel image is available\nCompile with ...")

    monkeypatch.setattr(torch, "ones", ones)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert chosen_device("auto") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    reason = "the device 'cuda' cannot be used here: CUDA error: no kernel image is available$"
    warn_once.cache_clear()
    with pytest.warns(UserWarning, match=f"computing on the CPU, because {reason}"):
        assert chosen_device("auto") == torch.device("cpu")
    with pytest.raises(ValueError, match=reason):
        chosen_device("cuda")


def test_a_deterministic_training_asks_for_what_products_on_a_gpu_need(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    TrainSettings(deterministic=True)
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    TrainSettings()
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    TrainSettings(deterministic=True)
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


def test_a_frozen_model_is_refused():
    with pytest.raises(ValueError, match="no trainable parameters"):
        build_optimizer(
            torch.nn.Linear(2, 2).requires_grad_(False), OptimizerSettings(), steps_per_epoch=1, total_steps=1
        )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: OptimizerSettings(lr=0.0), "lr must be above 0, but is 0.0"),
        (lambda: OptimizerSettings(lr=float("nan")), "lr must be above 0"),
        (lambda: OptimizerSettings(name="sgd"), "optimiser must be one of adam, adamw, but is 'sgd'"),
        (lambda: OptimizerSettings(step_factor=2), "step_factor must be above 0 and at most 1"),
        (lambda: TrainSettings(epochs=0), "epochs must be at least 1, but is 0"),
        (lambda: TrainSettings(devices=0), "devices must be at least 1, but is 0"),
        (lambda: TrainSettings(devices=3), r"must be a multiple of devices \(3\), but is 16"),
        (lambda: TrainSettings(patience=0), "patience must be at least 1"),
        (lambda: TrainSettings(device="gpu"), "device must be one of auto"),
        (lambda: OptimizerSettings(step_epochs=1.5), "step_epochs must be a whole number, but is 1.5"),
        (lambda: TrainSettings(epochs=1.5), "epochs must be a whole number, but is 1.5"),
        (lambda: TrainSettings(epochs=True), "epochs must be a whole number, but is True"),
        (lambda: TrainSettings(seed=1.5), "seed must be a whole number, but is 1.5"),
        (lambda: TrainSettings(patience="3"), "patience must be a whole number, but is '3'"),
        (lambda: TrainSettings(precision=32), "precision must be one of '32', 'bf16', '16', but is 32"),
        (lambda: TrainSettings(compile="on"), "compile must be one of auto, none, kernels, cuda-graphs, but is 'on'"),
    ],
)
def test_wrong_settings_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
