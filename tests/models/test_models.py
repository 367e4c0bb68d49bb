"""One test over all models: shapes, gradients, counts, save and load, resolutions, compile, export."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kinn.models import CNO, FKNO, FNO, UKNO, UKNO_DEEP, UKNO_SHALLOW, UNet, build, model_names


@dataclass
class Case:
    """A model at a size that is quick to run, and the grids that it takes."""

    model: type[nn.Module]
    arguments: dict[str, Any]
    grids: tuple[tuple[int, int], ...]
    wrong: dict[str, Any] = field(default_factory=dict)

    def build(self, in_channels: int = 2, out_channels: int = 3) -> nn.Module:
        torch.manual_seed(0)
        return self.model(in_channels, out_channels, **self.arguments)


FOURIER = {"width": 6, "n_modes": (4, 3), "n_layers": 2}
ANY = ((9, 11), (8, 12), (5, 4), (16, 16))
EIGHTHS = ((8, 8), (8, 24), (16, 16))
CASES = {
    "FNO": Case(FNO, FOURIER, ANY),
    "FKNO": Case(FKNO, {**FOURIER, "d_state": 3}, ANY),
    "FKNO periodic": Case(
        FKNO, {**FOURIER, "d_state": 3, "routes": 2, "lines": "separate", "boundary": "periodic"}, ANY
    ),
    "FKNO parallel": Case(FKNO, {**FOURIER, "order": 3, "routes": 1, "wiring": "parallel", "injection": "euler"}, ANY),
    "UKNO": Case(
        UKNO, {"width": 4, "levels": 2, "routes": 2, "skip_blocks": 1, "neck_blocks": 1, "d_state": 2}, EIGHTHS
    ),
    "UKNO deep": Case(
        UKNO, {"width": 4, **UKNO_DEEP, "levels": 2, "order": 1, "skip_blocks": 1, "neck_blocks": 1}, EIGHTHS
    ),
    "UKNO periodic": Case(
        UKNO,
        {
            "width": 4,
            "levels": 1,
            "skip_blocks": 1,
            "neck_blocks": 0,
            "routes": 2,
            "lines": "separate",
            "boundary": "periodic",
        },
        ((4, 4), (12, 8), (16, 16)),
    ),
    "FKNO last": Case(FKNO, {**FOURIER, "d_state": 2, "routes": 1, "mlp_ratio": 0, "block_layer": -1}, ANY),
    "UNet": Case(UNet, {"width": 4, "levels": 2}, EIGHTHS),
    "UNet periodic": Case(UNet, {"width": 4, "levels": 2, "boundary": "periodic"}, EIGHTHS),
    "CNO": Case(CNO, {"width": 4, "levels": 2, "skip_blocks": 1, "neck_blocks": 1}, EIGHTHS),
    "UKNO backbone": Case(UKNO, {"width": 4, "order": 0, "levels": 1, "skip_blocks": 1, "neck_blocks": 1}, EIGHTHS),
}
KIRCHHOFF = [name for name, case in CASES.items() if case.model in (FKNO, UKNO) and case.arguments.get("order") != 0]
over_cases = pytest.mark.parametrize("name", list(CASES))


def smooth_input(n: int, channels: int = 2) -> Tensor:
    """A periodic field, sampled at n x n cell centres."""
    x = 2 * torch.pi * (torch.arange(n) + 0.5) / n
    fields = [torch.sin((c + 1) * x[:, None] + 0.5) * torch.cos(x + c) for c in range(channels)]
    return torch.stack(fields).unsqueeze(0)


@pytest.mark.parametrize("name", ["UKNO", "UNet", "CNO"])
def test_grids_that_do_not_halve_go_on_beyond_their_edges(name: str) -> None:
    model = CASES[name].build().double().eval()
    x = torch.randn(1, 2, 13, 8, dtype=torch.float64, requires_grad=True)
    longer = torch.nn.functional.pad(x, (0, 0, 1, 2), mode="replicate")
    y = model(x)
    torch.testing.assert_close(y, model(longer)[:, :, 1:14], rtol=0, atol=1e-14)
    assert torch.autograd.gradcheck(model, x.detach()[..., :5, :3].requires_grad_(), fast_mode=True)
    torch.testing.assert_close(
        model(x[..., :1, :1])[0, :, 0, 0], model(x[..., :1, :1].expand(-1, -1, 4, 4))[0, :, 1, 1]
    )


@pytest.mark.parametrize("name", ["UKNO periodic", "UNet periodic"])
def test_a_periodic_grid_must_halve(name: str) -> None:
    with pytest.raises(ValueError, match=r"sizes of a periodic grid must be divisible by \d, got 8 x 7"):
        CASES[name].build()(torch.zeros(1, 2, 8, 7))


@over_cases
@pytest.mark.parametrize(("in_channels", "out_channels"), [(1, 1), (2, 3)])
def test_shapes(name: str, in_channels: int, out_channels: int) -> None:
    case = CASES[name]
    model = case.build(in_channels, out_channels).eval()
    for grid in case.grids:
        for batch in (1, 2):
            y = model(torch.randn(batch, in_channels, *grid))
            assert y.shape == (batch, out_channels, *grid)
            assert y.isfinite().all()


@over_cases
def test_every_parameter_has_a_gradient(name: str) -> None:
    # In eval mode: batch statistics would take out every bias before a norm.
    model = CASES[name].build().double().eval()
    for parameter_name, parameter in model.named_parameters():
        if parameter_name.endswith("dt_proj.bias"):
            nn.init.uniform_(parameter, -1, 1)  # steps of order one, so that nothing is small for its couplings alone
    model(torch.randn(2, 2, 16, 16, dtype=torch.float64)).square().sum().backward()
    for parameter_name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, parameter_name
            assert parameter.grad.isfinite().all(), parameter_name
            assert parameter.grad.abs().max() > 1e-12, parameter_name


@over_cases
def test_frozen_parameters_are_the_unused_norms_alone(name: str) -> None:
    frozen = [n for n, p in CASES[name].build().named_parameters() if not p.requires_grad]
    assert all(n.startswith(("trunk.norms.", "unused.")) for n in frozen)


@over_cases
def test_rebuilt_from_its_arguments_and_state(name: str) -> None:
    model = CASES[name].build()
    model(torch.randn(2, 2, 16, 16))  # moves the batch norms' running statistics
    arguments = json.loads(json.dumps(model.arguments))
    assert arguments == model.arguments
    copy = build(type(model).__name__, arguments)
    copy.load_state_dict(model.state_dict())
    x = torch.randn(1, 2, 8, 8)
    assert torch.equal(model.eval()(x), copy.eval()(x))


@over_cases
def test_same_seed_same_model(name: str) -> None:
    one, two = CASES[name].build(), CASES[name].build()
    assert all(torch.equal(p, q) for p, q in zip(one.parameters(), two.parameters()))


@over_cases
def test_batch_elements_are_independent(name: str) -> None:
    model = CASES[name].build().double().eval()
    x = torch.randn(3, 2, 16, 16, dtype=torch.float64)
    torch.testing.assert_close(model(x)[1:2], model(x[1:2]), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["FNO", "FKNO periodic", "UKNO", "UKNO periodic", "UNet", "CNO"])
def test_refined_grid_gives_a_nearby_answer(name: str) -> None:
    """The same operator at two resolutions: closer to each other than to zero, and closer on finer grids."""
    model = CASES[name].build().eval()
    with torch.no_grad():
        coarse, fine, finest = (
            model(smooth_input(n), **({} if name == "FNO" else {"dt_scale": 32 / n})) for n in (32, 64, 128)
        )

    def distance(fine: Tensor, coarse: Tensor) -> float:
        means = nn.functional.avg_pool2d(fine, 2)
        return ((means - coarse).norm() / coarse.norm()).item()

    assert distance(fine, coarse) < 0.25
    assert distance(finest, fine) < distance(fine, coarse)


@pytest.mark.parametrize("name", KIRCHHOFF)
def test_dt_scale_is_heard(name: str) -> None:
    model = CASES[name].build().double().eval()
    x = torch.randn(1, 2, 16, 16, dtype=torch.float64)
    reference = model(x)
    assert torch.equal(model(x, dt_scale=1.0), reference)
    assert (model(x, dt_scale=0.5) - reference).abs().max() > 1e-9
    with pytest.raises(ValueError, match="dt_scale must be positive, got 0"):
        model(x, dt_scale=0)


@pytest.mark.parametrize("name", ["FNO", "FKNO", "FKNO periodic", "UKNO", "UKNO periodic", "UNet", "CNO"])
def test_compiles_into_one_graph(name: str) -> None:
    torch._dynamo.reset()
    model = CASES[name].build().eval()
    x = torch.randn(2, 2, 8, 8)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), model(x), rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(shutil.which("c++") is None, reason="Inductor needs a C++ compiler")
@pytest.mark.parametrize("name", ["FKNO", "UKNO backbone"])
def test_trains_compiled_by_inductor(name: str) -> None:
    """Unlike other compilers' backends it holds every operator to the memory layout that it announced."""
    torch._dynamo.reset()
    model = CASES[name].build()
    x = torch.randn(2, 2, 8, 8)
    gradients = []
    for function in (model, torch.compile(model, fullgraph=True)):
        model.zero_grad()
        function(x).square().sum().backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.requires_grad])
    largest = max(gradient.abs().max().item() for gradient in gradients[0])
    for eager, compiled in zip(*gradients):  # biases before a batch norm have no gradient but rounding
        torch.testing.assert_close(compiled, eager, rtol=1e-3, atol=1e-5 * largest)


