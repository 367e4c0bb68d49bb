"""The cascaded Kirchhoff block (CKO inside a CKB): K cells per route, each driven by the one before it."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from kinn.nn.cell import KirchhoffCell
from kinn.nn.mlp import ChannelMLP
from kinn.nn.routes import routes_for
from kinn.nn.separable import SeparableConv, spread
from kinn.ops import cascade_scan, evolution_branch, gated_output
from kinn.ops.expect import expect_at_least, expect_one_of, expect_positive

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float

__all__ = ["KirchhoffBlock"]


class KirchhoffBlock(nn.Module):
    """Residual block around a cascade of selective RC cells, on grids of one to three axes.

    Eqs. (4), (5), (18), (19), (23)-(26), with `K = order` cells per route::

        U = norm(X)
        E = silu(SeparableConv(U W_e)),    Z = silu(U W_z)
        Y_0 = E;  Y_k = cell_k(Y_{k-1}),  k = 1 .. K            wiring "series"
        Y = Y_1 + ... + Y_K, summed over routes
        out = X + s (norm(Y) * Z) W_o

    `wiring="parallel"` drives every cell by `E`. Each route has `K` cells of its own and runs them along its direction.
    The gate `Z` may be left out; the output norm, the learned scale `s` and an MLP branch behind
    (`out + mlp(norm(out))`) are optional. The convolution is centred, so a block does not run one position at a time;
    its cells do (:meth:`KirchhoffCell.step`).

    Args:
        d_model: channels `C`.
        order: cells in cascade `K`, at least 1.
        routes: number of directions, see :func:`routes_for`; None for every axis both ways.
        n_axes: number of grid axes, 1 to 3.
        d_state: potentials per channel `N`.
        expand: inner channels `D = expand * d_model`.
        dt_rank: rank of the steps' projection; None for `ceil(d_model / 16)`.
        wiring: "series" or "parallel".
        injection: "zoh" or "euler", see :class:`KirchhoffCell`.
        couplings: "free", as in the paper, or "bounded", see :class:`KirchhoffCell`: for three cells or more in series.
        boundary: "zero", or "periodic" for a domain that closes on itself: the convolution wraps around, and every scan
            starts in the state that it ends in.
        lines: "joined", one sequence over the whole grid, or "separate", every grid line a sequence of its own.
        kernel_size: odd width of the convolution.
        conv_bias: bias of the convolution's depthwise part.
        pointwise: whether the convolution mixes channels behind that part.
        pointwise_bias: bias of the mixing.
        gate: multiply the cascade's output by `Z`.
        output_norm: normalise `Y` before the gate.
        mlp_ratio: hidden channels of the MLP over `d_model`; 0 for no MLP.
        residual_scale: learn the scalar `s`, from 1; otherwise `s = 1`.
        drop_path: probability, in training, that a batch element skips a branch (stochastic depth, arXiv 1603.09382);
            what is kept is scaled up by as much.
        norm_eps: added to the variance under the root of every norm. Far below the features' variance, the block sees
            their direction alone; of its size, their strength as well.

    Raises:
        ValueError: an option or size that is not one of the above; on call, an input that does not fit.

    The block of FKNO with two routes, 7,081 + 2 * 4,320 parameters:

    >>> block = KirchhoffBlock(20, routes=2, output_norm=True, mlp_ratio=3, residual_scale=True)
    >>> sum(p.numel() for p in block.parameters())
    15721
    >>> block(torch.rand(1, 6, 5, 20)).shape
    torch.Size([1, 6, 5, 20])
    """

    def __init__(
        self,
        d_model: int,
        *,
        order: int = 2,
        routes: int | None = None,
        n_axes: int = 2,
        d_state: int = 16,
        expand: float = 2,
        dt_rank: int | None = None,
        wiring: str = "series",
        injection: str = "zoh",
        couplings: str = "free",
        boundary: str = "zero",
        lines: str = "joined",
        kernel_size: int = 3,
        conv_bias: bool = True,
        pointwise: bool = True,
        pointwise_bias: bool = True,
        gate: bool = True,
        output_norm: bool = False,
        mlp_ratio: float = 0,
        residual_scale: bool = False,
        drop_path: float = 0,
        norm_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        expect_at_least("KirchhoffBlock", 1, d_model=d_model, order=order)
        expect_positive("KirchhoffBlock", norm_eps=norm_eps)
        expect_one_of("KirchhoffBlock", ("series", "parallel"), wiring=wiring)
        expect_one_of("KirchhoffBlock", ("joined", "separate"), lines=lines)
        if not 0 <= drop_path < 1:
            raise ValueError(f"KirchhoffBlock: drop_path must be at least 0 and below 1, got {drop_path}")
        d_inner = _share(expand, d_model)
        self.d_model = d_model
        self.d_inner = d_inner
        self.n_axes = n_axes
        self.wiring = wiring
        self.injection = injection
        self.couplings = couplings
        self.boundary = boundary
        self.lines = lines
        self.gate = gate
        self.drop_path = drop_path
        self.routes = routes_for(n_axes, 2 * n_axes if routes is None else routes)
        self.norm = nn.LayerNorm(d_model, norm_eps)
        self.in_proj = nn.Linear(d_model, 2 * d_inner if gate else d_inner, bias=False)
        self.conv = SeparableConv(
            d_inner,
            d_inner if pointwise else None,
            n_axes=n_axes,
            kernel_size=kernel_size,
            bias=conv_bias,
            pointwise_bias=pointwise_bias,
            boundary=boundary,
        )
        rank = math.ceil(d_model / 16) if dt_rank is None else dt_rank
        self.cascades = nn.ModuleList(
            nn.ModuleList(
                KirchhoffCell(d_inner, d_state=d_state, dt_rank=rank, injection=injection, couplings=couplings)
                for _ in range(order)
            )
            for _ in self.routes
        )
        self.output_norm = nn.LayerNorm(d_inner, norm_eps) if output_norm else None
        self.out_proj = nn.Linear(d_inner, d_model, bias=False)
        self.scale = nn.Parameter(torch.ones(())) if residual_scale else None
        hidden = _share(mlp_ratio, d_model)
        self.mlp = ChannelMLP(d_model, hidden, d_model, norm=True, norm_eps=norm_eps) if mlp_ratio else None

    def forward(self, x: Float[Tensor, "b *grid c"], *, dt_scale: float = 1.0) -> Float[Tensor, "b *grid c"]:
        """Map `(b, *grid, d_model)` to the same shape.

        Args:
            x: field on a grid of `n_axes` axes.
            dt_scale: the grid's spacing over the spacing in training. Every step of every cell is multiplied by it, and
                the convolution's taps stay where they are in space.
        """
        if x.dim() != self.n_axes + 2 or x.shape[-1] != self.d_model:
            grid = ", ".join(["height", "width", "depth"][: self.n_axes])
            raise ValueError(
                f"KirchhoffBlock: expected shape (batch, {grid}, {self.d_model}), channels last, got {tuple(x.shape)}; "
                f"n_axes is {self.n_axes}"
            )
        expect_positive("KirchhoffBlock", dt_scale=dt_scale)
        norm, inner, out = self.norm, self.output_norm, self.out_proj.weight
        into_cascade, into_gate = self._inward()
        x = gated_output(
            x,
            self._cascade(self._evolve(x, into_cascade, dt_scale), dt_scale),
            into_gate,
            out if self.scale is None else self.scale * out,
            norm=(norm.weight, norm.bias),
            inner_norm=None if inner is None else (inner.weight, inner.bias),
            eps=norm.eps,
            inner_eps=0.0 if inner is None else inner.eps,
            factor=self._kept(x),
        )
        if self.mlp is None:
            return x
        branch, factor = self.mlp(x), self._kept(x)
        return x + (branch if factor is None else branch * factor.view(-1, *(1,) * (x.dim() - 1)))

    def drive(self, x: Float[Tensor, "b *grid c"], dt_scale: float = 1.0) -> Float[Tensor, "b *grid d"]:
        """What drives the first cells, `(b, *grid, d_inner)`: `E` of Eq. (19)."""
        return self._evolve(x, self._inward()[0], dt_scale)

    def _inward(self) -> tuple[Tensor, Tensor | None]:
        """`W_e` and `W_z`."""
        if not self.gate:
            return self.in_proj.weight, None
        into_cascade, into_gate = self.in_proj.weight.chunk(2)
        return into_cascade, into_gate

    def _evolve(self, x: Tensor, into_cascade: Tensor, dt_scale: float) -> Tensor:
        norm, conv = self.norm, self.conv
        return evolution_branch(
            x,
            into_cascade,
            self._filters(x.shape[1:-1], dt_scale),
            conv.bias,
            *((None, None) if conv.pointwise is None else (conv.pointwise.weight, conv.pointwise.bias)),
            norm=(norm.weight, norm.bias),
            eps=norm.eps,
            periodic=self.boundary == "periodic",
        )

    def _filters(self, grid: Sequence[int], dt_scale: float) -> Tensor:
        """The convolution's filters for the distance of the points, no wider than the grid."""
        filters = self.conv.weight
        reach = filters.shape[-1] // 2
        if dt_scale == 1 or reach == 0:
            return filters
        return spread(filters, min(1 / dt_scale, (min if self.boundary == "periodic" else max)(grid) / reach))

    def _kept(self, x: Tensor) -> Tensor | None:
        """Which batch elements take a branch, scaled so that its mean is as without dropping."""
        if not (self.training and self.drop_path):
            return None
        kept = 1 - self.drop_path
        return x.new_empty(len(x)).bernoulli_(kept).div_(kept)

    def _cascade(self, drive: Tensor, dt_scale: float) -> Tensor:
        """Dense aggregation of all orders along all routes, Eqs. (23), (24)."""
        if self.output_norm is not None and drive.dtype == torch.float16:
            drive = drive.float()  # the sum of orders, which the norm brings back, would overflow
        cells: list[Any] = list(itertools.chain.from_iterable(cast("Any", self.cascades)))

        def stacked(parameters: list[Tensor]) -> Tensor:
            return torch.stack(parameters).unflatten(0, (len(self.routes), -1))

        return cascade_scan(
            drive,
            stacked([cell.x_proj.weight for cell in cells]),
            stacked([cell.dt_proj.weight for cell in cells]),
            stacked([cell.dt_proj.bias for cell in cells]),
            stacked([cell.A_log for cell in cells]).exp(),
            stacked([cell.D for cell in cells]),
            routes=self.routes,
            wiring=self.wiring,
            injection=self.injection,
            couplings=self.couplings,
            dt_scale=dt_scale,
            lines=self.lines,
            boundary=self.boundary,
        )

    def extra_repr(self) -> str:
        """What the sub-modules do not show, for `repr`."""
        directions = ", ".join(f"{'-' if route.reverse else '+'}{route.axis}" for route in self.routes)
        return f"wiring={self.wiring!r}, routes=({directions}), lines={self.lines!r}, boundary={self.boundary!r}"


def _share(ratio: float, channels: int) -> int:
    """So many times the channels, rounded down; 0.29 times 100 is 29, which floating point falls short of."""
    return math.floor(ratio * channels + 1e-9)
