"""Fused operations refuse shapes that do not fit, where a kernel would read and write past the end."""

from __future__ import annotations

import pytest
import torch

from kinn.nn import ChannelMLP
from kinn.ops import channel_mix, channel_mlp, evolution_branch, gated_output


def r(*shape):
    return torch.zeros(shape)


@pytest.mark.parametrize("side", [2, 20], ids=["PyTorch's operations", "kernels"])
def test_shapes_that_do_not_fit_are_named(side):
    x, norm = r(2, side, side, 6), (r(6), r(6))
    for call, message in (
        (lambda: channel_mlp(x, r(12, 5), None, r(4, 12), None), r"channel_mlp: expected first of the shape \(12, 6\)"),
        (lambda: channel_mlp(x, r(12, 6), r(1), r(4, 12), None), r"first_bias of the shape \(12,\), got \(1,\)"),
        (lambda: channel_mlp(x, r(12, 6), None, r(4, 7), None), r"second of the shape \(4, 12\), got \(4, 7\)"),
        (lambda: channel_mix(x, r(1, side, side, 4), r(4, 6), None), r"channel_mix: expected field of the shape \(2"),
        (lambda: gated_output(x, r(1, side, side, 8), r(8, 6), r(6, 8), norm=norm), r"expected y of the shape \(2"),
        (
            lambda: gated_output(x, r(2, side, side, 8), r(8, 6), r(5, 8), norm=norm),
            r"expected out of the shape \(6, 8\)",
        ),
        (lambda: evolution_branch(x, r(8, 6), r(8, 1, 3, 2), None, r(8, 8), None, norm=norm), "of one odd width"),
        (
            lambda: evolution_branch(x, r(8, 6), r(8, 1, 3, 3), None, r(8, 4), None, norm=norm),
            r"mix of the shape \(8, 8\)",
        ),
        (lambda: ChannelMLP(5, 12, 4)(x), r"of the shape \(.*6.*\), got"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
