"""The compiled filtered activation against the plain one in float64, and who gets which."""

from __future__ import annotations

import threading

import pytest
import torch

from kinn.nn import FilteredActivation
from kinn.ops import filtered, filtered_activation, use_backend
from kinn.ops.cpu import filtered_cpu
from kinn.ops.resampling import filtered_reference

ACTIVATIONS = {"silu": torch.nn.SiLU(), "gelu": torch.nn.GELU(), "leaky_relu": torch.nn.LeakyReLU(0.2)}


def field(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("periodic", [True, False])
@pytest.mark.parametrize("rate", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_values_and_gradients(derive, double, activation, rate, periodic):
    shapes = (0, 8, 8, 3), (1, 2, 2, 1), (2, 8, 12, 16), (1, 34, 10, 17), (1, 16, 32, 49), (1, 2, 40, 33)
    for shape in (*shapes, *(() if rate == 0.5 else [(2, 1, 1, 3), (1, 7, 1, 2), (2, 9, 33, 20)])):
        for half_width in (3, 1, 5):
            arguments = field(*shape), activation, 0.2, rate, half_width, periodic
            got, exact = derive(filtered_cpu, arguments), derive(filtered_reference, double(arguments))
            for value, reference in zip(got, exact, strict=True):
                assert value.shape == reference.shape
                scale = reference.abs().max().item() if reference.numel() else 1.0
                torch.testing.assert_close(value.double(), reference, rtol=0, atol=2e-6 * scale)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_what_is_not_a_number_stays_within_reach(derive, activation):
    """The full matrices would spread it over the whole grid."""
    x = field(1, 32, 32, 3)
    x[0, 16, 16, 1] = torch.nan
    y, gradient = derive(filtered_cpu, (x, activation, 0.2, 1.0, 3, False))
    for result in (y, gradient) if activation != "leaky_relu" else (y,):  # its slope is one of two numbers
        spoilt = result.isnan().nonzero()
        assert set(spoilt[:, 3].tolist()) == {1}
        assert spoilt[:, 1:3].min() >= 16 - 7
        assert spoilt[:, 1:3].max() <= 16 + 7
    assert y[0, 16, 16, 1].isnan()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_small_and_large_fields(derive, double, activation):
    for size in (1e-30, 1e-6, 1e6, 1e30):
        arguments = size * field(1, 16, 16, 5), activation, 0.2, 1.0, 3, False
        got, exact = derive(filtered_cpu, arguments), derive(filtered_reference, double(arguments))
        for value, reference in zip(got, exact, strict=True):
            torch.testing.assert_close(value.double(), reference, rtol=0, atol=2e-6 * reference.abs().max().item())


@pytest.mark.parametrize("batch", [1, 5])
def test_same_bits_every_time_on_any_number_of_threads(derive, threads, batch):
    arguments = field(batch, 64, 48, 40), "silu", 0.0, 1.0, 3, False
    threads(1)
    first = derive(filtered_cpu, arguments)
    for number in (2, 4, 4, 7):
        threads(number)
        assert all(map(torch.equal, derive(filtered_cpu, arguments), first))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_second_derivative(curvature, double, activation):
    arguments = field(1, 8, 10, 2), activation, 0.2, 1.0, 3, False
    exact = curvature(filtered_reference, double(arguments))
    for got, expected in zip(curvature(filtered_cpu, arguments), exact, strict=True):
        torch.testing.assert_close(got.double(), expected, rtol=1e-4, atol=1e-5)


def test_strided_input_and_gradient(derive):
    x, options = field(3, 16, 20, 6), ("silu", 0.0, 1.0, 3, False)
    expected = derive(filtered_cpu, (x, *options))
    strided = x.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0)
    assert all(map(torch.equal, derive(filtered_cpu, (strided, *options)), expected))
    leaf = x.requires_grad_()
    filtered_cpu(leaf, *options).sum().backward()  # the gradient that arrives is one number, expanded
    assert leaf.grad.isfinite().all()


@pytest.mark.parametrize("rate", [0.5, 1.0, 2.0])
def test_opcheck(rate):
    x = field(2, 8, 6, 3).requires_grad_()
    options = "leaky_relu", 0.2, rate, 3, False
    torch.library.opcheck(torch.ops.kinn.filtered_activation, (x, *options))
    torch.library.opcheck(
        torch.ops.kinn.filtered_activation_backward,
        (field(2, int(8 * rate), int(6 * rate), 3), x, *options),
        test_utils=("test_schema", "test_faketensor"),
    )


def test_threads_that_meet_a_new_size_together(threads):
    """The cache of the filters keeps those of one: the others' must live as long as their kernels run."""
    threads(1)
    for n in range(40, 60):
        x, together, results = field(1, n, n, 8), threading.Barrier(4), []

        def run(x=x, together=together, results=results):
            together.wait()
            results.append(filtered_cpu(x, "silu", 0.0, 1.0, 3, False))

        runs = [threading.Thread(target=run) for _ in range(4)]
        for thread in runs:
            thread.start()
        for thread in runs:
            thread.join()
        expected = filtered_reference(x, "silu", 0.0, 1.0, 3, False)
        assert len(results) == 4
        for y in results:
            torch.testing.assert_close(y, expected, rtol=0, atol=1e-5)


def test_compiled_and_exported_for_any_size():
    """In one graph, whose sizes the kernels' conditions do not bind."""
    layer, shapes = FilteredActivation(torch.nn.SiLU()), [(2, 32, 24, 3), (3, 6, 10, 3), (5, 4, 6, 3)]
    torch.compiler.reset()
    graphs = []
    compiled = torch.compile(
        layer, fullgraph=True, dynamic=True, backend=lambda graph, inputs: graphs.append(1) or graph.forward
    )
    for shape in shapes:
        torch.testing.assert_close(compiled(field(*shape)), layer(field(*shape)), rtol=0, atol=3e-6)
    assert len(graphs) == 1
    batch = torch.export.Dim("batch")
    program = torch.export.export(layer, (field(2, 6, 8, 3),), dynamic_shapes=({0: batch},), strict=True)
    torch.testing.assert_close(program.module()(field(4, 6, 8, 3)), layer(field(4, 6, 8, 3)), rtol=0, atol=3e-6)


def test_hooks_on_the_activation_fire():
    layer, seen = FilteredActivation(torch.nn.SiLU()), []
    layer.activation.register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    x = field(1, 32, 32, 3)
    torch.testing.assert_close(layer(x), FilteredActivation(torch.nn.SiLU())(x), rtol=0, atol=3e-6)
    assert seen == [(1, 64, 64, 3)]
    other = FilteredActivation(torch.nn.SiLU())
    other.activation.register_full_backward_pre_hook(lambda module, given: seen.append(given[0].shape))
    other(x.requires_grad_()).sum().backward()
    assert seen[1:] == [(1, 64, 64, 3)]


def test_who_gets_the_kernels(watch):
    took = watch(filtered, "filtered_cpu")
    x, layer = torch.rand(2, 32, 32, 3), FilteredActivation(torch.nn.SiLU())
    assert took(lambda: layer(x))
    for known in (torch.nn.GELU(), torch.nn.ReLU(), torch.nn.LeakyReLU()):
        assert took(lambda known=known: FilteredActivation(known)(x))
    for other in (torch.nn.Tanh(), torch.nn.GELU("tanh")):
        assert not took(lambda other=other: FilteredActivation(other)(x))
    with use_backend("reference"):
        assert not took(lambda: layer(x))
    assert not took(lambda: layer(x[:, :, :4]))
    assert not took(lambda: layer(x.view(2, 1024, 3)))
    assert not took(lambda: layer(x.double()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not took(lambda: layer(x))
    assert not took(lambda: torch.func.vmap(layer)(x[None]))
    assert not took(lambda: torch.export.export(layer, (x,)))
    assert not took(lambda: torch.jit.trace(layer, x, check_trace=False))
    with torch.autograd.forward_ad.dual_level():
        assert not took(lambda: layer(torch.autograd.forward_ad.make_dual(x, x)))


@pytest.mark.parametrize("rate", [0.5, 1, 2])
@pytest.mark.parametrize("module", [*ACTIVATIONS.values(), torch.nn.ReLU(), torch.nn.GELU("tanh")])
def test_module_is_the_activation_between_filters(module, rate):
    class Other(torch.nn.Module):
        """The same function, which the fused operation does not know."""

        def forward(self, x):
            return module(x)

    x = field(1, 32, 24, 5)
    fused, plain = (FilteredActivation(a, rate=rate, periodic=True)(x) for a in (module, Other()))
    torch.testing.assert_close(fused, plain, rtol=0, atol=3e-6)


def test_wrong_arguments():
    with pytest.raises(ValueError, match="activation must be one of 'silu', 'gelu', 'leaky_relu', got 'tanh'"):
        filtered_activation(torch.rand(1, 8, 8, 1), "tanh")
    with pytest.raises(ValueError, match=r"rate must be 0\.5, 1 or 2, got 3"):
        filtered_activation(torch.rand(1, 8, 8, 1), "silu", rate=3)
    with pytest.raises(ValueError, match="half_width must be a whole number of at least 1, got 0"):
        filtered_activation(torch.rand(1, 8, 8, 1), "silu", half_width=0)
    with pytest.raises(ValueError, match=r"half_width must be a whole number of at least 1, got 2\.5"):
        filtered_activation(torch.rand(1, 8, 8, 1), "silu", half_width=2.5)
    with pytest.raises(ValueError, match=r"on a grid with points, got \(1, 0, 8, 1\)"):
        filtered_activation(torch.rand(1, 0, 8, 1), "silu")
    with pytest.raises(ValueError, match=r"expected fields \(b, \*grid, c\).*got \(8, 1\)"):
        filtered_activation(torch.rand(8, 1), "silu")
    with pytest.raises(TypeError, match="x must be a floating-point tensor, got ndarray"):
        filtered_activation(torch.rand(1, 8, 8, 1).numpy(), "silu")
    with pytest.raises(ValueError, match=r"needs even grid sizes, got \(9, 8\)"):
        filtered_activation(torch.rand(1, 9, 8, 1), "silu", rate=0.5)
