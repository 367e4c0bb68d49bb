"""Both ways of a truncated Fourier transform against NumPy's full one, and the layer that they make."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pytest
import torch

from kinn.nn import SpectralConv2d, fourier
from kinn.nn.fourier import Modes

WAYS = {
    "fft": (fourier._transform_by_fft, fourier._inverse_by_fft),
    "products": (fourier._transform_by_products, fourier._inverse_by_products),
}
SIZES = [
    ((1, 1), (1, 1)), ((1, 6), (2, 2)), ((5, 1), (2, 3)), ((2, 2), (1, 2)), ((7, 9), (3, 4)), ((8, 6), (4, 4)),
    ((8, 6), (12, 12)), ((16, 31), (5, 1)), ((64, 48), (12, 7)),
]  # fmt: skip
TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-14}


@pytest.fixture(params=["fft", "products"])
def way(request, monkeypatch):
    monkeypatch.setattr(fourier, "_products_are_faster", lambda modes, x: request.param == "products")
    return request.param


def numpy_transform(x: np.ndarray, modes: Modes) -> np.ndarray:
    full = np.fft.rfft2(x, axes=(1, 2))[:, :, : modes.columns]
    kept = np.concatenate((full[:, : modes.positive], full[:, modes.height - modes.negative :]), axis=1)
    return np.stack((kept.real, kept.imag), axis=2)


def numpy_inverse(spectrum: np.ndarray, modes: Modes) -> np.ndarray:
    kept = spectrum[:, :, 0] + 1j * spectrum[:, :, 1]
    full = np.zeros((len(kept), modes.height, modes.width // 2 + 1, kept.shape[-1]), complex)
    full[:, : modes.positive, : modes.columns] = kept[:, : modes.positive]
    full[:, modes.height - modes.negative :, : modes.columns] = kept[:, modes.positive :]
    return np.fft.irfft(np.fft.ifft(full, axis=1), n=modes.width, axis=2)


def assert_same(got, expected, tolerance):
    expected = torch.as_tensor(np.asarray(expected))
    assert got.shape == expected.shape
    scale = expected.abs().max().item()
    assert (got.double() - expected).abs().max().item() <= tolerance * max(scale, 1e-300)


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("name", WAYS)
@pytest.mark.parametrize(("grid", "n_modes"), SIZES)
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_transforms_are_numpys(name, grid, n_modes, dtype):
    transform, inverse = WAYS[name]
    modes = Modes.lowest(grid, n_modes)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, *grid, 4, generator=generator, dtype=torch.float64).to(dtype)
    assert_same(transform(x, modes), numpy_transform(x.double().numpy(), modes), 2 * TOLERANCE[dtype])
    z = torch.randn(3, modes.rows, 2, modes.columns, 4, generator=generator, dtype=torch.float64).to(dtype)
    assert_same(inverse(z, modes), numpy_inverse(z.double().numpy(), modes), 2 * TOLERANCE[dtype])


@pytest.mark.parametrize("name", WAYS)
def test_extreme_values_and_strides(name):
    transform, inverse = WAYS[name]
    modes = Modes.lowest((9, 8), (3, 3))
    x = torch.randn(2, 4, 8, 9).permute(0, 3, 2, 1)
    for scale in (1e-30, 1e30):
        low = transform(scale * x, modes)
        assert_same(low, numpy_transform((scale * x).double().numpy(), modes), 1e-6)
        z = low.transpose(0, 1).contiguous().transpose(0, 1)
        assert_same(inverse(z, modes), numpy_inverse(z.double().numpy(), modes), 1e-6)
    x = x.contiguous()
    x[0, 3, 3, 1] = torch.nan
    low = transform(x, modes)
    assert low[0, ..., 1].isnan().any()
    assert not low[1].isnan().any()


@pytest.mark.parametrize("name", WAYS)
def test_gradients_are_the_adjoint(name):
    """`<F x, z> = <x, F^T z>`, and `F^T` is what autograd computes; likewise back."""
    for grid, n_modes in SIZES:
        modes = Modes.lowest(grid, n_modes)
        shapes = (2, *grid, 3), (2, modes.rows, 2, modes.columns, 3)
        for function, (source, target) in zip(WAYS[name], (shapes, shapes[::-1])):
            x = torch.randn(source, dtype=torch.float64, requires_grad=True)
            z = torch.randn(target, dtype=torch.float64)
            other = torch.randn(source, dtype=torch.float64)
            (gradient,) = torch.autograd.grad((function(x, modes) * z).sum(), x)
            torch.testing.assert_close((gradient * other).sum(), (function(other, modes) * z).sum())


@pytest.mark.parametrize(("grid", "n_modes"), SIZES)
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_layer_is_the_same_either_way(grid, n_modes, dtype, monkeypatch):
    conv = SpectralConv2d(3, 5, n_modes).to(dtype)
    x = torch.randn(4, *grid, 3, dtype=dtype, requires_grad=True)
    results = []
    for products in (False, True):
        monkeypatch.setattr(fourier, "_products_are_faster", lambda modes, x, p=products: p)
        y = conv(x)
        results.append((y, *torch.autograd.grad(y.square().sum(), (x, *conv.parameters()))))
    for got, expected in zip(*results):
        scale = expected.abs().max().clamp_min(1e-30)
        torch.testing.assert_close(got / scale, expected / scale, rtol=0, atol=5 * TOLERANCE[dtype])


def test_gradients_repeat_bit_by_bit(way):
    conv = SpectralConv2d(20, 20, (12, 12))
    x = torch.randn(4, 64, 64, 20, requires_grad=True)
    first, second = (torch.autograd.grad(conv(x).square().sum(), (x, *conv.parameters())) for _ in range(2))
    assert all(map(torch.equal, first, second))


def test_after_inference_mode_it_still_trains(way):
    fourier._kept.clear()
    conv, x = SpectralConv2d(2, 2, (3, 3)), torch.randn(1, 11, 13, 2)
    with torch.inference_mode():
        expected = conv(x)
    y = conv(x)
    torch.testing.assert_close(y, expected, rtol=0, atol=0)
    y.sum().backward()


def test_nothing_fake_is_kept(way):
    fourier._kept.clear()
    conv, x = SpectralConv2d(2, 2, (3, 3)), torch.randn(1, 10, 12, 2)
    with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True) as mode:
        assert conv(mode.from_tensor(x)).shape == x.shape
        assert conv(x).shape == x.shape
    assert type(conv(x)) is torch.Tensor


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_nothing_in_the_memory_of_a_graph_is_kept(monkeypatch):
    monkeypatch.setattr(fourier, "_products_are_faster", lambda modes, x: True)
    fourier._kept.clear()
    conv = SpectralConv2d(2, 2, (3, 3)).cuda()
    with torch.no_grad():
        conv(torch.ones(1, 8, 8, 2, device="cuda"))
        x = torch.ones(1, 10, 12, 2, device="cuda")
        with torch.cuda.graph(torch.cuda.CUDAGraph()):
            conv(x)
    assert len(fourier._kept) == 1


def test_vmap_and_grad(way):
    conv = SpectralConv2d(2, 3, (3, 3)).double()
    x = torch.randn(4, 2, 8, 10, 2, dtype=torch.float64)
    torch.testing.assert_close(torch.func.vmap(conv)(x), torch.stack([conv(one) for one in x]))
    expected = torch.autograd.functional.jacobian(lambda x: conv(x).sum(), x[0])
    torch.testing.assert_close(torch.func.grad(lambda x: conv(x).sum())(x[0]), expected)


@pytest.mark.parametrize("channels", [1, 8, 64])
def test_the_way_depends_on_the_sizes_alone(channels):
    """Few modes by products; as many as the grid has by FFT; and whoever traces gets products."""
    x = torch.ones(1, 64, 64, channels)
    few, all_modes = Modes.lowest((64, 64), (4, 4)), Modes.lowest((64, 64), (64, 64))
    assert fourier._products_are_faster(few, x) == (channels > 1)
    assert not fourier._products_are_faster(all_modes, x)
    conv = SpectralConv2d(channels, channels, (64, 64))
    program = torch.export.export(conv, (torch.randn(1, 64, 64, channels),))
    assert not [node for node in program.graph.nodes if "fft" in str(node.target)]


def test_runs_in_onnx():
    """Real arithmetic alone, tables as constants, any batch size."""
    onnxruntime = pytest.importorskip("onnxruntime")
    conv = SpectralConv2d(2, 3, (5, 4)).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            conv, (torch.randn(2, 12, 9, 2),), dynamo=True, verbose=False,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
        )  # fmt: skip
    assert program is not None
    model = program.model_proto
    assert {tensor.data_type for tensor in model.graph.initializer} <= {1, 7}, "float32 and int64"
    assert {node.op_type for node in model.graph.node}.isdisjoint({"Cos", "Sin", "Range", "DFT"})
    session = onnxruntime.InferenceSession(model.SerializeToString())
    for batch in (1, 2, 5):
        x = torch.randn(batch, 12, 9, 2)
        (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        torch.testing.assert_close(torch.from_numpy(y), conv(x), rtol=0, atol=1e-6)


def test_autocast_leaves_the_precision(way):
    conv, x = SpectralConv2d(3, 3, (4, 4)), torch.randn(2, 16, 16, 3)
    expected = conv(x)
    for dtype, cache in itertools.product((torch.bfloat16, torch.float16), (True, False)):
        with torch.autocast("cpu", dtype=dtype, cache_enabled=cache):
            assert torch.equal(conv(x), expected)


@pytest.mark.parametrize("n_modes", [(2, 2), (16, 16)])
def test_empty_batches_and_shapes_alone(n_modes):
    assert SpectralConv2d(3, 5, n_modes)(torch.ones(0, 16, 16, 3)).shape == (0, 16, 16, 5)
    assert SpectralConv2d(3, 5, n_modes).to("meta")(torch.ones(2, 16, 16, 3, device="meta")).shape == (2, 16, 16, 5)
