"""What every fused cascade owes torch and its users: strides, half precision, compiling, exporting, one derivative."""

from __future__ import annotations

import io

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from kinn.ops import cascade_scan, triton

ROUTES = [(1, False), (0, False), (1, True), (0, True)]
NAMES = ("projection", "dt_weight", "dt_bias", "a", "D")


class Operators(TorchDispatchMode):
    """The arguments of every call of an operator of kinn's, by its name, forward and backward."""

    def __init__(self):
        super().__init__()
        self.calls = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.namespace == "kinn":
            self.calls[function] = args
        return function(*args, **(kwargs or {}))


class Cascade(torch.nn.Module):
    def __init__(self, arguments, backend):
        super().__init__()
        self.parts = torch.nn.ParameterDict({k: torch.nn.Parameter(arguments[k].float()) for k in NAMES})
        self.backend = backend

    def forward(self, x):
        return cascade_scan(x, *(self.parts[name] for name in NAMES), routes=ROUTES[:2], backend=self.backend)


@pytest.fixture(params=["cpu", "triton"])
def backend(request, monkeypatch, poisoned_memory):
    if request.param == "cpu":
        monkeypatch.setattr("kinn.ops.cascade.cascade_fits", lambda *sizes: True)
        return "cpu"
    if not triton.interpreted():
        pytest.skip("needs Triton and TRITON_INTERPRET=1 in the environment")
    request.getfixturevalue("patched_once")
    request.getfixturevalue("scans_by_doubling")
    return "triton"


@pytest.fixture
def model(make_cascade, backend):
    return Cascade(make_cascade(1, (1, 1), 3, 2), backend)


def test_strides_do_not_matter(backend, make_cascade, differentiate_cascade):
    arguments, options = make_cascade(2, (3, 4), 11, 4), {"routes": ROUTES[:2], "backend": backend}
    views = {k: v.transpose(-1, -2).contiguous().transpose(-1, -2) for k, v in arguments.items()}
    views["x"] = torch.cat((arguments["x"], arguments["x"]), -1)[..., :11]
    assert not any(views[name].is_contiguous() for name in ("x", "projection", "a"))
    packed, strided = (differentiate_cascade(tensors, **options) for tensors in (arguments, views))
    for name, expected in packed.items():
        assert torch.equal(strided[name], expected), name
    expanded, ones = (
        torch.autograd.grad(cascade_scan(**arguments, **options), leaf, given)
        for leaf in [arguments["x"].requires_grad_()]
        for given in (torch.ones(1, dtype=torch.float64).expand(2, 3, 4, 11), torch.ones(2, 3, 4, 11).double())
    )
    assert torch.equal(*expanded, *ones)


def test_nan_stays_downstream(backend, make_cascade):
    """A NaN reaches what comes after it on a route, and nothing before it, nor another batch element."""
    arguments, options = make_cascade(2, (100,), 5, 3, routes=1), {"routes": [(0, False)], "backend": backend}
    clean = cascade_scan(**arguments, **options)
    arguments["x"][0, 40, 2] = torch.nan
    y = cascade_scan(**arguments, **options)
    assert torch.equal(y[0, :40], clean[0, :40])
    assert y[0, 40:].isnan().all()
    assert torch.equal(y[1], clean[1])


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_single(half, backend, make_cascade, differentiate_cascade, assert_close):
    arguments, options = {k: v.float() for k, v in make_cascade(2, (4, 5), 5, 3).items()}, {"routes": ROUTES[:2]}
    arguments["x"] = arguments["x"].to(half)
    got = differentiate_cascade(arguments, **options, backend=backend)
    assert (got["y"].dtype, got["dx"].dtype, got["da"].dtype) == (half, half, torch.float32)
    wide = cascade_scan(**{**arguments, "x": arguments["x"].float()}, **options, backend=backend)
    assert torch.equal(got["y"], wide.to(half))
    exact = differentiate_cascade({k: v.double() for k, v in arguments.items()}, **options, backend="reference")
    assert_close(got, exact, 2 * torch.finfo(half).eps)


def test_autocast_changes_nothing(backend, make_cascade):
    arguments = {k: v.float() for k, v in make_cascade(2, (5, 4), 3, 2).items()}
    for name in (backend, "reference"):
        expected = cascade_scan(**arguments, routes=ROUTES[:2], backend=name)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(cascade_scan(**arguments, routes=ROUTES[:2], backend=name), expected)


def test_same_bits_every_time(backend, threads, make_cascade, differentiate_cascade):
    threads(3)
    arguments = {k: v.float() for k, v in make_cascade(2, (4, 3), 5, 3, routes=4).items()}
    first, again = (differentiate_cascade(arguments, routes=ROUTES, backend=backend) for _ in range(2))
    assert all(torch.equal(again[name], value) for name, value in first.items())


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"injection": "euler", "wiring": "parallel", "lines": "separate", "dt_scale": 0.5},
        {"injection": "euler", "couplings": "bounded"},  # on the GPU by the scans of its cells
    ],
)
def test_opcheck(options, backend, make_cascade):
    leaves = [v.requires_grad_() for v in make_cascade(2, (3, 4), 2, 1).values()]
    with Operators() as operators:
        cascade_scan(*leaves, routes=ROUTES[:2], backend=backend, **options).sum().backward()
    (forward, given), (backward, given_back) = operators.calls.items()
    assert backward.name() == f"{forward.name()}_backward"
    wanted = [v.detach().requires_grad_() if isinstance(v, torch.Tensor) else v for v in given]
    torch.library.opcheck(forward, wanted)
    torch.library.opcheck(backward, given_back, test_utils=("test_schema", "test_faketensor"))


def test_compile(model):
    x = torch.randn(2, 5, 4, 3)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), model(x), rtol=0, atol=0)
    parameters = list(model.parameters())
    expected = torch.autograd.grad(model(x).sum(), parameters)
    torch.testing.assert_close(torch.autograd.grad(compiled(x).sum(), parameters), expected, rtol=0, atol=0)


def test_export_with_dynamic_batch(model, backend):
    batch = torch.export.Dim("batch")
    program = torch.export.export(model.eval(), (torch.randn(2, 5, 4, 3),), dynamic_shapes={"x": {0: batch}})
    operators = [str(node.target) for node in program.graph.nodes if "kinn" in str(node.target)]
    assert operators == [f"kinn.cascade_scan{'_triton' if backend == 'triton' else ''}.default"]
    file = io.BytesIO()
    torch.export.save(program, file)
    for size in (0, 1, 2, 7):
        file.seek(0)
        x = torch.randn(size, 5, 4, 3)
        torch.testing.assert_close(torch.export.load(file).module()(x), model(x))


def test_second_derivative_names_the_way_out(backend, make_cascade):
    arguments = {k: v.requires_grad_() for k, v in make_cascade(2, (4,), 2, 2, routes=1).items()}
    y = cascade_scan(**arguments, routes=[(0, False)], backend=backend)
    (gradient,) = torch.autograd.grad(y.square().sum(), arguments["x"], create_graph=True)
    with pytest.raises(RuntimeError, match="for second derivatives, run the forward in"):
        torch.autograd.grad(gradient.sum(), arguments["x"])
