"""What is particular to CNO."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from kinn.models import CNO
from kinn.models.parts import Chain
from kinn.nn import FilteredActivation


def small(**options: int) -> CNO:
    torch.manual_seed(0)
    model = CNO(1, 1, **{"width": 4, "levels": 1, "skip_blocks": 1, "neck_blocks": 1, **options}).double().eval()
    for parameter in model.parameters():
        if parameter.dim() == 1:  # norms and offsets would start as nothing
            nn.init.uniform_(parameter, -1, 1)
    return model


def test_way_up_mixes_before_it_grows() -> None:
    model = small()
    x = torch.randn(2, 1, 8, 8, dtype=torch.float64)
    lifted = model.lift(x.movedim(1, -1))
    skip = model.skips[0](lifted)
    grown = model.up[0](model.mix[0](model.neck(model.down[0](lifted))))
    expected = model.project(torch.cat((grown, skip), dim=-1)).movedim(-1, 1)
    torch.testing.assert_close(model(x), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("rate", [0.5, 1, 2])
def test_offset_acts_before_the_activation(rate: float) -> None:
    model = small()
    convolution, norm, activation = {0.5: model.down[0], 1: model.mix[0], 2: model.up[0]}[rate]
    filtered = FilteredActivation(activation[0].activation, rate=rate)

    def written(x: Tensor) -> Tensor:
        return filtered(Chain(convolution, norm)(x) + activation.offset)

    x = torch.randn(1, 4, 6, convolution.in_channels, dtype=torch.float64)
    after = Chain(convolution, norm, activation)(x)
    torch.testing.assert_close(after, written(x), rtol=0, atol=1e-12)
    assert after.shape[1:3] == (4 * rate, 6 * rate)


def test_the_convolution_that_the_original_never_applies_is_idle_and_frozen() -> None:
    model = small()
    x = torch.randn(1, 1, 8, 8, dtype=torch.float64)
    before = model(x)
    for parameter in model.unused.parameters():
        assert not parameter.requires_grad
        nn.init.constant_(parameter, 7)
    assert torch.equal(model(x), before)
    default = CNO(1, 1)
    assert sum(p.numel() for p in default.parameters() if p.requires_grad) == 2_951_249 - 9_344


def test_wrong_arguments() -> None:
    for options, message in (
        ({"width": 5}, "CNO: width must be even and at least 2, got 5"),
        ({"levels": 0}, "CNO: levels must be at least 1, got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            CNO(1, 1, **options)
