"""The selective scan as a loop over positions: the definition that every other backend is held against."""

from __future__ import annotations

import torch
from torch import Tensor

from kinn.ops.discretize import DISCRETIZATIONS


def selective_scan_reference(
    x: Tensor,
    dt: Tensor,
    a: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    initial_state: Tensor | None = None,
    *,
    injection: str = "zoh",
) -> tuple[Tensor, Tensor]:
    """Eqs. (20), (22), one position after the other, in plain differentiable PyTorch.

    Args:
        x: drive `(b, l, d)`.
        dt: step lengths `(b, l, d)`, non-negative.
        a: decay rates `(d, n)`, non-negative.
        B: injection `(b, l, n)`.
        C: readout `(b, l, n)`.
        D: skip `(d,)`, or None for none.
        initial_state: potentials before the first position `(b, d, n)`, or None for zero.
        injection: "zoh" or "euler".

    Returns:
        `(y, state)`: output `(b, l, d)` and the potentials after the last position `(b, d, n)`.
    """
    b, length, d = x.shape
    state = x.new_zeros(b, d, a.shape[1]) if initial_state is None else initial_state
    outputs = []
    for t in range(length):
        retain, inject = DISCRETIZATIONS[injection](dt[:, t, :, None], a)
        state = retain * state + inject * B[:, t, None, :] * x[:, t, :, None]
        outputs.append((state * C[:, t, None, :]).sum(-1))
    y = torch.stack(outputs, dim=1) if outputs else x.new_zeros(b, 0, d)
    return (y if D is None else y + D * x), state
