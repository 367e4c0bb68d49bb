"""The selective RC cell (KNC) and the parameters of it that take no weight decay."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kinn.ops import grid_scan
from kinn.ops.expect import expect_at_least, expect_one_of, expect_positive
from kinn.ops.reference import bounded

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = ["KirchhoffCell", "no_weight_decay"]

_LEAST_DT, _GREATEST_DT = 1e-3, 1e-1


class KirchhoffCell(nn.Module):
    """Selective cell: every channel drives `N` leaky RC nodes whose step and couplings depend on the input.

    Eqs. (17), (20)-(22), with `D = d_inner` channels and `N = d_state` potentials per channel::

        dt = softplus(x W_low W_up + bias)       steps, scaled by dt_scale
        B = x W_B,    C = x W_C                  injection and readout
        a = exp(A_log) > 0                       decay rates
        h[t] = exp(-dt a) h[t-1] + inject B x[t],    y[t] = sum_n C h[t] + D_skip x[t]

    where `inject` is `(1 - exp(-dt a)) / a` for `injection="zoh"`, exact for a drive held over the step, and `dt` for
    "euler". With `couplings="bounded"` `B / sqrt(1 + mean(B^2))`, the mean over the potentials, takes the place of `B`,
    and likewise for `C`: what a cell injects and reads is then at most linear in its drive, as in a passive circuit,
    where free ones make it cubic. At the start `a = 1 .. N`, `D_skip = 1`, and `softplus(bias)` is log-uniform in
    [1e-3, 1e-1].

    Args:
        d_inner: channels `D`.
        d_state: potentials per channel `N`.
        dt_rank: rank of the projection to `dt`.
        injection: "zoh" or "euler".
        couplings: "free" or "bounded".

    Raises:
        ValueError: a size below 1, unknown injection or couplings.

    It has `D (rank + 2 N) + (rank D + D) + D N + D` parameters:

    >>> cell = KirchhoffCell(40, dt_rank=2)
    >>> sum(p.numel() for p in cell.parameters())
    2160
    >>> cell(torch.rand(1, 6, 5, 40), axis=0, reverse=True).shape
    torch.Size([1, 6, 5, 40])
    """

    def __init__(
        self, d_inner: int, *, d_state: int = 16, dt_rank: int, injection: str = "zoh", couplings: str = "free"
    ) -> None:
        super().__init__()
        expect_at_least("KirchhoffCell", 1, d_inner=d_inner, d_state=d_state, dt_rank=dt_rank)
        expect_one_of("KirchhoffCell", ("zoh", "euler"), injection=injection)
        expect_one_of("KirchhoffCell", ("free", "bounded"), couplings=couplings)
        self.d_inner = d_inner
        self.d_state = d_state
        self.dt_rank = dt_rank
        self.injection = injection
        self.couplings = couplings
        self.x_proj = nn.Linear(d_inner, dt_rank + 2 * d_state, bias=False)
        self.dt_proj = nn.Linear(dt_rank, d_inner)
        nn.init.uniform_(self.dt_proj.weight, -(dt_rank**-0.5), dt_rank**-0.5)
        span = math.log(_GREATEST_DT / _LEAST_DT)
        dt = _LEAST_DT * torch.exp(span * torch.rand(d_inner))
        with torch.no_grad():
            self.dt_proj.bias.copy_(dt + torch.log(-torch.expm1(-dt)))  # the inverse of softplus
        self.A_log = nn.Parameter(torch.arange(1.0, d_state + 1).log().repeat(d_inner, 1))
        self.D = nn.Parameter(torch.ones(d_inner))

    def forward(
        self,
        x: Float[Tensor, "b *grid d"],
        state: Tensor | None = None,
        *,
        dt_scale: float = 1.0,
        return_state: bool = False,
        axis: int = -1,
        reverse: bool = False,
        lines: str = "joined",
        boundary: str = "zero",
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Run the cell along one axis of a grid of one to three axes.

        Args:
            x: drive `(b, *grid, d_inner)`.
            state: potentials before the first position, `(b, d_inner, d_state)` for joined lines,
                `(b, *other axes, d_inner, d_state)` for separate ones; None for zero.
            dt_scale: factor on every step: the grid's spacing over the spacing in training.
            return_state: also return the potentials after the last position.
            axis: grid axis that the scan runs along.
            reverse: run from the last position to the first.
            lines: "joined" or "separate", see :func:`kinn.ops.grid_scan`.
            boundary: "zero" or "periodic", see :func:`kinn.ops.grid_scan`.

        Returns:
            `y` `(b, *grid, d_inner)`, or `(y, state)`.

        Raises:
            ValueError: `dt_scale` that is not positive, or a shape or option that :func:`kinn.ops.grid_scan` refuses.
        """
        expect_positive("KirchhoffCell", dt_scale=dt_scale)
        dt, B, C = self.coefficients(x)
        return grid_scan(
            x,
            dt if dt_scale == 1 else dt * dt_scale,
            self.A_log.exp(),
            B,
            C,
            self.D,
            axis=axis,
            lines=lines,
            boundary=boundary,
            initial_state=state,
            injection=self.injection,
            reverse=reverse,
            return_state=return_state,
        )

    def coefficients(
        self, x: Float[Tensor, "b *grid d"]
    ) -> tuple[Float[Tensor, "b *grid d"], Float[Tensor, "b *grid n"], Float[Tensor, "b *grid n"]]:
        """What a drive makes of the cell at every position, Eq. (21).

        Returns:
            `(dt, B, C)`: the step lengths of `dt_scale` 1, which times `A_log.exp()` say what a potential loses per
            position; injection and readout of the potentials.
        """
        low, B, C = self.x_proj(x).split((self.dt_rank, self.d_state, self.d_state), dim=-1)
        if self.couplings == "bounded":
            B, C = bounded(B), bounded(C)
        return F.softplus(self.dt_proj(low)), B, C

    def step(
        self, x_t: Float[Tensor, "b d"], state: Float[Tensor, "b d n"] | None = None, *, dt_scale: float = 1.0
    ) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b d n"]]:
        """Advance by one position: what `forward` does along a sequence, for inputs that arrive one at a time.

        Args:
            x_t: drive at this position `(b, d_inner)`.
            state: potentials `(b, d_inner, d_state)` that the last call returned; None at the start.
            dt_scale: as in :meth:`forward`.

        Returns:
            `(y_t, state)`.
        """
        y, new_state = self(x_t.unsqueeze(1), state, dt_scale=dt_scale, return_state=True)
        return y.squeeze(1), new_state

    def extra_repr(self) -> str:
        """Constructor arguments, for `repr`."""
        return (
            f"{self.d_inner}, d_state={self.d_state}, dt_rank={self.dt_rank}, injection={self.injection!r}, "
            f"couplings={self.couplings!r}"
        )


def no_weight_decay(module: nn.Module) -> set[str]:
    """Names of the parameters that an optimiser should not pull towards zero.

    These are the logarithms of decay rates (zero would mean a rate of one, not absence), and whatever is a vector or a
    scalar: skips, biases (the steps' among them), norms, residual scales.

    >>> sorted(no_weight_decay(KirchhoffCell(4, dt_rank=1)))
    ['A_log', 'D', 'dt_proj.bias']
    """
    return {
        name
        for name, parameter in module.named_parameters()
        if parameter.dim() < 2 or name.rpartition(".")[2] == "A_log"
    }
