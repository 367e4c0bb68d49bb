"""Li et al.'s two-dimensional FNO as its users run it: channels first, full FFTs, complex products on two corners.

Written anew from the published description, as the baseline of the training-step benchmark.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kinn.models import FNO


class CornerConv(nn.Module):
    def __init__(self, width: int, modes: int) -> None:
        super().__init__()
        self.modes = modes
        shape = (width, width, modes, modes)
        self.low, self.high = (nn.Parameter(torch.rand(shape, dtype=torch.cfloat) / width**2) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        m = self.modes
        spectrum = torch.fft.rfft2(x)
        kept = torch.zeros_like(spectrum)
        kept[:, :, :m, :m] = torch.einsum("bixy,ioxy->boxy", spectrum[:, :, :m, :m], self.low)
        kept[:, :, -m:, :m] = torch.einsum("bixy,ioxy->boxy", spectrum[:, :, -m:, :m], self.high)
        return torch.fft.irfft2(kept, s=x.shape[-2:])


class LiFNO(nn.Module):
    """Four layers of width 20 with 12 modes; takes and gives channels-last fields."""

    def __init__(self, in_channels: int, out_channels: int, width: int = 20, modes: int = 12) -> None:
        super().__init__()
        self.fc0 = nn.Linear(in_channels + 2, width)
        self.spectral = nn.ModuleList(CornerConv(width, modes) for _ in range(4))
        self.local = nn.ModuleList(nn.Conv2d(width, width, 1) for _ in range(4))
        self.fc1, self.fc2 = nn.Linear(width, 128), nn.Linear(128, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        b, h, w, _ = x.shape
        rows = torch.linspace(0, 1, h, dtype=x.dtype, device=x.device).view(1, h, 1, 1).expand(b, h, w, 1)
        columns = torch.linspace(0, 1, w, dtype=x.dtype, device=x.device).view(1, 1, w, 1).expand(b, h, w, 1)
        x = self.fc0(torch.cat((x, rows, columns), -1)).permute(0, 3, 1, 2)
        for depth, (spectral, local) in enumerate(zip(self.spectral, self.local)):
            x = spectral(x) + local(x)
            x = F.gelu(x) if depth < 3 else x
        return self.fc2(F.gelu(self.fc1(x.permute(0, 2, 3, 1))))

    @torch.no_grad()
    def take(self, model: FNO) -> LiFNO:
        """Take the weights of ours, after which both must compute the same."""
        trunk = model.trunk
        for ours, theirs in ((trunk.lift, self.fc0), (trunk.project[0], self.fc1), (trunk.project[2], self.fc2)):
            theirs.load_state_dict(ours.state_dict())
        for ours, theirs in zip(trunk.spectral, self.spectral):
            theirs.low, theirs.high = (
                nn.Parameter(weight.clone()) for weight in (ours.weight_positive, ours.weight_negative)
            )
        for ours, theirs in zip(trunk.local, self.local):
            theirs.weight.copy_(ours.weight[:, :, None, None])
            theirs.bias.copy_(ours.bias)
        return self
