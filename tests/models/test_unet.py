"""What is particular to the U-Net."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from kinn.models import UNet


def test_model_is_the_written_composition() -> None:
    torch.manual_seed(0)
    model = UNet(2, 3, width=4, levels=2).double().eval()
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_()
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 2)
    state = model.state_dict()

    def pair(x: torch.Tensor, prefix: str) -> torch.Tensor:
        for conv, norm in ((0, 1), (3, 4)):
            x = F.conv2d(x, state[f"{prefix}.{conv}.weight"], padding=1)
            mean, var, weight, bias = (
                state[f"{prefix}.{norm}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
            )
            x = torch.tanh(F.batch_norm(x, mean, var, weight, bias))
        return x

    def grow(x: torch.Tensor, level: int) -> torch.Tensor:
        return F.conv_transpose2d(x, state[f"grow.{level}.weight"], state[f"grow.{level}.bias"], stride=2)

    x = torch.randn(2, 2, 8, 12, dtype=torch.float64)
    fine = pair(x, "down.0")
    coarse = pair(F.max_pool2d(fine, 2), "down.1")
    y = pair(F.max_pool2d(coarse, 2), "neck")
    y = pair(torch.cat((grow(y, 1), coarse), 1), "up.1")
    y = pair(torch.cat((grow(y, 0), fine), 1), "up.0")
    expected = F.conv2d(y, state["project.weight"], state["project.bias"])
    torch.testing.assert_close(model(x), expected, rtol=0, atol=1e-12)


def test_periodic_model_commutes_with_shifts_by_its_coarsest_cell() -> None:
    torch.manual_seed(0)
    model = UNet(2, 1, width=4, levels=2, boundary="periodic").double().eval()
    x = torch.randn(1, 2, 16, 12, dtype=torch.float64)
    torch.testing.assert_close(model(x.roll((4, 8), (2, 3))), model(x).roll((4, 8), (2, 3)), rtol=0, atol=1e-12)


def test_on_a_finer_periodic_grid_it_sees_every_second_point() -> None:
    """Where the points of the training's grid lie among the finer ones; as centres of cells they would not."""
    torch.manual_seed(0)
    model = UNet(1, 1, width=4, levels=1, boundary="periodic").double().eval()
    x = torch.randn(1, 1, 16, 16, dtype=torch.float64)
    fine, coarse = model(x, dt_scale=0.5)[..., ::2, ::2], model(x[..., ::2, ::2])
    torch.testing.assert_close(fine, coarse, rtol=0, atol=1e-12)


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match="UNet: boundary must be one of 'zero', 'periodic', got 'open'"):
        UNet(1, 1, boundary="open")
    for name in ("width", "levels"):
        with pytest.raises(ValueError, match=f"UNet: {name} must be at least 1, got 0"):
            UNet(1, 1, **{name: 0})
