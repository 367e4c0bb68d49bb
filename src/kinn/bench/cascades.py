"""Ways to compute a cascade over four routes: functions of the tensors of :func:`kinn.ops.cascade_scan`; and none."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from kinn.nn import KirchhoffBlock
from kinn.ops import cascade_scan, grid_scan, selective_scan
from kinn.ops.triton.cascade import cascade_fits_triton

ROUTES = [(1, False), (0, False), (1, True), (0, True)]


def as_one(x: Tensor, projection: Tensor, dt_weight: Tensor, dt_bias: Tensor, a: Tensor, D: Tensor) -> Tensor:
    """The operator, which fails where its kernels cannot run.

    Raises:
        RuntimeError: if a GPU would scan the cells one after the other.
    """
    backend = "triton" if x.device.type == "cuda" else "cpu"
    if backend == "triton" and not cascade_fits_triton(x, dt_weight, a, [axis for axis, _ in ROUTES], True, False):
        raise RuntimeError("no fused cascade at this size: this GPU scans the cells one after the other")
    return cascade_scan(x, projection, dt_weight, dt_bias, a, D, routes=ROUTES, backend=backend)


def cell_by_cell(x: Tensor, projection: Tensor, dt_weight: Tensor, dt_bias: Tensor, a: Tensor, D: Tensor) -> Tensor:
    """Each cell of each route by the compiled scan, what it reads formed and stored by PyTorch."""
    total: Any = 0
    for r, (axis, reverse) in enumerate(ROUTES):
        drive: Any = x
        for k in range(a.shape[1]):
            low, B, C = F.linear(drive, projection[r, k]).split((dt_weight.shape[-1], *(a.shape[-1],) * 2), dim=-1)
            dt = F.softplus(F.linear(low, dt_weight[r, k], dt_bias[r, k]))
            drive = grid_scan(drive, dt, a[r, k], B, C, D[r, k], axis=axis, reverse=reverse)
            total = total + drive
    return total


def copied_routes(x: Tensor, projection: Tensor, dt_weight: Tensor, dt_bias: Tensor, a: Tensor, D: Tensor) -> Tensor:
    """Routes as copies of the field, and merged again, in the manner of VMamba's cross-scan; the scan is ours."""
    b, rows, columns, d = x.shape
    n, rank = a.shape[-1], dt_weight.shape[-1]
    ahead = torch.stack((x.flatten(1, 2), x.transpose(1, 2).flatten(1, 2)), 1)
    drive = torch.cat((ahead, ahead.flip(2)), 1)  # (b, 4, l, d)
    total: Any = 0
    for k in range(a.shape[1]):
        low, B, C = torch.einsum("brld,rpd->brlp", drive, projection[:, k]).split((rank, n, n), dim=-1)
        dt = F.softplus(torch.einsum("brlp,rdp->brld", low, dt_weight[:, k]) + dt_bias[:, k].unsqueeze(1))
        scans: list[Any] = [
            selective_scan(drive[:, r], dt[:, r], a[r, k], B[:, r], C[:, r], D[r, k]) for r in range(len(ROUTES))
        ]
        drive = torch.stack(scans, 1)
        total = total + drive
    merged = total[:, :2] + total[:, 2:].flip(2)
    return merged[:, 0].view(x.shape) + merged[:, 1].view(b, columns, rows, d).transpose(1, 2)


class WithoutScan(KirchhoffBlock):
    """The same block, its cascade replaced by nothing: the gate multiplies what would drive it."""

    def _cascade(self, drive: Tensor, dt_scale: float) -> Tensor:
        return drive
