"""The scan as one operator of torch: opcheck, compile, export; forward-mode, transformed and second derivatives."""

from __future__ import annotations

import io

import pytest
import torch

from kinn.models import FKNO
from kinn.nn import KirchhoffBlock
from kinn.notices import warn_once
from kinn.ops import cpu, grid_scan, selective_scan, use_backend


class Scan(torch.nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.a = torch.nn.Parameter(torch.rand(3, 2) + 0.5)
        self.D = torch.nn.Parameter(torch.ones(3))
        self.options = options

    def forward(self, x, B):
        return grid_scan(x, torch.nn.functional.softplus(x), self.a, B, B, self.D, **self.options)


def inputs(batch=2):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, 5, 4, 3, generator=generator), torch.randn(batch, 5, 4, 2, generator=generator)


@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("zoh", [True, False])
def test_opcheck(make, skip, zoh):
    arguments = {k: v.requires_grad_() for k, v in make(2, (12,), 3, 2).items()}
    D = arguments["D"] if skip else None
    start = torch.rand(6, 3, 2, dtype=torch.float64, requires_grad=True) if skip else None
    x, dt, a, B, C = (arguments[k] for k in ("x", "dt", "a", "B", "C"))
    torch.library.opcheck(torch.ops.kinn.selective_scan, (x, dt, a, B, C, D, start, 3, 4, 1, not skip, True, zoh, True))


def test_opcheck_backward(make):
    x, dt, a, B, C, D = make(2, (12,), 3, 2).values()
    _, _, kept = torch.ops.kinn.selective_scan(x, dt, a, B, C, D, None, 1, 12, 1, True, False, True, True)
    torch.library.opcheck(
        torch.ops.kinn.selective_scan_backward,
        (x, None, x, dt, a, B, C, D, kept, 1, 12, 1, True, False, True),
        test_utils=("test_schema", "test_faketensor"),
    )


@pytest.mark.parametrize("options", [{}, {"axis": 0, "lines": "separate", "boundary": "periodic"}])
def test_compile(options):
    x, B = inputs()
    model = Scan(**options)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, B), model(x, B))
    expected = torch.autograd.grad(model(x, B).sum(), list(model.parameters()))
    torch.testing.assert_close(torch.autograd.grad(compiled(x, B).sum(), list(model.parameters())), expected)


@pytest.mark.parametrize("options", [{}, {"axis": 0, "lines": "separate", "boundary": "periodic"}])
def test_export_with_dynamic_batch(options):
    model = Scan(**options).eval()
    batch = torch.export.Dim("batch")
    program = torch.export.export(model, inputs(), dynamic_shapes={"x": {0: batch}, "B": {0: batch}})
    operators = [str(node.target) for node in program.graph.nodes if "kinn" in str(node.target)]
    assert operators == ["kinn.selective_scan.default"] * (2 if options else 1)
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    for size in (1, 2, 7):
        x, B = inputs(size)
        torch.testing.assert_close(torch.export.load(file).module()(x, B), model(x, B))
        file.seek(0)


def test_second_derivative_names_the_way_out(make):
    arguments = {k: v.requires_grad_() for k, v in make(1, (4,), 2, 2).items()}
    y = selective_scan(**arguments, backend="cpu")
    (gradient,) = torch.autograd.grad(y.square().sum(), arguments["x"], create_graph=True)
    with pytest.raises(RuntimeError, match="for second derivatives, run the forward in"):
        torch.autograd.grad(gradient.sum(), arguments["x"])


def test_states_are_kept_only_for_a_gradient(make):
    x, dt, a, B, C, D = make(2, (40,), 3, 2).values()
    path = (1, 40, 1, True, False, True)
    assert torch.ops.kinn.selective_scan(x, dt, a, B, C, D, None, *path, False)[2].numel() == 0
    kept = torch.ops.kinn.selective_scan(x, dt, a, B, C, D, None, *path, True)[2]
    assert 0 < kept.numel() < x.numel() * a.shape[1] / 8


@pytest.fixture
def block():
    torch.manual_seed(0)
    return KirchhoffBlock(4, order=2, n_axes=1, d_state=3, output_norm=True, mlp_ratio=2).double()


