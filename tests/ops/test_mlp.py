"""The compiled channel MLP against the plain one in float64, and who gets which."""

from __future__ import annotations

import pytest
import torch

from kinn.nn import ChannelMLP
from kinn.ops import channel_mix, channel_mlp, mlp, use_backend
from kinn.ops.cpu import mix_cpu, mlp_cpu
from kinn.ops.reference import mix_reference, mlp_reference


def draw(rows, inputs, hidden, outputs, *, norm=True, bias=True):
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(shape, generator=generator)

    return [
        normal(rows, inputs) + 1,
        normal(inputs) + 1 if norm else None,
        normal(inputs) if norm else None,
        1e-5,
        normal(hidden, inputs) * inputs**-0.5,
        normal(hidden) if bias else None,
        normal(outputs, hidden) * hidden**-0.5,
        normal(outputs) if bias else None,
    ]


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("rows", "inputs", "hidden", "outputs"),
    [
        (0, 3, 4, 2),
        (1, 1, 1, 1),
        (63, 20, 60, 20),
        (64, 16, 16, 16),
        (65, 17, 33, 49),
        (1000, 20, 128, 1),
        (5000, 5, 9, 3),
    ],
)
def test_values_and_gradients(derive, double, norm, bias, rows, inputs, hidden, outputs):
    arguments = draw(rows, inputs, hidden, outputs, norm=norm, bias=bias)
    got, expected = derive(mlp_cpu, arguments), derive(mlp_reference, double(arguments))
    plain = derive(mlp_reference, arguments)
    for value, exact, usual in zip(got, expected, plain, strict=True):
        assert value.shape == exact.shape
        if exact.numel() and exact.abs().max() > 0:
            error, theirs = ((t.double() - exact).abs().max() / exact.abs().max() for t in (value, usual))
            assert error < 2e-6 + 8 * theirs


def test_gelu_everywhere(derive):
    """The identity as both matrices makes it a GELU: near zero, in the tails, and for what is not a number."""
    x = torch.cat((torch.linspace(-14, 14, 20001), torch.logspace(-30, 30, 61), -torch.logspace(-30, 30, 61)))[:, None]
    one = torch.ones(1, 1)
    value, slope = derive(lambda x: mlp_cpu(x, None, None, 0.0, one, None, one, None), [x])
    leaf = x.double().requires_grad_()
    exact = torch.nn.functional.gelu(leaf)
    given = torch.randn(value.shape, generator=torch.Generator().manual_seed(1)).double()
    (exact_slope,) = torch.autograd.grad(exact, leaf, given)
    assert ((value - exact) / (1 + exact.abs())).abs().max() < 3e-7
    assert ((slope - exact_slope) / (1 + exact_slope.abs())).abs().max() < 1e-6
    huge = torch.tensor([[1e38], [-1e38]], requires_grad=True)
    (slope,) = torch.autograd.grad(mlp_cpu(huge, None, None, 0.0, one, None, one, None).sum(), huge)
    assert slope.flatten().tolist() == [1, 0]
    ends = mlp_cpu(torch.tensor([[torch.nan], [torch.inf], [1.0]]), None, None, 0.0, one, None, one, None).flatten()
    assert ends[0].isnan()
    assert ends[1] == torch.inf
    assert ends[2].isfinite()


def test_norm_of_constant_and_huge_rows(derive, double):
    arguments = draw(100, 7, 5, 3)
    arguments[0][:50] = 3.0
    arguments[0][50:] *= 1e6
    got, expected = derive(mlp_cpu, arguments), derive(mlp_reference, double(arguments))
    torch.testing.assert_close(got[0].double(), expected[0], rtol=1e-5, atol=1e-5)


def test_same_bits_every_time(derive, threads):
    threads(4)
    arguments = draw(20000, 20, 60, 20)
    first = derive(mlp_cpu, arguments)
    for _ in range(4):
        assert all(map(torch.equal, derive(mlp_cpu, arguments), first))


@pytest.mark.parametrize("norm", [True, False])
def test_second_derivative(curvature, double, norm):
    arguments = draw(40, 5, 7, 3, norm=norm)
    for got, expected in zip(curvature(mlp_cpu, arguments), curvature(mlp_reference, double(arguments)), strict=True):
        scale = expected.abs().max().clamp_min(1e-3)
        torch.testing.assert_close(got.double() / scale, expected / scale, rtol=0, atol=1e-4)


def test_further_derivatives_do_not_stop(double):
    """The third, with compiled kernels in the first, is the definition's."""
    arguments = draw(700, 3, 4, 2, norm=False)  # a norm of three channels magnifies rounding

    def third(function, arguments):
        x = arguments[0].detach().requires_grad_()
        y = function(x, *arguments[1:]).sin().sum()
        for _ in range(2):
            (g,) = torch.autograd.grad(y, x, create_graph=True)
            y = g.sin().sum()
        return torch.autograd.grad(y, x)[0]

    expected = third(mlp_reference, double(arguments))
    torch.testing.assert_close(third(mlp_cpu, arguments).double(), expected, rtol=0, atol=1e-4 * expected.abs().max())


