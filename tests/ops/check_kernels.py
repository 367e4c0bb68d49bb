"""Hold the kernels that a device gets against the definition in float64, at the sizes of our models.

    python tests/ops/check_kernels.py cuda

Values, all gradients, and whether they are the same bits again. Run in a process of its own: kernels are either
compiled or interpreted.
"""

from __future__ import annotations

import functools
import sys

import torch

from kinn.ops import cascade_scan, grid_scan
from kinn.ops.triton.cascade import cascade_fits_triton
from kinn.ops.triton.scan import processors_of

ROUTES = [(1, False), (0, False), (1, True), (0, True)]
CASCADES = {  # batch, grid, channels, potentials, rank, cells; whether the cascade is fused
    "FKNO": ("many", (33, 31), 40, 16, 2, 2, True),
    "FKNO, few": ("few", (33, 31), 40, 16, 2, 2, False),
    "UKNO": (2, (16, 16), 256, 8, 8, 4, False),
    "UKNO deep": (2, (9, 8), 128, 1, 8, 2, True),
    "KINN": (2, (15, 14), 144, 1, 6, 1, True),
    "narrow": (2, (7, 5), 8, 16, 1, 2, True),
    "wide rank": (1, (12, 11), 48, 4, 20, 1, True),
}
SCANS = {"sequence": (2, (1025,), 64, 16), "map": (2, (29, 31), 192, 1), "tiny": (1, (7, 7), 1536, 1)}
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-11, torch.bfloat16: 2e-2}


def cascade(batch, grid, d, n, rank, cells, normal):
    each = (len(ROUTES), cells)
    return {
        "x": normal(batch, *grid, d),
        "projection": normal(*each, rank + 2 * n, d) * 0.4 * (n * d) ** -0.5,
        "dt_weight": normal(*each, d, rank) * rank**-0.5,
        "dt_bias": normal(*each, d) - 3,
        "a": torch.exp(0.5 * normal(*each, d, n)),
        "D": normal(*each, d),
    }


def scan(batch, grid, d, n, normal):
    return {
        "x": normal(batch, *grid, d),
        "dt": torch.nn.functional.softplus(normal(batch, *grid, d) - 2),
        "a": torch.exp(0.5 * normal(d, n)),
        "B": normal(batch, *grid, n),
        "C": normal(batch, *grid, n),
        "D": normal(d),
    }


def differentiate(function, arguments):
    leaves = {k: v.detach().clone().requires_grad_() for k, v in arguments.items()}
    y = function(**leaves)
    given = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y)
    return [y.detach(), *torch.autograd.grad(y, list(leaves.values()), given)]


def check(name, function, arguments, device):
    for dtype, tolerance in TOLERANCE.items():
        rounded = {k: v.to(dtype if k == "x" or dtype != torch.bfloat16 else torch.float32).to(device)
                   for k, v in arguments.items()}  # fmt: skip
        wide = {k: v.double() for k, v in rounded.items()}
        exact = differentiate(functools.partial(function, backend="reference"), wide)
        got, again = (differentiate(function, rounded) for _ in range(2))
        worst = max(((g.double() - e).abs().max() / e.abs().max()).item() for g, e in zip(got, exact, strict=True))
        same = all(map(torch.equal, got, again))
        print(f"{name:10} {dtype!s:15} error {worst:.1e}, same bits again: {same}")
        assert worst < tolerance, name
        assert same, name


def main() -> None:
    device = torch.device(sys.argv[1] if len(sys.argv) > 1 else "cuda")
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    processors = processors_of(torch.empty(0, device=device))
    # whose sequences, of four routes each, keep half of the processors busy, or a quarter
    batches = {"many": -(-processors // 8), "few": max(1, processors // 16)}
    for name, (batch, *sizes, fused) in CASCADES.items():
        given = cascade(batches.get(batch, batch), *sizes, normal)
        x, axes = given["x"].to(device), [axis for axis, _ in ROUTES]
        found = cascade_fits_triton(x, given["dt_weight"], given["a"], axes, True, False)
        assert found == fused or device.type == "cpu", f"{name}: fused is {found}, so that this checks something else"
        check(name, functools.partial(cascade_scan, routes=ROUTES), given, device)
    for name, sizes in SCANS.items():
        check(name, functools.partial(grid_scan, axis=0), scan(*sizes, normal), device)


if __name__ == "__main__":
    main()
