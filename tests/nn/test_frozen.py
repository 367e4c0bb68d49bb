"""From a block to its circuit: stepping the circuit is the scan with coefficients that stand still."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kinn.models import FKNO, FNO
from kinn.nn import KirchhoffBlock, circuit_of
from kinn.ops.path import Path


def unselective(**options) -> KirchhoffBlock:
    """Cells whose coefficients follow from channel 0 alone, and that hand its constant drive on as it is."""
    torch.manual_seed(1)
    block = KirchhoffBlock(4, **{"order": 3, "d_state": 3, "routes": 2, **options}).double()
    with torch.no_grad():
        block.conv.pointwise.weight[0], block.conv.pointwise.bias[0] = 0, 1.5
        for cell in (cell for cells in block.cascades for cell in cells):
            cell.x_proj.weight[:, 1:] = 0
            cell.x_proj.weight[:, 0] *= 4
            cell.dt_proj.bias += 3
            cell.A_log[0] = 80.0  # a potential that keeps nothing from one position to the next, and hardly any drive
            cell.D[1:].normal_()
    return block


@pytest.mark.parametrize(
    ("wiring", "injection", "couplings", "lines", "dt_scale"),
    [
        ("series", "zoh", "free", "joined", 1.0),
        ("series", "euler", "bounded", "joined", 0.5),
        ("parallel", "zoh", "bounded", "separate", 0.5),
        ("parallel", "euler", "free", "joined", 1.0),
    ],
)
def test_stepping_the_circuit_is_the_frozen_scan(wiring, injection, couplings, lines, dt_scale) -> None:
    block = unselective(wiring=wiring, injection=injection, couplings=couplings, lines=lines)
    x = torch.randn(2, 5, 6, 4, dtype=torch.float64)
    with torch.no_grad():
        drive = block.drive(x, dt_scale)
        expected = block._cascade(drive, dt_scale)
    found = torch.zeros(60, dtype=torch.float64).view(2, 30, 1)
    channel, sample = 3, 1
    for number, route in enumerate(block.routes):
        circuit = circuit_of(
            block, lambda: block(x, dt_scale=dt_scale), channel=channel, route=number, position=(4, 1), sample=sample
        )
        assert len(circuit.nodes) == 9
        assert abs(circuit.dc_gain - circuit.feedthrough) > 0.1  # its potentials count
        assert len(circuit) == (3 if wiring == "series" else 1)
        path = Path.along((5, 6), route.axis, joined=lines == "joined", reverse=route.reverse)
        sequences = path.gather(drive[..., channel].reshape(2, 30, 1))[..., 0]
        y, _ = circuit.simulate_cells(sequences.numpy(), 1.0)
        found += path.scatter(torch.from_numpy(y).unsqueeze(-1), 2)
    np.testing.assert_allclose(found.view(2, 5, 6), expected[..., channel], rtol=1e-12, atol=1e-12)


def test_a_settled_selective_block_has_the_circuits_dc_gain() -> None:
    """Under a drive that is the same everywhere a block settles, and its cells are those frozen where it has."""
    torch.manual_seed(0)
    block = KirchhoffBlock(3, n_axes=1, routes=1, d_state=2, kernel_size=1, order=3).double()
    with torch.no_grad():
        for cell in block.cascades[0]:
            cell.dt_proj.bias += 4
            cell.x_proj.weight *= 3
    x = torch.randn(3, dtype=torch.float64).expand(1, 300, 3)
    with torch.no_grad():
        drive = block.drive(x)[0, -1]
        settled = block._cascade(block.drive(x), 1.0)[0, -1]
    for channel in range(block.d_inner):
        circuit = circuit_of(block, lambda: block(x), channel=channel, position=(299,))
        assert circuit.dc_gain * drive[channel].item() == pytest.approx(settled[channel].item(), rel=1e-12)
        first = circuit_of(block, lambda: block(x), channel=channel, position=(0,))
        assert first.dc_gain != pytest.approx(circuit.dc_gain, rel=1e-3)  # the later cells' drives charge up


def test_the_block_of_a_model_by_name_and_the_middle_by_default() -> None:
    torch.manual_seed(0)
    model, x = FKNO(1, 1, width=4, n_modes=(2, 2), d_state=2, routes=2), torch.rand(2, 1, 8, 6)
    by_default = circuit_of(model, lambda: model(x), channel=0)
    assert by_default == circuit_of(
        model, lambda: model(x), channel=0, block="trunk.local.0", route=0, position=(4, 3), sample=0
    )
    for other in ({"route": 1}, {"position": (4, 2)}, {"sample": 1}, {"channel": 1}):
        assert by_default != circuit_of(model, lambda: model(x), **{"channel": 0, **other})
    assert not model.trunk.local[0]._forward_pre_hooks


def test_what_is_not_there_is_refused() -> None:
    block, x = KirchhoffBlock(3, routes=1, d_state=1), torch.rand(2, 4, 5, 3)

    def refuse(message: str, **options) -> None:
        with pytest.raises(ValueError, match=message):
            circuit_of(block, lambda: block(x), **{"channel": 0, **options})

    refuse(r"circuit_of: channel must lie in 0 \.\. 5, got 6", channel=6)
    refuse(r"route must lie in 0 \.\. 0, got 1", route=1)
    refuse(r"sample must lie in 0 \.\. 1, got -1", sample=-1)
    refuse(r"position along axis 1 must lie in 0 \.\. 4, got 5", position=(0, 5))
    refuse(r"position must have 2 indices, one for each grid axis, got \[3\]", position=(3,))
    refuse("the blocks are block, got 'neck_block'", block="neck_block")
    with pytest.raises(ValueError, match="FNO has no Kirchhoff block"):
        circuit_of(FNO(1, 1), lambda: None, channel=0)
    with pytest.raises(ValueError, match="run does not call the block 'block'"):
        circuit_of(block, lambda: None, channel=0)
