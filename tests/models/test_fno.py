"""What is particular to the Fourier operators."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from kinn.models import FKNO, FNO
from kinn.nn import KirchhoffBlock


@pytest.mark.parametrize("model", [FNO, FKNO])
def test_model_is_the_written_composition(model: type) -> None:
    trunk = model(2, 1, width=5, n_modes=(3, 3), n_layers=3).double().trunk
    assert isinstance(trunk.local[0], KirchhoffBlock) == (model is FKNO)
    x = torch.randn(2, 2, 7, 9, dtype=torch.float64)
    axes = [torch.linspace(0, 1, n, dtype=torch.float64) for n in (7, 9)]
    coordinates = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).expand(2, -1, -1, -1)
    y = trunk.lift(torch.cat((x.permute(0, 2, 3, 1), coordinates), -1))
    y = F.gelu(trunk.spectral[0](y) + trunk.local[0](y))
    y = F.gelu(trunk.spectral[1](y) + trunk.local[1](y))
    y = trunk.spectral[2](y) + trunk.local[2](y)
    first, _, last = trunk.project
    expected = last(F.gelu(first(y))).permute(0, 3, 1, 2)
    torch.testing.assert_close(trunk(x), expected, rtol=0, atol=1e-12)


def test_without_coordinates_a_periodic_fno_commutes_with_shifts() -> None:
    model = FNO(1, 1, width=4, n_modes=(3, 3), coordinates=False).double()
    x = torch.randn(1, 1, 8, 10, dtype=torch.float64)
    torch.testing.assert_close(model(x.roll((3, 4), (2, 3))), model(x).roll((3, 4), (2, 3)), rtol=0, atol=1e-12)


def test_wrong_arguments() -> None:
    for model in (FNO, FKNO):
        with pytest.raises(ValueError, match=f"{model.__name__}: n_layers must be at least 1, got 0"):
            model(1, 1, n_layers=0)
        with pytest.raises(ValueError, match="n_modes must be two positive integers, got 3"):
            model(1, 1, n_modes=3)
        with pytest.raises(ValueError, match="coordinates must be one of True, False, got 2"):
            model(1, 1, coordinates=2)