@pytest.mark.filterwarnings("ignore:kinn. scans run in the slow reference loop")
def test_forward_mode_and_transforms_give_the_derivatives_of_the_backward(make, block):
    """A compiled operator would drop tangents without a word."""
    scan = make(1, (6,), 4, 2)
    for function in (block, lambda x: selective_scan(**{**scan, "x": x})):
        x, tangent = torch.randn(2, 1, 6, 4, dtype=torch.float64)
        jacobian = torch.autograd.functional.jacobian(function, x).squeeze((0, 3))  # by the compiled backward
        expected = torch.einsum("lcmd,bmd->blc", jacobian, tangent)
        assert expected.abs().max() > 0.1
        torch.testing.assert_close(torch.func.jvp(function, (x,), (tangent,))[1], expected)
        with torch.autograd.forward_ad.dual_level():
            dual = function(torch.autograd.forward_ad.make_dual(x, tangent))
            torch.testing.assert_close(torch.autograd.forward_ad.unpack_dual(dual).tangent, expected)
        torch.testing.assert_close(torch.func.jacrev(function)(x).squeeze((0, 3)), jacobian)
        torch.testing.assert_close(torch.func.jacfwd(function)(x).squeeze((0, 3)), jacobian)


def test_a_transform_is_refused_by_the_compiled_backend_and_said_once_by_auto(make):
    x, *rest = make(1, (6,), 4, 2).values()
    with pytest.raises(RuntimeError, match="backend 'cpu' cannot run: forward-mode derivatives"):
        torch.func.jvp(lambda x: selective_scan(x, *rest, backend="cpu"), (x,), (x,))
    warn_once.cache_clear()
    with pytest.warns(UserWarning, match="slow reference loop, because forward-mode derivatives and transforms"):
        torch.func.jvp(lambda x: selective_scan(x, *rest), (x,), (x,))


def test_second_derivatives_of_a_model_by_the_reference(block):
    x = torch.randn(1, 5, 4, dtype=torch.float64, requires_grad=True)
    with use_backend("reference"):
        assert torch.autograd.gradgradcheck(block, x)
    with pytest.raises(RuntimeError, match="differentiable once"):
        torch.autograd.gradgradcheck(block, x)
    with pytest.raises(ValueError, match="use_backend: backend must be one of"), use_backend("gpu"):
        pass


def test_compiles_into_one_graph_where_no_kernel_runs(make, monkeypatch):
    arguments = make(1, (4,), 2, 2)
    monkeypatch.setattr(cpu, "unavailable", lambda: "numba is away")
    torch.compiler.reset()
    warn_once.cache_clear()
    compiled = torch.compile(lambda x: selective_scan(**{**arguments, "x": x}), fullgraph=True, backend="eager")
    with pytest.warns(UserWarning, match="because numba is away"):
        y = compiled(arguments["x"])
    torch.testing.assert_close(y, selective_scan(**arguments, backend="reference"))
    warn_once.cache_clear()


def test_a_model_runs_in_onnx_with_any_batch_size(tmp_path):
    """Exported, the reference is one loop of ONNX per cell."""
    onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    model = FKNO(2, 1, width=4, n_modes=(2, 2), n_layers=1, order=2, routes=1).eval()
    with use_backend("reference"):
        program = torch.export.export(
            model, (torch.randn(2, 2, 6, 5),), dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=64)},)
        )
    torch.onnx.export(program, (), str(tmp_path / "model.onnx"), dynamo=True, verbose=False)
    assert sum(node.op_type == "Scan" for node in onnx.load(str(tmp_path / "model.onnx")).graph.node) == 2
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    for batch in (1, 3):
        x = torch.randn(batch, 2, 6, 5)
        (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        torch.testing.assert_close(torch.from_numpy(y), model(x).detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*torch.jit.*:DeprecationWarning")
def test_a_block_is_traced_where_the_reference_scans():
    block, x = KirchhoffBlock(4, order=2, routes=2).eval(), torch.randn(1, 4, 3, 4)
    with use_backend("reference"):
        traced = torch.jit.trace(block, x)
    torch.testing.assert_close(traced(2 * x), block(2 * x), rtol=1e-5, atol=1e-6)
