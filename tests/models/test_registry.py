from __future__ import annotations

import pytest
import torch
from torch import nn

from kinn.models import FNO, build, model_names, registry
from kinn.models.registry import register_model


@pytest.fixture
def scratch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_MODELS", dict(registry._MODELS))


def test_arguments_are_bound_with_defaults_and_plain() -> None:
    model = FNO(3, out_channels=2, n_modes=(4, 5), width=6)
    assert model.arguments == {
        "in_channels": 3, "out_channels": 2, "n_modes": [4, 5], "width": 6, "n_layers": 4, "coordinates": True,
    }  # fmt: skip


def test_unknown_names_and_arguments() -> None:
    with pytest.raises(ValueError, match="unknown model 'FON'; known models: CNO, FKNO, FNO, "):
        build("FON", {})
    with pytest.raises(
        ValueError, match="FNO: got an unexpected keyword argument 'depth'; its arguments are in_channels, "
    ):
        build("FNO", {"in_channels": 1, "out_channels": 1, "depth": 3})
    with pytest.raises(ValueError, match="FNO: missing a required argument: 'out_channels'"):
        build("FNO", {"in_channels": 1})


def test_a_name_belongs_to_one_class(scratch: None) -> None:
    with pytest.raises(ValueError, match=r"the name 'FNO' is taken by kinn\.models\.fno\.FNO"):
        register_model(type("FNO", (nn.Module,), {}))
    assert "FNO" in model_names()


def test_arguments_that_json_cannot_hold_are_refused(scratch: None) -> None:
    @register_model
    class Odd(nn.Module):
        def __init__(self, size: object) -> None:
            super().__init__()

    with pytest.raises(TypeError, match="Odd: size must be a number, text, None or a list of these, got dtype"):
        Odd(torch.float32)


def test_a_subclass_does_not_pass_for_its_parent(scratch: None) -> None:
    class Wider(FNO):
        def __init__(self) -> None:
            super().__init__(1, 1, width=4, n_modes=(2, 2))

    assert not hasattr(Wider(), "arguments")
