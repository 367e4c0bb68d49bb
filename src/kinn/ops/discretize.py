"""Discretisation of the RC node: how one step of length dt retains the state and injects the drive (Eqs. 2, 10, 22)."""

from __future__ import annotations

import torch
from torch import Tensor


def zoh(dt: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
    """Exact step under zero-order hold, Eqs. (2), (10): the drive is constant over the step.

    Args:
        dt: step lengths, non-negative, any shape.
        a: decay rates, non-negative, broadcastable against `dt`.

    Returns:
        `(retain, inject)`, both of the broadcast shape: `exp(-dt a)` and `(1 - exp(-dt a)) / a`.

    `inject` is evaluated with `expm1`. It tends to `dt` as `a` tends to 0, and is `1 / a` for steps without end.

    >>> retain, inject = zoh(torch.tensor(0.5), torch.tensor(0.0))
    >>> retain.item(), inject.item()
    (1.0, 0.5)
    """
    z = dt * a
    # Below this z the series is exact to rounding, its derivative too; above 1 it is z itself that may overflow.
    small, large = z < torch.finfo(z.dtype).eps ** 0.25, z > 1
    one = torch.ones_like(z)  # stands in for z where another formula is taken: all gradients stay finite
    series, middle, far = torch.where(small, z, one), torch.where(small | large, one, z), torch.where(large, z, one)
    series = 1 - series / 2 * (1 - series / 3 * (1 - series / 4))
    near = dt * torch.where(small, series, -torch.expm1(-middle) / middle)
    inject = torch.where(large, -torch.expm1(-far) / torch.where(large, a, one), near)
    return torch.exp(-z), inject


def euler(dt: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
    """First-order injection, as Mamba and VMamba use it: exact retention `exp(-dt a)`, injection `dt`.

    Arguments and shapes as in :func:`zoh`.

    >>> retain, inject = euler(torch.tensor(0.5), torch.tensor(2.0))
    >>> round(retain.item(), 6), inject.item()
    (0.367879, 0.5)
    """
    retain = torch.exp(-dt * a)
    return retain, dt.expand_as(retain)


DISCRETIZATIONS = {"zoh": zoh, "euler": euler}
