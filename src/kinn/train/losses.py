"""Losses for fields: errors per sample, averaged over the samples of a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kinn.train.settings import expect_one_of

if TYPE_CHECKING:
    from jaxtyping import Float


def relative_l2_loss(prediction: Float[Tensor, "b ..."], truth: Float[Tensor, "b ..."]) -> Float[Tensor, ""]:
    """Mean over samples of `||p - y||_2 / ||y||_2`.

    Args:
        prediction: `p`, shape `(b, ...)`: any channels and grid.
        truth: `y`, the same shape. A sample whose truth is zero everywhere counts its absolute error `||p||_2`.

    Returns:
        a scalar, in float32 at least.

    Raises:
        ValueError: if the shapes differ.

    Example:
        >>> truth = torch.ones(2, 1, 4)
        >>> round(relative_l2_loss(1.5 * truth, truth).item(), 6)
        0.5
    """
    return _relative_loss(prediction, truth, order=2)


def relative_l1_loss(prediction: Float[Tensor, "b ..."], truth: Float[Tensor, "b ..."]) -> Float[Tensor, ""]:
    """Mean over samples of `||p - y||_1 / ||y||_1`; arguments, result and errors as for `relative_l2_loss`.

    Example:
        >>> relative_l1_loss(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 3.0]])).item()
        0.25
    """
    return _relative_loss(prediction, truth, order=1)


def mse_loss(prediction: Float[Tensor, "b ..."], truth: Float[Tensor, "b ..."]) -> Float[Tensor, ""]:
    """Mean square error, as PDEBench trains with; arguments, result and errors as for `relative_l2_loss`.

    Example:
        >>> mse_loss(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 4.0]])).item()
        2.0
    """
    error, _ = _error_and_truth(prediction, truth)
    return error.square().mean()


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "relative_l1": relative_l1_loss,
    "relative_l2": relative_l2_loss,
    "mse": mse_loss,
}


def expect_finite(loss: Tensor, epoch: int, step: int, *, lr: float, clip: float) -> None:
    """Refuse a training loss that is not a number; on a GPU at every 50th step, as each look waits for the device.

    Args:
        loss: a scalar.
        epoch: of the training, from 0.
        step: of the epoch, from 0.
        lr: learning rate, for the message.
        clip: largest norm of the gradient, for the message.

    Raises:
        FloatingPointError: where the loss is infinite or NaN.
    """
    if (loss.device.type == "cpu" or step % 50 == 0) and not torch.isfinite(loss):
        raise FloatingPointError(
            f"the training loss became {loss.item()} in epoch {epoch + 1}, step {step + 1}: "
            f"lower the learning rate (now {lr:g}) or clip gradients (clip is {clip:g})"
        )


def loss_named(name: str) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss of this name.

    Raises:
        ValueError: if there is none.
    """
    expect_one_of("the loss", name, tuple(sorted(LOSSES)))
    return LOSSES[name]


def _relative_loss(prediction: Tensor, truth: Tensor, *, order: int) -> Tensor:
    error, truth = _error_and_truth(prediction, truth)
    size, distance = (torch.linalg.vector_norm(field, order, dim=1) for field in (truth, error))
    return (distance / torch.where(size > 0, size, 1.0)).mean()


def _error_and_truth(prediction: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    if prediction.shape != truth.shape:
        raise ValueError(
            f"prediction and truth must have one shape, but theirs are {tuple(prediction.shape)} "
            f"and {tuple(truth.shape)}"
        )
    # sums over a field of half-precision numbers overflow at 65504
    dtype = torch.promote_types(prediction.dtype, torch.float32)
    truth = truth.to(dtype).flatten(1)
    return prediction.to(dtype).flatten(1) - truth, truth
