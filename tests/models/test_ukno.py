"""What is particular to UKNO."""

from __future__ import annotations

import pytest
import torch

from kinn.models import UKNO, UKNO_SHALLOW


def test_shallow_layout_is_the_default() -> None:
    arguments = UKNO(1, 1, width=4).arguments
    assert {name: arguments[name] for name in UKNO_SHALLOW} == UKNO_SHALLOW


def test_blocks_stand_at_the_five_coarse_positions() -> None:
    model = UKNO(1, 1)
    widths = [model.down_blocks[level].d_model for level in ("1", "2")]
    assert (widths, model.neck_block.d_model) == ([64, 128], 256)
    assert [model.up_blocks[level].d_model for level in ("2", "1")] == [128, 64]


def test_periodic_operator_commutes_with_shifts_by_its_coarsest_cell() -> None:
    torch.manual_seed(0)
    model = UKNO(1, 1, width=4, levels=2, boundary="periodic", lines="separate").double().eval()
    x = torch.randn(1, 1, 16, 12, dtype=torch.float64)
    torch.testing.assert_close(model(x.roll((4, 8), (2, 3))), model(x).roll((4, 8), (2, 3)), rtol=0, atol=1e-10)


def test_wrong_arguments() -> None:
    for options, message in (
        ({"order": -1}, "order must be at least 0, got -1"),
        ({"width": 5}, "width must be even and at least 2, got 5"),
        ({"levels": 0}, "levels must be at least 1, got 0"),
        ({"routes": 3}, "a 2-D grid takes 1, 2, 4 routes, got 3"),
        ({"lift_channels": 0}, "UKNO: lift_channels must be at least 1, got 0"),
        ({"routes": 5, "order": 0}, "a 2-D grid takes 1, 2, 4 routes, got 5"),
        ({"wiring": "ring", "order": 0}, "wiring must be one of 'series', 'parallel', got 'ring'"),
        ({"boundary": "open", "order": 0}, "boundary must be one of 'zero', 'periodic', got 'open'"),
    ):
        with pytest.raises(ValueError, match=message):
            UKNO(1, 1, **{"width": 4, **options})