def test_parameters_on_another_device_are_refused():
    with pytest.raises(RuntimeError, match="meta"):
        ChannelMLP(6, 8, 3).to("meta")(torch.rand(1000, 6))


def test_strided_input_and_gradient(derive):
    arguments = draw(600, 8, 9, 4)
    expected = derive(mlp_cpu, arguments)
    arguments[0] = arguments[0].t().contiguous().t()
    arguments[4] = arguments[4].t().contiguous().t()
    assert all(map(torch.equal, derive(mlp_cpu, arguments), expected))
    leaf = arguments[0].detach().requires_grad_()
    mlp_cpu(leaf, *arguments[1:]).sum().backward()  # the gradient that arrives is one number, expanded
    assert leaf.grad.isfinite().all()


@pytest.mark.parametrize("norm", [True, False])
def test_opcheck(norm):
    arguments = [t.requires_grad_() if isinstance(t, torch.Tensor) else t for t in draw(30, 5, 7, 3, norm=norm)]
    torch.library.opcheck(torch.ops.kinn.channel_mlp, arguments)
    y = torch.randn(30, 3)
    torch.library.opcheck(
        torch.ops.kinn.channel_mlp_backward, (y, *arguments), test_utils=("test_schema", "test_faketensor")
    )


def test_who_gets_the_kernels(watch):
    took = watch(mlp, "mlp_cpu")
    x, layer = torch.rand(1000, 6), ChannelMLP(6, 8, 3, norm=True)
    assert took(lambda: layer(x))
    with use_backend("reference"):
        assert not took(lambda: layer(x))
    assert not took(lambda: layer(x[:100]))
    assert not took(lambda: ChannelMLP(6, 6000, 3)(x))
    assert not took(lambda: ChannelMLP(6, 8, 3).double()(x.double()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not took(lambda: layer(x))
    assert not took(lambda: torch.func.vmap(layer)(x[None]))
    assert not took(lambda: torch.export.export(layer, (x,)))
    with torch.autograd.forward_ad.dual_level():
        assert not took(lambda: layer(torch.autograd.forward_ad.make_dual(x, x)))
    torch.testing.assert_close(layer(x), torch.nn.Sequential.forward(layer, x))


def test_module_is_the_sequence_of_its_parts():
    plain = torch.nn.Sequential(torch.nn.LayerNorm(6), torch.nn.Linear(6, 8), torch.nn.GELU(), torch.nn.Linear(8, 3))
    layer = ChannelMLP(6, 8, 3, norm=True)
    layer.load_state_dict(plain.state_dict())
    x = torch.rand(2, 30, 20, 6)
    torch.testing.assert_close(layer(x), plain(x))
    y = channel_mlp(x, plain[1].weight, None, plain[3].weight, None)
    torch.testing.assert_close(y, torch.nn.functional.gelu(x @ plain[1].weight.T) @ plain[3].weight.T)


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("gelu", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("rows", "inputs", "outputs"), [(0, 3, 2), (1, 1, 1), (65, 20, 33), (5000, 16, 20)])
def test_mix(derive, double, gelu, bias, rows, inputs, outputs):
    """The end of a Fourier layer: values, gradients, and as an operator."""
    x, _, _, _, matrix, offset, _, _ = draw(rows, inputs, outputs, 1, bias=bias)
    arguments = [x, torch.randn(rows, outputs, generator=torch.Generator().manual_seed(2)), matrix, offset, gelu]
    got, expected = derive(mix_cpu, arguments), derive(mix_reference, double(arguments))
    for value, exact in zip(got, expected, strict=True):
        assert value.shape == exact.shape
        scale = max(exact.abs().max().item(), 1e-6) if exact.numel() else 1
        torch.testing.assert_close(value.double(), exact, rtol=0, atol=2e-6 * scale)
    if rows == 65:
        torch.library.opcheck(torch.ops.kinn.channel_mix, [t.requires_grad_() if t is x else t for t in arguments])
        torch.library.opcheck(
            torch.ops.kinn.channel_mix_backward,
            (torch.ones(rows, outputs), *arguments),
            test_utils=("test_schema", "test_faketensor"),
        )


def test_mix_is_the_sum_of_its_parts():
    x, field, layer = torch.rand(3, 20, 20, 6), torch.rand(3, 20, 20, 4), torch.nn.Linear(6, 4)
    got = channel_mix(x, field, layer.weight, layer.bias)
    torch.testing.assert_close(got, torch.nn.functional.gelu(field + layer(x)))
