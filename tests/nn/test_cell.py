"""The selective cell: its circuit, its parameters, one position at a time."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from kinn.nn import KirchhoffBlock, KirchhoffCell, no_weight_decay


def frozen_cell(decay: float, dt: float) -> KirchhoffCell:
    """One channel, one potential, coefficients that do not depend on the input: B = C = x / x = 1 for a unit drive."""
    cell = KirchhoffCell(1, d_state=1, dt_rank=1).double()
    with torch.no_grad():
        cell.x_proj.weight.copy_(torch.tensor([[0.0], [1.0], [1.0]]))
        cell.dt_proj.bias.fill_(torch.tensor(dt, dtype=torch.float64).expm1().log())
        cell.A_log.fill_(torch.tensor(decay, dtype=torch.float64).log())
        cell.D.zero_()
    return cell


@pytest.mark.parametrize("dt", [1e-3, 0.1, 3.0])
def test_constant_drive_charges_exponentially(dt: float) -> None:
    decay = 2.5
    y = frozen_cell(decay, dt)(torch.ones(1, 40, 1, dtype=torch.float64)).flatten()
    t = dt * torch.arange(1, 41, dtype=torch.float64)
    torch.testing.assert_close(y, -torch.expm1(-decay * t) / decay, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("injection", ["zoh", "euler"])
def test_step_equals_forward(injection: str) -> None:
    cell = KirchhoffCell(5, d_state=3, dt_rank=2, injection=injection).double()
    x = torch.randn(2, 12, 5, dtype=torch.float64)
    expected, last = cell(x, dt_scale=0.7, return_state=True)
    state, outputs = None, []
    for t in range(12):
        y, state = cell.step(x[:, t], state, dt_scale=0.7)
        outputs.append(y)
    torch.testing.assert_close(torch.stack(outputs, 1), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(state, last, rtol=0, atol=1e-12)


@pytest.mark.parametrize("couplings", ["free", "bounded"])
def test_forward_is_the_written_equations(couplings: str) -> None:
    cell = KirchhoffCell(3, d_state=2, dt_rank=1, couplings=couplings).double()
    x = 3 * torch.randn(1, 6, 3, dtype=torch.float64)
    low, B, C = F.linear(x, cell.x_proj.weight).split((1, 2, 2), -1)
    if couplings == "bounded":
        B, C = (t / (1 + t.pow(2).sum(-1, keepdim=True) / 2).sqrt() for t in (B, C))
    dt = F.softplus(F.linear(low, cell.dt_proj.weight, cell.dt_proj.bias))
    a = cell.A_log.exp()
    h = torch.zeros(3, 2, dtype=torch.float64)
    expected = []
    for t in range(6):
        retain = torch.exp(-dt[0, t, :, None] * a)
        h = retain * h + (1 - retain) / a * B[0, t] * x[0, t, :, None]
        expected.append((h * C[0, t]).sum(-1) + cell.D * x[0, t])
    torch.testing.assert_close(cell(x)[0], torch.stack(expected), rtol=1e-10, atol=1e-12)


def test_initialisation() -> None:
    torch.manual_seed(3)
    cell = KirchhoffCell(4000, d_state=3, dt_rank=2)
    dt = F.softplus(cell.dt_proj.bias).log10()
    assert -3 <= dt.min() < -2.98
    assert -1.02 < dt.max() <= -0.999
    assert abs(dt.mean() + 2) < 0.05  # log-uniform: the mean exponent lies half-way
    torch.testing.assert_close(cell.A_log.exp()[7], torch.tensor([1.0, 2.0, 3.0]))
    assert (cell.D == 1).all()
    torch.manual_seed(3)
    again = KirchhoffCell(4000, d_state=3, dt_rank=2)
    assert all(torch.equal(p, q) for p, q in zip(cell.parameters(), again.parameters()))


@pytest.mark.parametrize(("width", "n", "rank"), [(40, 16, 2), (7, 1, 3)])
def test_parameter_count(width: int, n: int, rank: int) -> None:
    cell = KirchhoffCell(width, d_state=n, dt_rank=rank)
    expected = width * (rank + 2 * n) + (rank * width + width) + width * n + width
    assert sum(p.numel() for p in cell.parameters()) == expected


def test_no_weight_decay_names_rates_vectors_and_scalars() -> None:
    block = KirchhoffBlock(6, order=1, routes=1, output_norm=True, mlp_ratio=2, residual_scale=True)
    decayed = set(dict(block.named_parameters())) - no_weight_decay(block)
    matrices = {
        f"{name}.weight".lstrip(".")
        for name, module in block.named_modules()
        if isinstance(module, nn.Linear) or name == "conv"
    }
    assert decayed == matrices
    assert {"cascades.0.0.A_log", "cascades.0.0.D", "cascades.0.0.dt_proj.bias", "scale"} <= no_weight_decay(block)


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match="dt_rank must be at least 1, got 0"):
        KirchhoffCell(4, dt_rank=0)
    with pytest.raises(ValueError, match="injection must be one of 'zoh', 'euler', got 'rk4'"):
        KirchhoffCell(4, dt_rank=1, injection="rk4")
    with pytest.raises(ValueError, match="couplings must be one of 'free', 'bounded', got 'tight'"):
        KirchhoffCell(4, dt_rank=1, couplings="tight")
    with pytest.raises(ValueError, match="dt_scale must be positive, got -1"):
        KirchhoffCell(4, dt_rank=1)(torch.zeros(1, 3, 4), dt_scale=-1)
