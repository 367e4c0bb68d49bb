"""Parts of networks, channels-last: `(b, *grid, c)` to `(b, *grid, c)`; and fields `(b, c, *grid)` on other grids."""

from kinn.nn.block import KirchhoffBlock
from kinn.nn.cell import KirchhoffCell, no_weight_decay
from kinn.nn.frozen import circuit_of
from kinn.nn.mlp import ChannelMLP
from kinn.nn.regridding import on_training_grid, regrid
from kinn.nn.resample import Downsample, FilteredActivation, Upsample
from kinn.nn.routes import Route, routes_for
from kinn.nn.separable import SeparableConv
from kinn.nn.spectral import SpectralConv2d
from kinn.nn.timescales import TimeScale, time_scales

__all__ = [
    "ChannelMLP",
    "Downsample",
    "FilteredActivation",
    "KirchhoffBlock",
    "KirchhoffCell",
    "Route",
    "SeparableConv",
    "SpectralConv2d",
    "TimeScale",
    "Upsample",
    "circuit_of",
    "no_weight_decay",
    "on_training_grid",
    "regrid",
    "routes_for",
    "time_scales",
]
