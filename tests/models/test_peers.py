"""The operators of neuraloperator, under our interface. All but the errors needs the package."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kinn.models import NeuralOperatorFNO, NeuralOperatorUNO, build

needs_package = pytest.mark.skipif(importlib.util.find_spec("neuralop") is None, reason="neuraloperator is not there")
FNO: dict[str, Any] = {"width": 6, "n_modes": (8, 6), "n_layers": 2}
UNO: dict[str, Any] = {
    "width": 6,
    "layer_channels": (5, 8, 7),
    "layer_modes": ((6, 4), (4, 4), (6, 6)),
    "layer_scales": (0.5, 1, 2),
    "lift_channels": 10,
}
over_models = pytest.mark.parametrize(
    ("model", "arguments"), [(NeuralOperatorFNO, FNO), (NeuralOperatorUNO, UNO)], ids=["FNO", "UNO"]
)


def built(model: type[nn.Module], arguments: dict[str, Any]) -> nn.Module:
    torch.manual_seed(0)
    return model(2, 3, **arguments)


@over_models
def test_missing_package_names_the_extra(
    model: type[nn.Module], arguments: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "neuralop", None)
    with pytest.raises(ImportError, match=rf"{model.__name__} needs neuraloperator: pip install 'kinn-torch\[peers\]'"):
        built(model, arguments)


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (NeuralOperatorFNO, {"n_layers": 0}, "FNO: n_layers must be at least 1, got 0"),
        (NeuralOperatorUNO, {"layer_channels": (4, 4)}, "the same number of layers, at least 1, got 2, 5 and 5"),
        (NeuralOperatorUNO, {"layer_scales": (1, 0.5, 1, 1, 1)}, r"the product of layer_scales must be 1, got 0\.5"),
    ],
)
def test_wrong_arguments(model: type[nn.Module], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model(1, 1, **options)


@needs_package
def test_fno_is_the_package_s() -> None:
    from neuralop import models

    ours = built(NeuralOperatorFNO, {**FNO, "coordinates": False})
    torch.manual_seed(0)
    theirs = models.FNO((8, 6), 2, 3, 6, 2, positional_embedding=None)
    x = torch.randn(2, 2, 12, 9)
    assert torch.equal(ours(x), theirs(x))


@needs_package
def test_uno_is_the_package_s() -> None:
    from neuralop import models

    ours = built(NeuralOperatorUNO, UNO)
    torch.manual_seed(0)
    theirs = models.UNO(
        2,
        3,
        6,
        10,
        10,
        "grid",
        3,
        [5, 8, 7],
        [[6, 4], [4, 4], [6, 6]],
        [[0.5, 0.5], [1, 1], [2, 2]],
        channel_mlp_skip="linear",
    )
    x = torch.randn(2, 2, 12, 8)
    assert torch.equal(ours(x), theirs(x))


@needs_package
def test_default_fno_has_the_written_size() -> None:
    spectral, local, mlp, gate = 20 * 20 * 24 * 13 + 20, 20 * 20, 20 * 10 + 10 + 10 * 20 + 20, 20
    lift, project = 3 * 40 + 40 + 40 * 20 + 20, 20 * 40 + 40 + 40 + 1
    expected = 4 * (spectral + local + mlp + gate) + lift + project
    assert sum(p.numel() for p in NeuralOperatorFNO(1, 1).parameters()) == expected == 504_541


@needs_package
def test_modes_count_both_signs() -> None:
    """`n_modes=(4, 4)`: frequencies -2 .. 1 along the rows' axis and 0 .. 2 along the columns'."""
    layer = NeuralOperatorFNO(1, 1, n_modes=(4, 4), width=2, n_layers=1).network.fno_blocks.convs[0]
    x = 2 * torch.pi * torch.arange(16) / 16
    for axis in (0, 1):
        waves = [torch.cos(k * x).unsqueeze(1 - axis).expand(1, 2, 16, 16) for k in range(5)]
        sizes = [(layer(wave) - layer.bias).abs().max().item() for wave in waves]
        assert min(sizes[:3]) > 1e-3
        assert max(sizes[3:]) < 1e-6


@needs_package
@over_models
def test_shapes_gradients_and_independence(model: type[nn.Module], arguments: dict[str, Any]) -> None:
    network = built(model, arguments)
    for grid in ((9, 11), (8, 12), (16, 16)):
        x = torch.randn(3, 2, *grid)
        y = network(x)
        assert y.shape == (3, 3, *grid)
        torch.testing.assert_close(y[1:2], network(x[1:2]), rtol=1e-4, atol=1e-5)
    network(torch.randn(2, 2, 16, 16)).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert 1e-6 < parameter.grad.abs().max() < torch.inf, name
    with pytest.raises(ValueError, match=r"expected fields of shape \(batch, 2, height, width\), got \(1, 5, 8, 8\)"):
        network(torch.zeros(1, 5, 8, 8))


@needs_package
@over_models
def test_rebuilt_from_its_arguments_and_state(model: type[nn.Module], arguments: dict[str, Any]) -> None:
    network = built(model, arguments)
    assert repr(network).startswith(f"{model.__name__}(")
    recorded = json.loads(json.dumps(network.arguments))
    assert recorded == network.arguments
    copy = build(model.__name__, recorded)
    copy.load_state_dict(network.state_dict())
    x = torch.randn(1, 2, 8, 8)
    assert torch.equal(copy(x), network(x))


@needs_package
@over_models
def test_states_hold_tensors_alone(model: type[nn.Module], arguments: dict[str, Any]) -> None:
    """The package puts its constructor's arguments among the tensors, which no safetensors file holds."""
    network = built(model, arguments)
    for module in (network, nn.Sequential(network)):
        assert all(isinstance(value, Tensor) for value in module.state_dict().values())


@needs_package
@over_models
def test_saved_and_loaded(model: type[nn.Module], arguments: dict[str, Any], tmp_path: Path) -> None:
    from kinn.train import load_model, save_model

    network = built(model, arguments)
    save_model(tmp_path / "model.safetensors", network)
    x = torch.randn(2, 2, 8, 8)
    torch.testing.assert_close(load_model(tmp_path / "model.safetensors").model(x), network(x), rtol=0, atol=0)


@needs_package
@over_models
def test_builds_in_silence(
    model: type[nn.Module], arguments: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    built(model, arguments)
    assert capsys.readouterr() == ("", "")
