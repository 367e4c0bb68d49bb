"""KINN: image backbones of Kirchhoff blocks in four stages, with timm's interface.

Stem, downsampling and head are VMamba's (arXiv 2401.10166).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from timm.layers import ClassifierHead
from timm.models import checkpoint_seq, register_notrace_module
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from kinn.nn import KirchhoffBlock, KirchhoffCell, no_weight_decay
from kinn.ops.expect import expect_one_of

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = ["KINN"]

register_notrace_module(KirchhoffBlock)  # its operators take whole blocks: FX traces around them


class Downsample(nn.Module):
    """Half the resolution (rounded up): a 3x3 convolution and a layer norm, channels-last."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=2, padding=1)
        self.norm = nn.LayerNorm(out_channels)

    def forward(self, x: Float[Tensor, "b h w i"]) -> Float[Tensor, "b h/2 w/2 o"]:
        """Map `(b, h, w, in_channels)` to `(b, ceil(h / 2), ceil(w / 2), out_channels)`."""
        x = x.permute(0, 3, 1, 2)
        if torch.compiler.is_compiling():
            x = x.contiguous()  # PyTorch 2.13's compiler fails on this view once sizes vary
        return self.norm(self.conv(x).permute(0, 2, 3, 1))


class Stem(nn.Module):
    """A quarter of the resolution: two halvings, a GELU between them."""

    def __init__(self, in_chans: int, channels: int) -> None:
        super().__init__()
        self.down1 = Downsample(in_chans, channels // 2)
        self.act = nn.GELU()
        self.down2 = Downsample(channels // 2, channels)

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b h/4 w/4 o"]:
        """Map `(b, in_chans, h, w)` to `(b, ceil(h / 4), ceil(w / 4), channels)`."""
        return self.down2(self.act(self.down1(x.permute(0, 2, 3, 1))))


class Stage(nn.Module):
    """Blocks at one resolution, behind a halving of it where there are `in_channels` before: not in the first stage."""

    def __init__(self, in_channels: int | None, channels: int, drop_path: Sequence[float], **block: Any) -> None:
        super().__init__()
        self.grad_checkpointing = False
        self.downsample = nn.Identity() if in_channels is None else Downsample(in_channels, channels)
        self.blocks = nn.Sequential(*(KirchhoffBlock(channels, drop_path=rate, **block) for rate in drop_path))

    def forward(self, x: Float[Tensor, "b h w i"]) -> Float[Tensor, "b h/2 w/2 o"]:
        """Map `(b, h, w, in_channels)` to `(b, h, w, channels)` of this stage's resolution."""
        x = self.downsample(x)
        return checkpoint_seq(self.blocks, x) if self.grad_checkpointing else self.blocks(x)


class KINN(nn.Module):
    """Image backbone: a stem, four stages of Kirchhoff blocks, a layer norm, a pooled linear classifier.

    The ablation of the paper's Table 7 is a matter of arguments: one cell with `order=1, injection="euler"`, parallel
    cells with `wiring="parallel"`, cells in series with `injection="euler"` and, the default, exact (`"zoh"`).

    Args:
        in_chans: channels of the images.
        num_classes: logits; 0 for pooled features.
        global_pool: a pooling that timm knows ("avg", "max", ...); "" for none.
        depths: blocks per stage.
        dims: channels per stage.
        order: cells in cascade per route.
        routes: directions of scanning: 1, 2 or 4.
        wiring: "series" or "parallel".
        injection: "zoh" or "euler".
        couplings: "free", as in the paper, or "bounded", see :class:`kinn.nn.KirchhoffCell`.
        d_state: potentials per channel.
        expand: inner channels of a block over its channels.
        mlp_ratio: hidden channels of a block's MLP over its channels.
        gate: whether blocks have a gate.
        drop_rate: dropout before the classifier.
        drop_path_rate: stochastic depth of the last block; it grows linearly from 0 at the first.
        device: of the parameters.
        dtype: of the parameters.

    Raises:
        ValueError: `depths` and `dims` of different lengths, or an option that :class:`KirchhoffBlock` refuses.

    >>> model = KINN(num_classes=10)
    >>> model(torch.rand(1, 3, 64, 96)).shape
    torch.Size([1, 10])
    >>> [tuple(f.shape[1:]) for f in model.forward_intermediates(torch.rand(1, 3, 64, 64), intermediates_only=True)]
    [(96, 16, 16), (192, 8, 8), (384, 4, 4), (768, 2, 2)]
    """

    stages: nn.Sequential
    norm: nn.Module

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        *,
        depths: Sequence[int] = (3, 2, 6, 3),
        dims: Sequence[int] = (96, 192, 384, 768),
        order: int = 2,
        routes: int = 4,
        wiring: str = "series",
        injection: str = "zoh",
        couplings: str = "free",
        d_state: int = 1,
        expand: float = 1.5,
        mlp_ratio: float = 2.0,
        gate: bool = True,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if len(depths) != len(dims):
            raise ValueError(f"KINN: depths and dims must be equally many, got {tuple(depths)} and {tuple(dims)}")
        self.in_chans = in_chans
        self.num_classes = num_classes
        self.output_fmt = "NHWC"
        rates = torch.linspace(0, drop_path_rate, sum(depths), device="cpu").split(list(depths))
        block = {
            "order": order,
            "routes": routes,
            "wiring": wiring,
            "injection": injection,
            "couplings": couplings,
            "d_state": d_state,
            "expand": expand,
            "mlp_ratio": mlp_ratio,
            "gate": gate,
            "conv_bias": False,
            "pointwise": False,
            "output_norm": True,
        }
        self.num_features = dims[-1]
        self.drop_rate = drop_rate
        self.feature_info = [
            {"num_chs": channels, "reduction": 4 * 2**i, "module": f"stages.{i}"} for i, channels in enumerate(dims)
        ]
        with torch.device(device or torch.get_default_device()):
            self.stem = Stem(in_chans, dims[0])
            self.stages = nn.Sequential(
                *(Stage(dims[i - 1] if i else None, dims[i], rates[i].tolist(), **block) for i in range(len(dims)))
            )
            self.norm = nn.LayerNorm(dims[-1])
            self.head = ClassifierHead(dims[-1], num_classes, global_pool, drop_rate, input_fmt="NHWC")
            _initialise(self)
        self.to(dtype=dtype)

    def forward_features(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b h w c"]:
        """Normed features of the last stage, `(b, h, w, num_features)`."""
        return self.norm(self.stages(self.stem(x)))

    def forward_head(self, x: Float[Tensor, "b h w c"], pre_logits: bool = False) -> Tensor:
        """Pooled features and, unless `pre_logits`, the classifier's logits."""
        return self.head(x, pre_logits=pre_logits)

    def forward(self, x: Float[Tensor, "b i h w"]) -> Tensor:
        """Map images `(b, in_chans, h, w)` of any size to logits `(b, num_classes)`."""
        return self.forward_head(self.forward_features(x))

    def forward_intermediates(
        self,
        x: Float[Tensor, "b i h w"],
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Features of several stages.

        Args:
            x: images.
            indices: of the stages; a number for the last so many, None for all.
            norm: apply the final norm to the last stage's features.
            stop_early: compute no stage behind the last one asked for.
            output_fmt: "NCHW" or "NHWC".
            intermediates_only: return nothing else.

        Returns:
            the final features `(b, h, w, c)`, and those of the stages in the order of the stages.

        Raises:
            ValueError: unknown `output_fmt`.
        """
        expect_one_of("KINN", ("NCHW", "NHWC"), output_fmt=output_fmt)
        taken, last = feature_take_indices(len(self.stages), indices)
        features, x = [], self.stem(x)
        for i, stage in enumerate(list(self.stages)[: last + 1 if stop_early else None]):
            x = stage(x)
            final = i == len(self.stages) - 1
            if i in taken:
                y = self.norm(x) if norm and final else x
                features.append(y.permute(0, 3, 1, 2).contiguous() if output_fmt == "NCHW" else y)
            if final and not intermediates_only:
                x = self.norm(x)
        return features if intermediates_only else (x, features)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove the stages behind the last one asked for, with norm and head, which fit the last stage.

        Args:
            indices: of the stages that are wanted, as in :meth:`forward_intermediates`.
            prune_norm: remove the final norm in any case.
            prune_head: remove the classifier in any case.

        Returns:
            the indices of the stages wanted.
        """
        taken, last = feature_take_indices(len(self.stages), indices)
        ends = last < len(self.stages) - 1
        self.stages = nn.Sequential(*list(self.stages)[: last + 1])
        if prune_norm or ends:
            self.norm = nn.Identity()
        if ends:
            self.num_features = self.feature_info[last]["num_chs"]
        if prune_head or ends:
            self.reset_classifier(0, "")
        return taken

    @property
    def head_hidden_size(self) -> int:
        """Channels of the pooled features."""
        return self.num_features * self.head.global_pool.feat_mult()

    def get_classifier(self) -> nn.Module:
        """The linear map to the logits."""
        return self.head.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new classifier.

        Args:
            num_classes: logits; 0 for none.
            global_pool: a pooling; None keeps it, "" removes it.
        """
        self.num_classes = num_classes
        pool = self.head.global_pool.pool_type if global_pool is None else global_pool
        like = next(self.parameters())
        with torch.device(like.device):
            head = ClassifierHead(self.num_features, num_classes, pool, self.drop_rate, input_fmt="NHWC")
            _initialise(head)
        self.head = head.to(like.dtype).train(self.training)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Form blocks' inner tensors again in the backward instead of keeping them."""
        for stage in cast("list[Stage]", list(self.stages)):
            stage.grad_checkpointing = enable

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Which parameters are equally deep, for learning rates that fall with depth."""
        blocks = [(r"^stages\.(\d+)\.downsample", (0,)), (r"^stages\.(\d+)\.blocks\.(\d+)", None), (r"^norm", (99999,))]
        return {"stem": r"^stem", "blocks": r"^stages\.(\d+)" if coarse else blocks}

    def no_weight_decay(self) -> set[str]:
        """Names of decay rates, skips, norms and biases, those of the steps among them."""
        return no_weight_decay(self)


def _initialise(model: nn.Module) -> None:
    """Linear maps as VMamba draws them; those within cells, and convolutions, stay as their constructors drew them."""
    within = {id(part) for cell in model.modules() if isinstance(cell, KirchhoffCell) for part in cell.modules()}
    for module in model.modules():
        if isinstance(module, nn.Linear) and id(module) not in within:
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
