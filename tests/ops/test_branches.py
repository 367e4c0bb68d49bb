"""What surrounds the cascade, compiled, against plain PyTorch in float64, and who gets which."""

from __future__ import annotations

import pytest
import torch

from kinn.nn import KirchhoffBlock
from kinn.ops import branches, evolution_branch, gated_output
from kinn.ops.cpu import evolution_cpu, gate_cpu
from kinn.ops.reference import evolution_reference, gate_reference

pytestmark = pytest.mark.usefixtures("poisoned_memory")


@pytest.fixture
def normal():
    generator = torch.Generator().manual_seed(0)
    return lambda *shape: torch.randn(shape, generator=generator)


def gate_arguments(normal, shape, c, d, inner_norm):
    inner = (normal(d) + 1, normal(d)) if inner_norm else (None, None)
    return [
        normal(*shape, c) + 1, normal(*shape, d) + 1, normal(c) + 1, normal(c), normal(d, c) * c**-0.5, *inner,
        normal(c, d) * d**-0.5, 1e-5, 1e-3,
    ]  # fmt: skip


def evolution_arguments(normal, shape, c, d, taps, periodic, bias):
    return [
        normal(*shape, c) + 1, normal(c) + 1, normal(c), normal(d, c) * c**-0.5, normal(d, 1, taps, taps) / taps,
        normal(d) if bias else None, normal(d, d) * d**-0.5, normal(d) if bias else None, 1e-5, periodic,
    ]  # fmt: skip


@pytest.fixture
def check(derive, double):
    def run(compiled, reference, arguments):
        got, exact = derive(compiled, arguments), derive(reference, double(arguments))
        for value, expected in zip(got, exact, strict=True):
            assert value.shape == expected.shape
            if (
                expected.numel()
            ):  # what is zero but for rounding, as the gradients of a norm of one channel, has no scale
                scale = max(expected.abs().max().item(), 1e-6)
                torch.testing.assert_close(value.double(), expected, rtol=0, atol=2e-6 * scale)

    return run


@pytest.mark.parametrize("inner_norm", [True, False])
@pytest.mark.parametrize(
    ("shape", "c", "d"),
    # the last in several blocks, whose sums are added up
    [((0, 4), 3, 5), ((1,), 1, 1), ((63,), 20, 40), ((2, 7, 9), 16, 33), ((2, 17, 39), 5, 7)],
)
def test_gate(check, normal, shape, c, d, inner_norm):
    check(gate_cpu, gate_reference, gate_arguments(normal, shape, c, d, inner_norm))


@pytest.mark.parametrize("periodic", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("shape", "c", "d", "taps"),
    [
        ((0, 4, 4), 3, 4, 3),
        ((2, 1, 1), 3, 4, 3),
        ((2, 9, 11), 20, 40, 3),
        ((1, 40, 6), 5, 7, 3),  # several bands of rows
        ((3, 5, 4), 17, 33, 5),
        ((2, 3, 5), 4, 4, 1),
    ],
)
def test_evolution(check, normal, shape, c, d, taps, periodic, bias):
    check(evolution_cpu, evolution_reference, evolution_arguments(normal, shape, c, d, taps, periodic, bias))


def test_constant_and_huge_rows(double, normal):
    arguments = gate_arguments(normal, (100,), 7, 5, True)
    arguments[0][:50] = 3.0
    arguments[0][50:] *= 1e6
    arguments[1][::2] = -1e4
    torch.testing.assert_close(gate_cpu(*arguments).double(), gate_reference(*double(arguments)), rtol=1e-5, atol=1e-4)


def test_not_a_number_stays_where_it_is(normal):
    """As far as the filter reaches, and no further."""
    arguments = evolution_arguments(normal, (1, 8, 9), 3, 5, 3, False, True)
    arguments[0][0, 4, 4, 1] = torch.nan
    y = evolution_cpu(*arguments)
    assert y[0, 3:6, 3:6].isnan().all()
    y[0, 3:6, 3:6] = 0
    assert y.isfinite().all()


def test_huge_rows_beside_not_a_number_are_still_scaled(normal):
    x, y, *norm, gate, inner_weight, inner_bias, out, _, _ = gate_arguments(normal, (2, 3), 6, 8, True)
    y = y * 1e25
    with_nan = y.index_fill(0, torch.tensor([1]), torch.nan)
    for factor in (None, torch.ones(2)):  # the reference, too
        arguments = {"norm": norm, "inner_norm": (inner_weight, inner_bias), "factor": factor}
        got = gated_output(x, with_nan, gate, out, **arguments)
        torch.testing.assert_close(got[0], gated_output(x, y, gate, out, **arguments)[0])
        assert got[0].isfinite().all()