@pytest.mark.parametrize("name", ["FNO", "FKNO", "FKNO periodic", "UKNO", "UKNO periodic", "UNet", "CNO"])
def test_exports_with_any_batch_size(name: str) -> None:
    model = CASES[name].build().eval()
    program = torch.export.export(
        model, (torch.randn(2, 2, 8, 8),), dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=64)},)
    )
    x = torch.randn(3, 2, 8, 8)
    torch.testing.assert_close(program.module()(x), model(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["FNO", "FKNO"])
def test_exported_without_gradients_it_still_has_them(name: str) -> None:
    model, x = CASES[name].build(2, 2), torch.randn(2, 2, 8, 8)
    with torch.no_grad():
        exported = torch.export.export(model.eval(), (x,)).module()
    x.requires_grad_()
    (expected,) = torch.autograd.grad(model(x).sum(), x)
    (found,) = torch.autograd.grad(exported(x).sum(), x)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", ["UKNO", "CNO", "UNet"])
def test_batch_norms_may_be_synchronised(name: str) -> None:
    model, x = CASES[name].build(2, 2).eval(), torch.randn(2, 2, 16, 16)
    expected = model(x)
    converted = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)
    assert any(isinstance(module, torch.nn.SyncBatchNorm) for module in converted.modules())
    torch.testing.assert_close(converted(x), expected)


