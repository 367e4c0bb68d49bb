"""How the compiled operators are tied to autograd: each to its backward operator, which has no derivative itself."""

from __future__ import annotations

import torch


def transformed() -> bool:
    """Whether forward-mode derivatives or transforms of `torch.func` are running: no compiled operator knows them.

    An operator that has no rule for a tangent drops it without a word.
    """
    return (
        torch.autograd.forward_ad._current_level >= 0 or torch._C._functorch.maybe_current_level() is not None  # pyright: ignore[reportAttributeAccessIssue]
    )


def exporting() -> bool:
    """Whether a program is exported, whose batch may have any size; before PyTorch 2.7 also whether it is compiled."""
    return torch.compiler.is_exporting() if hasattr(torch.compiler, "is_exporting") else torch.compiler.is_compiling()


def needs_saving(*tensors: torch.Tensor | None) -> bool:
    """Whether an operator keeps what its backward needs; an exported program may be asked for gradients later."""
    return exporting() or (torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors))


def register_scan(name: str) -> None:
    """Make `kinn::<name>` differentiable by `kinn::<name>_backward`.

    The first takes `x, dt, a, B, C, D, initial_state`, options and `save`, and gives `y`, the last state and what is
    kept; the second takes `dy, dstate, x, dt, a, B, C, D`, what was kept and the options.
    """
    backward = getattr(torch.ops.kinn, f"{name}_backward")

    def setup(ctx, inputs, output):
        x, dt, a, B, C, D, initial_state, *ctx.options, save = inputs
        assert save, "the forward was told that no gradient is needed"
        ctx.with_initial_state = initial_state is not None
        ctx.save_for_backward(x, dt, a, B, C, D, output[2])
        ctx.set_materialize_grads(False)

    def gradients(ctx, dy, dstate, _):
        x, dt, a, B, C, D, kept = ctx.saved_tensors
        dy = torch.zeros_like(x) if dy is None else dy
        *most, dD, dinitial_state = backward(dy, dstate, x, dt, a, B, C, D, kept, *ctx.options)
        dD, dinitial_state = None if D is None else dD, dinitial_state if ctx.with_initial_state else None
        return *most, dD, dinitial_state, *(None for _ in ctx.options), None

    _register(name, setup, gradients, "selective scan")


def register_cascade(name: str) -> None:
    """Make `kinn::<name>` differentiable by `kinn::<name>_backward`.

    The first takes `x, projection, dt_weight, dt_bias, a, D`, options and `save`, and gives `y` and what is kept; the
    second takes `dy`, the same tensors, what was kept and the options.
    """
    backward = getattr(torch.ops.kinn, f"{name}_backward")

    def setup(ctx, inputs, output):
        *tensors_and_options, save = inputs
        assert save, "the forward was told that no gradient is needed"
        tensors, ctx.options = tensors_and_options[:6], tensors_and_options[6:]
        ctx.save_for_backward(*tensors, output[1])
        ctx.set_materialize_grads(False)

    def gradients(ctx, dy, _):
        if dy is None:
            return (None,) * (len(ctx.options) + 7)
        found = backward(dy, *ctx.saved_tensors, *ctx.options)
        return *found, *(None for _ in ctx.options), None

    _register(name, setup, gradients, "cascade")


def _register(name, setup, gradients, what):
    def refuse(ctx, *gradients):
        raise RuntimeError(
            f"the compiled {what} is differentiable once; for second derivatives, run the forward in "
            'kinn.ops.use_backend("reference")'
        )

    torch.library.register_autograd(f"kinn::{name}", gradients, setup_context=setup)
    torch.library.register_autograd(f"kinn::{name}_backward", refuse)
