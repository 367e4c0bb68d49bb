from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from kinn.data import MinMax, Standard
from kinn.models import build, register_model, registry
from kinn.train import Rollout, load_model, save_model
from kinn.train.saving import FORMAT, take_weights


@pytest.fixture
def saved(tmp_path, small_fno):
    path = tmp_path / "model.safetensors"
    normalizers = {"input_normalizer": Standard(1.0, 3.0), "output_normalizer": MinMax(-2.0, 5.0)}
    save_model(path, small_fno(), **normalizers, extra={"epoch": 3})
    return path


def rewrite(path, **changes):
    """The same file with another header."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        content = json.loads(file.metadata()["kinn"])
    save_file(load_file(path), path, metadata={"kinn": json.dumps({**content, **changes})})


def test_round_trip_keeps_every_bit_and_the_answer(saved, small_fno):
    model, trained = small_fno().eval(), load_model(saved)
    for name, value in model.state_dict().items():
        assert torch.equal(trained.model.state_dict()[name], value)
        assert trained.model.state_dict()[name].dtype == value.dtype
    assert any(value.is_complex() for value in model.state_dict().values())
    x = torch.randn(2, 1, 8, 8)
    expected = model((x - 1) / 3) * 7 - 2
    torch.testing.assert_close(trained.predict(x), expected)
    assert not trained.model.training
    assert trained.rollout is None
    assert trained.metadata["extra"] == {"epoch": 3}
    assert trained.metadata["arguments"]["width"] == 6


def test_lazy_modules_reload_with_the_shapes_that_they_took(tmp_path):
    @register_model
    class LazyLinear(torch.nn.Module):
        """One map to the output's channels, whatever comes in."""

        def __init__(self, in_channels, out_channels):
            super().__init__()
            self.map = torch.nn.LazyConv2d(out_channels, 1)

        def forward(self, x):
            return self.map(x)

    x, model = torch.rand(2, 3, 4, 4), LazyLinear(3, 1)
    expected = model(x)
    save_model(tmp_path / "m.safetensors", model)
    torch.testing.assert_close(load_model(tmp_path / "m.safetensors").predict(x), expected)


def test_a_forecaster_stays_one(tmp_path, small_fno):
    rollout = Rollout(n_history=4, predict_increment=True)
    save_model(tmp_path / "m.safetensors", small_fno(4), rollout=rollout)
    assert load_model(tmp_path / "m.safetensors").rollout == rollout


def test_tied_transposed_and_conjugate_weights(tmp_path, small_fno):
    model = small_fno()
    weight = next(p for p in model.parameters() if p.is_complex())
    weight.data = weight.data.transpose(0, 1).contiguous().transpose(0, 1).conj()
    linear = [m for m in model.modules() if isinstance(m, torch.nn.Linear) and m.in_features == m.out_features]
    linear[0].weight = linear[1].weight
    save_model(tmp_path / "m.safetensors", model)
    loaded = load_model(tmp_path / "m.safetensors").model.state_dict()
    for name, value in model.state_dict().items():
        assert torch.equal(loaded[name], value)


@pytest.mark.parametrize("cut", [0, 5, 200, -10])
def test_truncated_file(saved, cut):
    saved.write_bytes(saved.read_bytes()[:cut])
    with pytest.raises(ValueError, match="is not a kinn model, or is truncated"):
        load_model(saved)