@over_cases
def test_a_memory_format_changes_nothing(name: str) -> None:
    model, x = CASES[name].build(2, 2).eval(), torch.randn(1, 2, 16, 16)
    expected = model(x)
    torch.testing.assert_close(model.to(memory_format=torch.channels_last)(x), expected)


@over_cases
def test_half_precision(name: str) -> None:
    model = CASES[name].build().eval()
    x = torch.randn(1, 2, 8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = model(x)
    exact = model(x)
    assert (y.float() - exact).norm() < 0.05 * exact.norm()


@over_cases
def test_wrong_inputs(name: str) -> None:
    model = CASES[name].build()
    for shape in ((2, 2, 8), (2, 5, 8, 8), (2, 2, 8, 8, 8)):
        with pytest.raises(ValueError, match=r"expected fields of shape \(batch, 2, height, width\), got "):
            model(torch.zeros(shape))


@over_cases
def test_wrong_sizes(name: str) -> None:
    with pytest.raises(ValueError, match="in_channels must be at least 1, got -1"):
        CASES[name].model(-1, 1)
    with pytest.raises(ValueError, match="out_channels must be at least 1, got 0"):
        CASES[name].model(1, 0)


def test_every_registered_model_is_tested() -> None:
    peers = {"NeuralOperatorFNO", "NeuralOperatorUNO"}  # in test_peers.py: what they cannot do is not ours to mend
    assert {case.model.__name__ for case in CASES.values()} | peers == set(model_names())


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (lambda: FNO(10, 1), 465_717),
        (lambda: FKNO(10, 1, routes=1), 476_698),
        (lambda: FKNO(10, 1, routes=2), 481_018),
        (lambda: FKNO(10, 1, routes=4), 489_658),
        (lambda: UKNO(1, 1, order=0, **UKNO_DEEP), 1_278_497),
        (lambda: UKNO(1, 1, order=1, **UKNO_DEEP), 2_596_134),
        (lambda: UKNO(1, 1, order=2, **UKNO_DEEP), 2_834_726),
        (lambda: UKNO(1, 1, order=3, **UKNO_DEEP), 3_073_318),
        (lambda: UKNO(1, 1, order=4, **UKNO_DEEP), 3_311_910),
        (lambda: UKNO(1, 1, order=0, **UKNO_SHALLOW), 629_921),
        (lambda: UKNO(1, 1, order=1, **UKNO_SHALLOW), 2_595_238),
        (lambda: UKNO(1, 1, order=2, **UKNO_SHALLOW), 2_834_854),
        (lambda: UKNO(1, 1, order=3, **UKNO_SHALLOW), 3_074_470),
        (lambda: UKNO(1, 1, order=4, **UKNO_SHALLOW), 3_314_086),
        (lambda: CNO(1, 1), 2_951_249),
        (lambda: UNet(1, 1), 7_762_465),
        (lambda: UNet(10, 1), 7_765_057),
    ],
)
def test_published_parameter_counts(model: Any, expected: int) -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in model().parameters()) == expected
