"""The Fourier-Kirchhoff neural operator."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from kinn.models.fno import FourierTrunk
from kinn.models.registry import register_model
from kinn.nn import KirchhoffBlock
from kinn.ops.expect import expect_at_least

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = ["FKNO"]


@register_model
class FKNO(nn.Module):
    """Fourier-Kirchhoff neural operator: the FNO whose first local operator is a Kirchhoff block.

    The first layer's 1x1 convolution gives way to a :class:`kinn.nn.KirchhoffBlock` with output norm, MLP of ratio 3
    and learned residual scale. `FKNO(10, 1)` has the 476,698, 481,018 and 489,658 parameters of the paper's Table 5
    with 1, 2 and 4 routes.

    Args:
        in_channels: channels of the input field; time frames are channels.
        out_channels: channels of the output field.
        order: cells in cascade `K`.
        routes: scan directions: 1, 2 or 4.
        n_modes: frequencies kept along each grid axis, of either sign; (12, 12) is neuraloperator's (24, 22).
        width: channels inside.
        n_layers: Fourier layers.
        coordinates: append the two grid coordinates to the input.
        d_state: potentials per channel `N`.
        expand: inner channels of the block over `width`.
        dt_rank: rank of the steps' projection; None for `ceil(width / 16)`.
        wiring: "series" or "parallel".
        injection: "zoh" or "euler".
        couplings: "free", as in the paper, or "bounded", see :class:`kinn.nn.KirchhoffCell`.
        boundary: "zero", or "periodic" for a domain that closes on itself.
        lines: "joined", one sequence over the whole grid, or "separate", every grid line a sequence of its own.
        mlp_ratio: hidden channels of the block's MLP over `width`; 0 for no MLP.
        norm_eps: of the block's norms, see :class:`kinn.nn.KirchhoffBlock`.
        block_layer: the layer whose local operator is the block, counted from 0, or from the end if negative.

    Raises:
        ValueError: no layer, no such layer, an option that is not one of the above; on call, an input that is not
            `(b, in_channels, h, w)`.

    >>> sum(p.numel() for p in FKNO(10, 1).parameters())
    489658
    """

    arguments: dict[str, Any]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        order: int = 2,
        routes: int = 4,
        n_modes: tuple[int, int] = (12, 12),
        width: int = 20,
        n_layers: int = 4,
        coordinates: bool = True,
        d_state: int = 16,
        expand: float = 2,
        dt_rank: int | None = None,
        wiring: str = "series",
        injection: str = "zoh",
        couplings: str = "free",
        boundary: str = "zero",
        lines: str = "joined",
        mlp_ratio: float = 3,
        norm_eps: float = 1e-5,
        block_layer: int = 0,
    ) -> None:
        super().__init__()
        expect_at_least("FKNO", 1, in_channels=in_channels, out_channels=out_channels, width=width, n_layers=n_layers)
        if not -n_layers <= block_layer < n_layers:
            raise ValueError(f"FKNO: there is no layer {block_layer} among {n_layers}")
        block = KirchhoffBlock(
            width,
            order=order,
            routes=routes,
            d_state=d_state,
            expand=expand,
            dt_rank=dt_rank,
            wiring=wiring,
            injection=injection,
            couplings=couplings,
            boundary=boundary,
            lines=lines,
            output_norm=True,
            mlp_ratio=mlp_ratio,
            norm_eps=norm_eps,
            residual_scale=True,
        )
        local: list[nn.Module] = [nn.Linear(width, width) for _ in range(n_layers - 1)]
        local.insert(block_layer % n_layers, block)
        self.trunk = FourierTrunk(
            in_channels,
            out_channels,
            local,
            n_modes=n_modes,
            width=width,
            coordinates=coordinates,
        )

    def forward(self, x: Float[Tensor, "b i h w"], *, dt_scale: float = 1.0) -> Float[Tensor, "b o h w"]:
        """Map `(b, in_channels, h, w)` to `(b, out_channels, h, w)` on any grid.

        Args:
            x: input fields.
            dt_scale: the grid's spacing over the spacing in training, which keeps the cells' meaning on another grid.
        """
        return self.trunk(x, dt_scale=dt_scale)