def test_periodic_branch_commutes_with_shifts(normal):
    x, *others = evolution_arguments(normal, (1, 6, 8), 3, 4, 3, True, True)
    moved = evolution_cpu(x.roll((2, 3), (1, 2)), *others)
    torch.testing.assert_close(moved, evolution_cpu(x, *others).roll((2, 3), (1, 2)), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("which", ["gate", "evolution"])
def test_same_bits_every_time(derive, normal, threads, which):
    """Enough work for several threads."""
    threads(4)
    if which == "gate":
        compiled, arguments = gate_cpu, gate_arguments(normal, (5, 50, 60), 20, 40, True)
    else:
        compiled, arguments = evolution_cpu, evolution_arguments(normal, (5, 50, 60), 6, 8, 3, False, True)
    first = derive(compiled, arguments)
    for _ in range(4):
        assert all(map(torch.equal, derive(compiled, arguments), first))


@pytest.mark.parametrize("which", ["gate", "evolution"])
class TestOperator:
    @pytest.fixture
    def case(self, which, normal):
        if which == "gate":
            return gate_cpu, gate_reference, gate_arguments(normal, (2, 6, 30), 5, 7, True), "gated_output"
        arguments = evolution_arguments(normal, (2, 6, 30), 5, 7, 3, False, True)
        return evolution_cpu, evolution_reference, arguments, "evolution_branch"

    def test_strided_input_and_gradient(self, derive, case):
        compiled, _, arguments, _ = case
        expected = derive(compiled, arguments)
        arguments[0] = arguments[0].transpose(0, 2).contiguous().transpose(0, 2)
        assert all(map(torch.equal, derive(compiled, arguments), expected))
        leaf = arguments[0].detach().requires_grad_()
        compiled(leaf, *arguments[1:]).sum().backward()  # the gradient that arrives is one number, expanded
        assert leaf.grad.isfinite().all()

    def test_second_derivative(self, curvature, double, case):
        compiled, reference, arguments, _ = case
        exact = curvature(reference, double(arguments))
        for got, expected in zip(curvature(compiled, arguments), exact, strict=True):
            torch.testing.assert_close(got.double(), expected, rtol=0, atol=1e-4 * expected.abs().max().item())

    def test_opcheck(self, case):
        compiled, _, arguments, name = case
        arguments = [t.requires_grad_() if isinstance(t, torch.Tensor) else t for t in arguments]
        torch.library.opcheck(getattr(torch.ops.kinn, name), arguments)
        given = torch.randn(compiled(*arguments).shape)
        backward = getattr(torch.ops.kinn, f"{name}_backward")
        torch.library.opcheck(backward, (given, *arguments), test_utils=("test_schema", "test_faketensor"))


def test_who_gets_the_kernels(watch):
    both = ["evolution_cpu", "gate_cpu"]
    took = watch(branches, *both)
    block, x = KirchhoffBlock(4, d_state=2, output_norm=True, residual_scale=True), torch.rand(2, 20, 20, 4)
    assert took(block, x) == both
    assert took(block, x[:1, :2]) == []
    assert took(KirchhoffBlock(4, n_axes=1), torch.rand(2, 600, 4)) == ["gate_cpu"]
    assert took(block.double(), x.double()) == []
    block.float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert took(block, x) == []
    assert took(torch.export.export, block, (x,)) == []
    assert took(KirchhoffBlock(300, d_state=1), torch.rand(1, 23, 23, 300)) == []


def test_filters_of_unequal_widths_are_refused(normal):
    x, *norm, matrix, _, _, mix, _, _, _ = evolution_arguments(normal, (1, 30, 20), 6, 8, 3, False, False)
    with pytest.raises(ValueError, match=r"expected filters of one odd width on 2 axes, got \(3, 5\)"):
        evolution_branch(x, matrix, torch.rand(8, 1, 3, 5), None, mix, None, norm=norm)


def test_public_functions(normal):
    x, y, *norm, gate, inner_weight, inner_bias, out, _, _ = gate_arguments(normal, (1, 30, 20), 6, 8, True)
    inner = (inner_weight, inner_bias)
    got = gated_output(x, y, gate, out, norm=norm, inner_norm=inner, eps=1e-4)
    torch.testing.assert_close(got, gate_reference(x, y, *norm, gate, *inner, out, 1e-4, 1e-5), rtol=1e-4, atol=1e-5)
    x, *norm, matrix, filters, _, mix, _, _, _ = evolution_arguments(normal, (1, 30, 20), 6, 8, 3, False, False)
    got = evolution_branch(x, matrix, filters, None, mix, None, norm=norm, periodic=True)
    expected = evolution_reference(x, *norm, matrix, filters, None, mix, None, 1e-5, True)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
