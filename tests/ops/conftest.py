from __future__ import annotations

import numpy as np
import pytest
import torch

from kinn.ops import cascade_scan


@pytest.fixture
def make():
    """A function that draws the arguments of a scan over a grid, in float64."""

    def draw(batch, grid, d, n, *, seed=0):
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape):
            return torch.randn(shape, generator=generator, dtype=torch.float64)

        return {
            "x": normal(batch, *grid, d),
            "dt": torch.nn.functional.softplus(normal(batch, *grid, d) - 2),
            "a": torch.exp(0.5 * normal(d, n)) * torch.arange(1, n + 1),
            "B": normal(batch, *grid, n),
            "C": normal(batch, *grid, n),
            "D": normal(d),
        }

    return draw


@pytest.fixture
def differentiate():
    """A function that runs a scan and returns `y`, the state and every gradient, by name."""

    def run(function, arguments, *, seed=1, state_weight=1.0, **options):
        leaves = {k: v.detach().clone().requires_grad_() for k, v in arguments.items()}
        y, state = function(**leaves, return_state=True, **options)
        generator = torch.Generator().manual_seed(seed)
        to_y = torch.randn(y.shape, generator=generator, dtype=torch.float64).to(y.dtype)
        to_state = torch.randn(state.shape, generator=generator, dtype=torch.float64).to(state.dtype)
        loss = (y * to_y).sum() + state_weight * (state * to_state).sum()
        gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True, materialize_grads=True)
        named = {f"d{name}": gradient for name, gradient in zip(leaves, gradients)}
        return {"y": y.detach(), "state": state.detach(), **named}

    return run


@pytest.fixture
def make_cascade():
    """A function that draws the arguments of a cascade over a grid, in float64."""

    def draw(batch, grid, d, n, *, routes=2, cells=2, rank=2, seed=0):
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape):
            return torch.randn(shape, generator=generator, dtype=torch.float64)

        a = torch.exp(0.5 * normal(routes, cells, d, n)) * torch.arange(1, n + 1)
        return {
            "x": normal(batch, *grid, d),
            "projection": normal(routes, cells, rank + 2 * n, d) * 0.4 * max(n * d, 1) ** -0.5,
            "dt_weight": normal(routes, cells, d, rank) * max(rank, 1) ** -0.5,
            "dt_bias": normal(routes, cells, d) - 2,
            "a": a,
            "D": normal(routes, cells, d),
        }

    return draw


@pytest.fixture
def differentiate_cascade():
    """A function that runs the cascade and returns `y` and every gradient, by name."""

    def run(arguments, **options):
        leaves = {k: v.detach().clone().requires_grad_() for k, v in arguments.items()}
        y = cascade_scan(**leaves, **options)
        generator = torch.Generator().manual_seed(1)
        given = torch.randn(y.shape, generator=generator, dtype=torch.float64).to(y.dtype)
        gradients = torch.autograd.grad(y, list(leaves.values()), given, allow_unused=True, materialize_grads=True)
        return {"y": y.detach(), **{f"d{name}": g for name, g in zip(leaves, gradients)}}

    return run


@pytest.fixture
def derive():
    """A function that runs a fused operation and returns its result and the gradients of the tensors it is given."""

    def run(function, arguments):
        leaves, tensors = _leaves(arguments)
        y = function(*leaves)
        given = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y.dtype)
        return [y.detach(), *torch.autograd.grad(y, tensors, given)]

    return run


@pytest.fixture
def curvature():
    """A function that runs a fused operation and differentiates its gradients, by the given one and by the tensors."""

    def run(function, arguments):
        leaves, tensors = _leaves(arguments)
        y = function(*leaves)
        given = torch.ones_like(y).requires_grad_()
        first = torch.autograd.grad(y, tensors, given, create_graph=True)
        total = sum(g.square().sum() for g in first)
        return torch.autograd.grad(total, [given, *tensors], allow_unused=True, materialize_grads=True)

    return run


def _leaves(arguments):
    """Arguments whose tensors want gradients, and these tensors."""
    leaves = [t.detach().requires_grad_() if isinstance(t, torch.Tensor) else t for t in arguments]
    return leaves, [t for t in leaves if isinstance(t, torch.Tensor)]


@pytest.fixture
def double():
    """A function that widens the tensors among arguments."""
    return lambda arguments: [t.double() if isinstance(t, torch.Tensor) else t for t in arguments]


@pytest.fixture
def watch(monkeypatch):
    """A function that, given a module and names in it, returns another one, which says which of them a call takes."""

    def begin(module, *names):
        calls = []
        for name in names:
            known = getattr(module, name)
            monkeypatch.setattr(module, name, lambda *a, name=name, known=known: calls.append(name) or known(*a))

        def took(function, *arguments):
            calls.clear()
            function(*arguments)
            return list(calls)

        return took

    return begin


@pytest.fixture
def threads():
    """Sets torch's number of threads, and puts it back."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def patched_once(monkeypatch):
    """In Triton's interpreter a kernel patches the language once for every module, not for every call: faster."""
    interpreter = pytest.importorskip("triton.runtime.interpreter")
    patch, done = interpreter._patch_lang, set()

    class Nothing:
        def restore(self):
            pass

    def once(function):
        if function.__module__ in done:
            return Nothing()
        scope, outermost = patch(function), not done
        done.add(function.__module__)
        if outermost:
            restore = scope.restore
            scope.restore = lambda: (done.clear(), restore())
        return scope

    monkeypatch.setattr(interpreter, "_patch_lang", once)


@pytest.fixture
def scans_by_doubling(monkeypatch):
    """Scans in Triton's interpreter by doubling, whole tiles at a time: fast, and right for associative functions."""
    interpreter = pytest.importorskip("triton.runtime.interpreter")

    def scan(self, inputs):
        values, kinds = [tensor.handle.data for tensor in inputs], [tensor.dtype for tensor in inputs]
        places = np.expand_dims(
            np.arange(values[0].shape[self.axis]), [i for i in range(values[0].ndim) if i != self.axis]
        )
        distance = 1
        while distance < places.size:
            earlier = [np.roll(v, distance, self.axis) for v in values]
            combined = self.combine_fn.fn(*map(self.to_tensor, earlier + values, kinds * 2))
            values = [np.where(places < distance, v, c.handle.data) for v, c in zip(values, combined)]
            distance *= 2
        return list(map(self.to_tensor, values, kinds))

    monkeypatch.setattr(interpreter.ScanOps, "generic_scan", scan)


@pytest.fixture
def assert_close():
    """A function that holds results against a reference, largest error over largest value."""

    def check(got, expected, tolerance):
        assert got.keys() == expected.keys()
        for name, reference in expected.items():
            value = got[name].double()
            assert value.shape == reference.shape, name
            scale = reference.abs().max().item() if reference.numel() else 0.0
            error = (value - reference.double()).abs().max().item() if reference.numel() else 0.0
            assert error <= tolerance * max(scale, 1e-30), f"{name}: {error / max(scale, 1e-30):.2e} > {tolerance:.0e}"

    return check