def test_foreign_files(tmp_path):
    path = tmp_path / "x.safetensors"
    with pytest.raises(FileNotFoundError, match="there is no model file"):
        load_model(path)
    path.write_text("hello" * 100)
    with pytest.raises(ValueError, match="is not a kinn model"):
        load_model(path)
    save_file({"a": torch.ones(2)}, path)
    with pytest.raises(ValueError, match="not of a kinn model"):
        load_model(path)
    save_file({"a": torch.ones(2)}, path, metadata={"kinn_images": "{}"})
    with pytest.raises(ValueError, match="of an image classifier, which kinn evaluate image"):
        load_model(path)
    save_file({"a": torch.ones(2)}, path, metadata={"kinn": json.dumps({"format": 1})})
    with pytest.raises(ValueError, match=r"lacks.*'arguments'"):
        load_model(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": FORMAT + 1}, "please update kinn"),
        ({"model": "Perceptron"}, "'Perceptron', but this version of kinn knows .*FNO.*: import the module"),
        ({"arguments": {"in_channels": 1, "out_channels": 1, "wings": 2}}, "cannot be built.*wings"),
        ({"arguments": {"in_channels": 1, "out_channels": 1, "width": 5, "n_modes": [3, 3]}}, "should have the shape"),
        ({"arguments": {"in_channels": 1, "out_channels": 1, "width": 6, "n_modes": [3, 3], "n_layers": 2}}, "unknown"),
        ({"task": {"kind": "guess"}}, "unknown task 'guess'"),
        ({"input_normalizer": {"kind": "magic"}}, "normaliser"),
    ],
)
def test_what_does_not_fit_is_named(saved, changes, message):
    rewrite(saved, **changes)
    with pytest.raises(ValueError, match=message):
        load_model(saved)


def test_weights_are_taken_by_name_and_shape_alone(saved, small_fno):
    model = small_fno(seed=1)
    take_weights(model, saved)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in small_fno().state_dict().items())
    with pytest.raises(ValueError, match=r"not fit this FNO: '.*' should have the shape \(6, 5\), but has \(6, 3\)$"):
        take_weights(small_fno(3), saved)
    with pytest.raises(ValueError, match=r"does not fit this Linear: it lacks 2 tensors \['bias', 'weight'\]"):
        take_weights(torch.nn.Linear(1, 1), saved)
    with pytest.raises(FileNotFoundError, match="there is no model file"):
        take_weights(model, saved.parent / "none.safetensors")


def test_a_failed_save_leaves_the_old_file_and_nothing_else(saved, small_fno, monkeypatch):
    before = saved.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("kinn.files.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save_model(saved, small_fno(seed=1))
    assert saved.read_bytes() == before
    assert [p.name for p in saved.parent.iterdir()] == [saved.name]


def test_only_what_can_be_rebuilt_is_saved(tmp_path):
    with pytest.raises(ValueError, match="only registered models"):
        save_model(tmp_path / "m.safetensors", torch.nn.Linear(2, 2))
    model = build("FNO", {"in_channels": 1, "out_channels": 1, "width": 4, "n_modes": [2, 2]})
    with pytest.raises(ValueError, match="JSON-able"):
        save_model(tmp_path / "m.safetensors", model, extra={"x": object()})
    other = type("FNO", (type(model),), {})
    with pytest.raises(ValueError, match="FNO is another class than the registered one"):
        save_model(tmp_path / "m.safetensors", other(1, 1, width=4, n_modes=(2, 2)))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["FNO", "UNet"])
def test_double_precision_is_not_rounded(tmp_path, name):
    model = build(name, {"in_channels": 1, "out_channels": 1, "width": 4}).double()
    save_model(tmp_path / "m.safetensors", model)
    again = load_model(tmp_path / "m.safetensors").model.state_dict()
    assert all(torch.equal(again[key], value) for key, value in model.state_dict().items())
    assert {v.dtype for v in again.values()} == {v.dtype for v in model.state_dict().values()}


def test_complex_weights_of_other_modules_stay_complex(tmp_path, monkeypatch):
    monkeypatch.setattr("kinn.models.registry._MODELS", dict(registry._MODELS))

    @register_model
    class Turned(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.randn(3, dtype=torch.cfloat))

    for dtype in (torch.complex64, torch.complex128):
        model = Turned()
        model.weight.data = model.weight.data.to(dtype)
        save_model(tmp_path / "m.safetensors", model)
        again = load_model(tmp_path / "m.safetensors").model.weight
        assert again.dtype == dtype
        assert torch.equal(again, model.weight)


def test_loading_needs_no_trainer():
    code = "import sys, kinn.train.saving, kinn.train, kinn.models; assert 'lightning' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
