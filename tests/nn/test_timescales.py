"""Time scales: what they say is what a cell does."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from kinn.models import FKNO, FNO
from kinn.nn import KirchhoffBlock, KirchhoffCell, time_scales


def block(**options) -> KirchhoffBlock:
    torch.manual_seed(0)
    return KirchhoffBlock(3, **{"d_state": 2, "routes": 2, **options}).double()


def set_circuit(cell: KirchhoffCell, decay: float, dt: float) -> None:
    """Steps and rates alike in all channels, whatever the drive."""
    with torch.no_grad():
        cell.dt_proj.weight.zero_()
        cell.dt_proj.bias.fill_(torch.tensor(dt, dtype=torch.float64).expm1().log())
        cell.A_log.fill_(torch.tensor(decay, dtype=torch.float64).log())
        cell.D.zero_()


def test_over_one_time_constant_a_potential_falls_to_1_over_e() -> None:
    circuit = block(n_axes=1, routes=1, order=1)
    cell = circuit.cascades[0][0]
    set_circuit(cell, decay=0.5, dt=0.2)
    (scale,) = time_scales(circuit)
    assert scale.time_constant == pytest.approx(3 * (10.0,))
    assert scale.step == pytest.approx(3 * (0.2,))
    x = torch.zeros(1, 31, cell.d_inner, dtype=torch.float64)
    x[:, 0] = 1
    _, first = cell(x[:, :1], return_state=True)
    _, later = cell(x[:, : 1 + round(scale.time_constant[1])], return_state=True)
    torch.testing.assert_close(later, first * torch.exp(torch.tensor(-1.0, dtype=torch.float64)))


@pytest.mark.parametrize("wiring", ["series", "parallel"])
def test_driven_cells_have_the_steps_that_their_drives_choose(wiring: str) -> None:
    circuit, x = block(wiring=wiring), torch.randn(2, 5, 4, 3, dtype=torch.float64)
    found = time_scales(circuit, lambda: circuit(x, dt_scale=0.5))
    assert [(scale.route, scale.cell) for scale in found] == [(r, k) for r in circuit.routes for k in (1, 2)]
    for route, cells in enumerate(circuit.cascades):
        drive = circuit.drive(x, 0.5)
        for place, cell in enumerate(cells):
            low = F.linear(drive, cell.x_proj.weight)[..., : cell.dt_rank]
            dt = 0.5 * F.softplus(F.linear(low, cell.dt_proj.weight, cell.dt_proj.bias))
            at = torch.tensor([0.1, 0.5, 0.9]).double()
            scale = found[2 * route + place]
            assert scale.step == pytest.approx(torch.quantile(dt, at).tolist())
            constants = 1 / (dt[..., None] * cell.A_log.exp())
            assert scale.time_constant == pytest.approx(torch.quantile(constants, at).tolist())
            if wiring == "series":
                drive = cell(drive, dt_scale=0.5, axis=circuit.routes[route].axis)


def test_a_sample_of_the_positions_stands_for_all_columns() -> None:
    """Of 4 x 32 x 32 positions and 128 channels every 32nd position is one in the first column."""
    torch.manual_seed(0)
    circuit = KirchhoffBlock(64, routes=1, order=1)
    with torch.no_grad():
        circuit.cascades[0][0].dt_proj.weight.mul_(20)
    x = torch.randn(4, 32, 32, 64) * torch.linspace(0.1, 3, 32)[:, None]
    x[:, :, 0] = 0
    (scale,) = time_scales(circuit, lambda: circuit(x))
    with torch.no_grad():
        steps = circuit.cascades[0][0].coefficients(circuit.drive(x, 1.0))[0]
    expected = torch.quantile(steps.flatten(), torch.tensor([0.1, 0.5, 0.9]))
    assert scale.step == pytest.approx(expected.tolist(), rel=0.1)


def test_a_run_under_autocast_tells_the_same() -> None:
    model = FKNO(1, 1, width=4, n_modes=(2, 2), d_state=2)
    x = torch.rand(1, 1, 8, 8)

    def run() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            model(x)

    for one, other in zip(time_scales(model, run), time_scales(model, lambda: model(x))):
        assert one.step == pytest.approx(other.step, rel=0.02)


def test_all_blocks_of_a_model_by_name() -> None:
    model = FKNO(1, 1, width=4, n_modes=(2, 2), d_state=2, routes=1)
    assert {(s.block, s.cell) for s in time_scales(model)} == {("trunk.local.0", 1), ("trunk.local.0", 2)}
    assert len(time_scales(model, lambda: model(torch.rand(1, 1, 8, 8)))) == 2
    one, x = block(n_axes=1, routes=1), torch.rand(1, 5, 3, dtype=torch.float64)
    assert time_scales(one, lambda: one(x=x)) == time_scales(one, lambda: one(x))
    assert not model.trunk.local[0]._forward_pre_hooks


def test_errors() -> None:
    with pytest.raises(ValueError, match="FNO has no Kirchhoff block"):
        time_scales(FNO(1, 1))
    with pytest.raises(ValueError, match="run does not call the block 'block'"):
        time_scales(block(), lambda: None)
