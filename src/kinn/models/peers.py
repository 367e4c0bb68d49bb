"""Operators of the package neuraloperator, as it builds them, under our models' interface."""

from __future__ import annotations

import contextlib
import io
import math
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from kinn.models.checks import check_fields
from kinn.models.registry import register_model
from kinn.ops.expect import expect_at_least

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float

__all__ = ["NeuralOperatorFNO", "NeuralOperatorUNO"]


@register_model
class NeuralOperatorFNO(nn.Module):
    """Fourier neural operator (Li et al., 2021) as neuraloperator builds it: pip install 'kinn-torch[peers]'.

    Unlike our :class:`kinn.models.FNO` its layers have a channel MLP each, and modes are counted with both signs:
    `n_modes=(24, 24)` keeps the frequencies -12 to 11 along the first axis and 0 to 12 along the last. What is not an
    argument here is at the package's default.

    Args:
        in_channels: channels of the input field; time frames are channels.
        out_channels: channels of the output field.
        n_modes: Fourier modes kept along each grid axis, positive and negative ones together.
        width: channels inside (the package's `hidden_channels`).
        n_layers: Fourier layers.
        coordinates: append the two grid coordinates to the input.

    Raises:
        ImportError: without neuraloperator.
        ValueError: no layer; on call, an input that is not `(b, in_channels, h, w)`.
    """

    arguments: dict[str, Any]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        n_modes: tuple[int, int] = (24, 24),
        width: int = 20,
        n_layers: int = 4,
        coordinates: bool = True,
    ) -> None:
        super().__init__()
        expect_at_least(
            "NeuralOperatorFNO", 1, in_channels=in_channels, out_channels=out_channels, width=width, n_layers=n_layers
        )
        self.in_channels = in_channels
        self.network: nn.Module = _package("NeuralOperatorFNO").FNO(
            n_modes=tuple(n_modes),
            in_channels=in_channels,
            out_channels=out_channels,
            hidden_channels=width,
            n_layers=n_layers,
            positional_embedding="grid" if coordinates else None,
        )
        self.register_state_dict_post_hook(_tensors_alone)

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o h w"]:
        """Map `(b, in_channels, h, w)` to `(b, out_channels, h, w)` on any grid."""
        check_fields(x, self.in_channels)
        return self.network(x)


@register_model
class NeuralOperatorUNO(nn.Module):
    """U-shaped neural operator (Rahman et al., 2023) as neuraloperator builds it: pip install 'kinn-torch[peers]'.

    A Fourier neural operator whose layers differ in width and resolution; layer `n - 1 - i` also gets the output of
    layer `i`. What is not an argument here is at the package's default.

    Args:
        in_channels: channels of the input field; time frames are channels.
        out_channels: channels of the output field.
        width: channels of the lifted field (the package's `hidden_channels`).
        layer_channels: output channels of every layer.
        layer_modes: Fourier modes that every layer keeps along the two grid axes, both signs together.
        layer_scales: resolution of every layer's output over its input's; their product is 1.
        lift_channels: hidden channels of the lifting and of the projecting MLP.
        coordinates: append the two grid coordinates to the input.

    Raises:
        ImportError: without neuraloperator.
        ValueError: layers of different number, or a product of scales that is not 1; on call, an input that is not
            `(b, in_channels, h, w)`.
    """

    arguments: dict[str, Any]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        width: int = 32,
        layer_channels: Sequence[int] = (32, 64, 64, 64, 32),
        layer_modes: Sequence[tuple[int, int]] = ((16, 16), (8, 8), (8, 8), (8, 8), (16, 16)),
        layer_scales: Sequence[float] = (1, 0.5, 1, 2, 1),
        lift_channels: int = 64,
        coordinates: bool = True,
    ) -> None:
        super().__init__()
        counts = {len(layer_channels), len(layer_modes), len(layer_scales)}
        if len(counts) > 1 or counts == {0}:
            raise ValueError(
                "NeuralOperatorUNO: layer_channels, layer_modes and layer_scales must name the same number of layers, "
                f"at least 1, got {len(layer_channels)}, {len(layer_modes)} and {len(layer_scales)}"
            )
        if not math.isclose(math.prod(layer_scales), 1):
            raise ValueError(f"NeuralOperatorUNO: the product of layer_scales must be 1, got {math.prod(layer_scales)}")
        self.in_channels = in_channels
        package = _package("NeuralOperatorUNO")
        with contextlib.redirect_stdout(io.StringIO()):  # it prints its settings once per layer
            self.network: nn.Module = package.UNO(
                in_channels=in_channels,
                out_channels=out_channels,
                hidden_channels=width,
                lifting_channels=lift_channels,
                projection_channels=lift_channels,
                n_layers=len(layer_channels),
                uno_out_channels=list(layer_channels),
                uno_n_modes=[list(modes) for modes in layer_modes],
                uno_scalings=[[scale, scale] for scale in layer_scales],
                channel_mlp_skip="linear",  # the package's default fits no layer whose width changes
                positional_embedding="grid" if coordinates else None,
            )
        self.register_state_dict_post_hook(_tensors_alone)

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o h w"]:
        """Map `(b, in_channels, h, w)` to `(b, out_channels, h, w)`."""
        check_fields(x, self.in_channels)
        return self.network(x)


def _package(model: str) -> Any:
    try:
        from neuralop import models  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError(f"{model} needs neuraloperator: pip install 'kinn-torch[peers]'") from error
    return models


def _tensors_alone(module: nn.Module, state: dict[str, Any], prefix: str, local_metadata: dict[str, Any]) -> None:
    """Take out the constructor arguments that the package puts among the tensors; `arguments` holds ours."""
    state.pop("_metadata", None)
