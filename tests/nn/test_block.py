"""The cascaded block: its definition, its symmetries, its parameter count."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from kinn.nn import KirchhoffBlock


def small_block(**options: object) -> KirchhoffBlock:
    torch.manual_seed(0)
    settings = {"order": 2, "routes": 1, "d_state": 3, "expand": 2, **options}
    block = KirchhoffBlock(4, **settings).double()
    with torch.no_grad():
        for name, parameter in block.named_parameters():
            if name.endswith("dt_proj.bias"):
                parameter.uniform_(-1, 1)  # long steps: a weak coupling would hide an error
    return block


def field(*grid: int, channels: int = 4) -> Tensor:
    return torch.randn(2, *grid, channels, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def share_cascades(block: KirchhoffBlock) -> None:
    for cascade in list(block.cascades)[1:]:
        cascade.load_state_dict(block.cascades[0].state_dict())


@pytest.mark.parametrize("wiring", ["series", "parallel"])
@pytest.mark.parametrize(
    ("full", "eps", "couplings"),
    [(False, 1e-5, "free"), (True, 1e-5, "free"), (True, 0.7, "free"), (False, 1e-5, "bounded")],
)
def test_block_is_the_written_equations(wiring: str, full: bool, eps: float, couplings: str) -> None:
    block = small_block(
        order=3,
        wiring=wiring,
        couplings=couplings,
        output_norm=full,
        residual_scale=full,
        mlp_ratio=2 if full else 0,
        n_axes=1,
        norm_eps=eps,
    )
    if full:
        torch.nn.init.constant_(block.scale, 0.3)
    x = field(9)
    e, z = block.in_proj(F.layer_norm(x, (4,), block.norm.weight, block.norm.bias, eps)).chunk(2, -1)
    e = F.conv1d(e.mT, block.conv.weight, block.conv.bias, padding=1, groups=8).mT
    e = F.silu(F.linear(e, block.conv.pointwise.weight, block.conv.pointwise.bias))
    one, two, three = block.cascades[0]
    if wiring == "series":
        orders = one(e), two(one(e)), three(two(one(e)))
    else:
        orders = one(e), two(e), three(e)
    y = sum(orders)
    if full:
        y = F.layer_norm(y, (8,), block.output_norm.weight, block.output_norm.bias, eps)
    expected = x + (0.3 if full else 1.0) * F.linear(y * F.silu(z), block.out_proj.weight)
    if full:
        norm, first, _, second = block.mlp
        hidden = F.gelu(first(F.layer_norm(expected, (4,), norm.weight, norm.bias, eps)))
        expected = expected + second(hidden)
    torch.testing.assert_close(block(x), expected, rtol=0, atol=1e-12)


def test_block_without_gate_and_without_mixing_in_its_convolution() -> None:
    block = small_block(n_axes=1, gate=False, pointwise=False, output_norm=True)
    assert block.in_proj.weight.shape == (8, 4)
    x = field(9)
    e = block.in_proj(F.layer_norm(x, (4,), block.norm.weight, block.norm.bias))
    e = F.silu(F.conv1d(e.mT, block.conv.weight, block.conv.bias, padding=1, groups=8).mT)
    one, two = block.cascades[0]
    y = F.layer_norm(one(e) + two(one(e)), (8,), block.output_norm.weight, block.output_norm.bias)
    torch.testing.assert_close(block(x), x + F.linear(y, block.out_proj.weight), rtol=0, atol=1e-12)


def test_dropped_paths_leave_the_input_and_kept_ones_grow() -> None:
    x = field(5, 5).repeat(8, 1, 1, 1)
    for mlp_ratio in (0, 2):
        block = small_block(drop_path=0.25, mlp_ratio=mlp_ratio)
        without = small_block(mlp_ratio=mlp_ratio)
        assert torch.equal(block.eval()(x), without(x))
    block = small_block(drop_path=0.25).train()
    branch = small_block()(x) - x
    factors = ((block(x) - x) / branch).flatten(1)
    assert torch.allclose(factors, factors[:, :1].expand_as(factors), atol=1e-9)
    found = {round(factor, 6) for factor in factors[:, 0].tolist()}
    assert found == {0.0, round(1 / 0.75, 6)}


def test_the_mean_over_dropped_paths_is_the_whole_block() -> None:
    block, x = small_block(drop_path=0.5).train(), field(3, 3)[:1].expand(4000, -1, -1, -1)
    torch.testing.assert_close(block(x).mean(0), small_block()(x[:1])[0], rtol=0, atol=2e-2)


def large_block(channels: int) -> KirchhoffBlock:
    """Cells whose drives are multiplied by large couplings: the second order is some 1e20."""
    torch.manual_seed(0)
    block = KirchhoffBlock(channels, d_state=4, output_norm=True, routes=2)
    with torch.no_grad():
        block.in_proj.weight.mul_(20)
        block.conv.pointwise.weight.mul_(20)
        for cascade in block.cascades:
            for cell in cascade:
                cell.x_proj.weight.mul_(4)
    return block


@pytest.mark.parametrize("channels", [16, 200])  # compiled kernels, and matrices too large for them
def test_orders_that_multiply_do_not_overflow_the_norm_behind_them(channels: int) -> None:
    block = large_block(channels)
    x = torch.randn(2, 16, 16, channels, requires_grad=True)
    kernels = block(x)
    kernels.square().sum().backward()
    exact = large_block(channels).double()
    x64 = x.detach().double().requires_grad_()
    expected = exact(x64)
    expected.square().sum().backward()
    # couplings this large also multiply what float32 rounds, differently on every kind of processor
    torch.testing.assert_close(kernels.double(), expected, rtol=1e-2, atol=1e-2 * float(expected.detach().abs().max()))
    assert x.grad.isfinite().all()
    torch.testing.assert_close(x.grad.double(), x64.grad, rtol=1e-2, atol=1e-2 * float(x64.grad.abs().max()))


def test_orders_that_multiply_do_not_overflow_half_precision() -> None:
    block, x = large_block(16), torch.randn(2, 16, 16, 16)
    with torch.autocast("cpu", torch.float16):
        y = block(x)
    assert y.isfinite().all()
    assert (y.float() - block(x)).norm() < 0.2 * block(x).norm()
    expected = block(x)
    with torch.autocast("cpu", torch.bfloat16):
        before, _ = block(x), block.output_norm.weight.data.mul_(1.003)
        assert not torch.equal(block(x), before)  # norms keep the weights of a float32
    block.output_norm.weight.data.div_(1.003)
    y = block.half()(x.half())
    assert y.dtype == torch.float16
    assert (y.float() - expected).norm() < 0.2 * expected.norm()


def test_a_block_without_storage_knows_its_shape() -> None:
    block = small_block(routes=4, output_norm=True, mlp_ratio=1).to("meta")
    y = block(torch.empty(2, 5, 6, 4, dtype=torch.float64, device="meta"))
    assert (y.shape, y.dtype, y.device.type) == ((2, 5, 6, 4), torch.float64, "meta")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("boundary", ["zero", "periodic"])
def test_a_block_without_storage_goes_cell_by_cell_too(boundary: str, dtype: torch.dtype, monkeypatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 16)  # of which one image keeps few busy
    block = KirchhoffBlock(96, routes=4, boundary=boundary, output_norm=True).to("meta", dtype)
    x = torch.empty(1, 6, 4, 96, device="meta", dtype=dtype)
    assert block(x).shape == x.shape


def test_a_block_runs_under_fake_tensors() -> None:
    block = small_block(output_norm=True)
    with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True) as fake:
        assert block(fake.from_tensor(field(3, 4))).shape == (2, 3, 4, 4)


def test_routes_are_flips_and_transposes_of_one() -> None:
    """The cascades' sum over four routes equals one-route scans of the flipped and transposed grid."""
    block = small_block(routes=4)
    drive = field(5, 6, channels=8)

    def rows(cells, x: Tensor) -> Tensor:
        """A one-route cascade on the plain row-major sequence."""
        sequence, total = x.reshape(2, -1, 8), 0
        for cell in cells:
            sequence = cell(sequence)
            total = total + sequence
        return total.reshape(x.shape)

    a, b, c, d = block.cascades
    expected = (
        rows(a, drive)
        + rows(b, drive.transpose(1, 2).contiguous()).transpose(1, 2)
        + rows(c, drive.flip(1, 2)).flip(1, 2)
        + rows(d, drive.transpose(1, 2).flip(1, 2)).flip(1, 2).transpose(1, 2)
    )
    torch.testing.assert_close(block._cascade(drive, 1.0), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("lines", ["joined", "separate"])
def test_shared_cells_make_the_block_commute_with_the_square(lines: str) -> None:
    block = small_block(routes=4, lines=lines)
    share_cascades(block)
    with torch.no_grad():  # a filter with the symmetry of the square
        kernel = block.conv.weight
        kernel.copy_((kernel + kernel.mT + kernel.flip(2, 3) + kernel.mT.flip(2, 3)) / 4)
    x = field(6, 6)
    y = block(x)
    torch.testing.assert_close(block(x.rot90(2, (1, 2))), y.rot90(2, (1, 2)), rtol=0, atol=1e-12)
    torch.testing.assert_close(block(x.transpose(1, 2)), y.transpose(1, 2), rtol=0, atol=1e-12)


def test_separate_lines_do_not_see_each_other() -> None:
    block = small_block(lines="separate", routes=1)
    drive = field(5, 6, channels=8)
    order = torch.tensor([3, 0, 4, 1, 2])
    moved, still = block._cascade(drive[:, order], 1.0), block._cascade(drive, 1.0)
    torch.testing.assert_close(moved, still[:, order], rtol=0, atol=1e-13)


@pytest.mark.parametrize("axis", [1, 2])
def test_periodic_block_commutes_with_shifts(axis: int) -> None:
    block = small_block(routes=4, lines="separate", boundary="periodic", output_norm=True, mlp_ratio=2)
    x = field(6, 7)
    torch.testing.assert_close(block(x.roll(2, axis)), block(x).roll(2, axis), rtol=0, atol=1e-10)
    zero = small_block(routes=4, lines="separate")
    assert (zero(x.roll(2, axis)) - zero(x).roll(2, axis)).abs().max() > 1e-3


@pytest.mark.parametrize(("n_axes", "grid"), [(1, (7,)), (2, (3, 5)), (3, (2, 3, 4))])
@pytest.mark.parametrize("lines", ["joined", "separate"])
@pytest.mark.parametrize("boundary", ["zero", "periodic"])
def test_every_grid_and_gradient(n_axes: int, grid: tuple[int, ...], lines: str, boundary: str) -> None:
    block = small_block(
        n_axes=n_axes, routes=None, lines=lines, boundary=boundary, output_norm=True, mlp_ratio=1, residual_scale=True
    )
    assert len(block.routes) == 2 * n_axes
    x = field(*grid).requires_grad_()
    y = block(x)
    assert y.shape == x.shape
    y.square().sum().backward()
    for name, parameter in [("x", x), *block.named_parameters()]:
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


def test_gradient_agrees_with_differences() -> None:
    block = small_block(routes=2, boundary="periodic", lines="separate")
    torch.autograd.gradcheck(block, (field(3, 4).requires_grad_(),))


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("routes", [1, 2, 4])
def test_parameters_grow_by_order_times_cell_per_route(order: int, routes: int) -> None:
    block = KirchhoffBlock(20, order=order, routes=routes, output_norm=True, mlp_ratio=3, residual_scale=True)
    assert sum(p.numel() for p in block.parameters()) == 7081 + routes * order * 2160


def test_no_signal_runs_against_a_route() -> None:
    """Along one forward route, a change can only be felt later, but for the reach of the convolution."""
    block = small_block(n_axes=1)
    x = field(12)
    changed = x.clone()
    changed[:, 6, 0] += 1
    felt = (block(changed) - block(x)).abs().amax((0, 2)) > 0
    assert felt.tolist() == 5 * [False] + 7 * [True]


def test_dt_scale_reaches_every_cell() -> None:
    block = small_block(routes=4, kernel_size=1)
    x = field(4, 4)
    reference = block(x, dt_scale=0.5)
    with torch.no_grad():
        for cascade in block.cascades:
            for cell in cascade:
                cell.A_log.add_(torch.tensor(0.5).double().log())  # the same exp(-dt a), but dt / a in the injection:
                cell.x_proj.weight[cell.dt_rank : cell.dt_rank + cell.d_state] *= 0.5  # (1 - exp(-z)) / a doubles
    torch.testing.assert_close(block(x), reference, rtol=0, atol=1e-12)


@pytest.mark.parametrize("boundary", ["zero", "periodic"])
def test_four_cells_on_a_large_drive_stay_finite(boundary: str) -> None:
    block = small_block(order=4, routes=2, output_norm=True, boundary=boundary).float()
    with torch.no_grad():
        block.in_proj.weight *= 100
        for cascade in block.cascades:
            for cell in cascade:
                cell.x_proj.weight *= 10
    x = field(4, 4).float().requires_grad_()
    y = block(x)
    y.square().sum().backward()
    assert y.isfinite().all()
    assert all(p.grad.isfinite().all() for p in (x, *block.parameters()))


@pytest.mark.parametrize("boundary", ["zero", "periodic"])
@pytest.mark.parametrize("finer", [2, 3])
def test_a_finer_grid_does_not_move_the_convolution(boundary: str, finer: int) -> None:
    """At the points of the coarse grid the drive is that of the coarse grid, whatever lies between."""
    block = small_block(order=1, routes=4, boundary=boundary)
    with torch.no_grad():  # cells that give back their drive: what they inject is not read
        for (cell,) in block.cascades:
            cell.x_proj.weight.zero_()
    fine = torch.randn(2, 6 * finer, 4 * finer, 4, dtype=torch.float64)
    coarse = fine[:, ::finer, ::finer].contiguous()
    found = block(fine, dt_scale=1 / finer)[:, ::finer, ::finer]
    torch.testing.assert_close(found, block(coarse), rtol=0, atol=1e-12)


@pytest.mark.parametrize("boundary", ["zero", "periodic"])
def test_spacing_of_any_size_is_borne(boundary: str) -> None:
    block = small_block(routes=2, boundary=boundary)
    for dt_scale in (1e-3, 0.4, 15 / 31, 2.5, 1e3):
        assert block(field(3, 5), dt_scale=dt_scale).isfinite().all()


def test_inner_channels_are_the_product_without_its_rounding() -> None:
    for expand, inner in ((0.29, 29), (0.285, 28), (0.2899999, 28), (2, 200)):
        assert KirchhoffBlock(100, order=1, routes=1, d_state=1, expand=expand).d_inner == inner


def test_wrong_arguments() -> None:
    for options, message in (
        ({"d_state": 0}, "d_state must be at least 1, got 0"),
        ({"norm_eps": -1.0}, "norm_eps must be positive, got -1.0"),
        ({"mlp_ratio": 0.1}, "hidden_channels must be at least 1, got 0"),
        ({"mlp_ratio": -1}, "hidden_channels must be at least 1, got -4"),
        ({"order": 0}, "order must be at least 1, got 0"),
        ({"wiring": "ring"}, "wiring must be one of 'series', 'parallel', got 'ring'"),
        ({"couplings": "tight"}, "couplings must be one of 'free', 'bounded', got 'tight'"),
        ({"lines": "both"}, "lines must be one of 'joined', 'separate', got 'both'"),
        ({"boundary": "open"}, "boundary must be one of 'zero', 'periodic', got 'open'"),
        ({"routes": 3}, "a 2-D grid takes 1, 2, 4 routes, got 3"),
        ({"kernel_size": 2}, "kernel_size must be odd, got 2"),
        ({"n_axes": 4}, "1, 2 or 3"),
        ({"drop_path": 1}, "drop_path must be at least 0 and below 1, got 1"),
    ):
        with pytest.raises(ValueError, match=message):
            KirchhoffBlock(4, **options)
    with pytest.raises(ValueError, match=r"expected shape \(batch, height, width, 4\), channels last, got \(2, 5, 4\)"):
        KirchhoffBlock(4)(torch.zeros(2, 5, 4))
