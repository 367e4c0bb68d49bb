"""What is wrong is found before it is timed: in a function, and in any part of a model."""

from __future__ import annotations

import math

import pytest
import torch

from kinn.bench import WithoutScan, difference, model_difference, refuse_wrong
from kinn.models import FKNO, UNet
from kinn.nn import KirchhoffBlock


def test_right_models_agree_with_themselves_in_float64():
    torch.manual_seed(0)
    x = torch.randn(1, 2, 16, 16)
    assert model_difference(FKNO(2, 1, width=6, n_modes=(4, 4)), x) < 1e-4
    assert model_difference(UNet(2, 1, width=2, levels=2), x) < 1e-3
    assert model_difference(KirchhoffBlock(8), torch.randn(1, 5, 4, 8)) < 1e-4


class Slipped(KirchhoffBlock):
    """In single precision alone, as a kernel would be wrong."""

    def forward(self, x, **options):
        y = super().forward(x, **options)
        return y if x.dtype == torch.float64 else y * 1.01


def test_a_wrong_model_is_found():
    torch.manual_seed(0)
    x = torch.randn(1, 5, 4, 8)
    assert model_difference(Slipped(8), x) > 5e-3
    broken = KirchhoffBlock(8)
    with torch.no_grad():
        next(broken.parameters()).fill_(torch.nan)
    with pytest.raises(ArithmeticError, match="not finite"):
        model_difference(broken, x)


def test_gradients_that_vanish_but_for_rounding_count_by_the_largest():
    def function(x, idle):
        return x.square() + (1e-9 * idle if x.dtype == torch.float32 else 0 * idle)

    tensors = {"x": torch.ones(3), "idle": torch.ones(3)}
    assert difference(function, tensors, function, floor=1e-3) < 1e-5
    assert difference(function, tensors, function) == math.inf


def test_neither_a_wrong_result_nor_a_lost_definition_hides_behind_large_gradients():
    def function(x, weight):
        return x + 1e6 * (weight - weight.detach()) + (0.1 if x.dtype == torch.float32 else 0)

    tensors = {"x": torch.ones(3), "weight": torch.ones(3)}
    assert difference(function, tensors, function, floor=1e-3) > 0.05
    with pytest.raises(ArithmeticError, match="not finite"):
        difference(lambda x: x, {"x": torch.ones(3)}, lambda x: x * torch.nan)


def test_nothing_is_timed_that_is_wrong():
    refuse_wrong("the scan", 1e-6, most=1e-5)
    with pytest.raises(SystemExit, match=r"the scan differs by 2\.0e-05 from float64: nothing is timed"):
        refuse_wrong("the scan", 2e-5, most=1e-5)


def test_a_block_without_scan_passes_on_what_drives_the_cascade():
    """As a cell does that nothing couples to its potentials and whose skip is one."""
    block, without = (kind(8, order=1, routes=1) for kind in (KirchhoffBlock, WithoutScan))
    without.load_state_dict(block.state_dict())
    x = torch.randn(1, 5, 4, 8)
    assert not torch.allclose(block(x), without(x))
    for cells in block.cascades:
        torch.nn.init.zeros_(cells[0].x_proj.weight)
        torch.nn.init.ones_(cells[0].D)
    torch.testing.assert_close(block(x), without(x))
