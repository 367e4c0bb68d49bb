from __future__ import annotations

import pytest
import torch

from kinn.nn import on_training_grid, regrid


def places(n: int, points: str) -> torch.Tensor:
    at = torch.arange(n, dtype=torch.float64)
    return {"centres": (at + 0.5) / n, "nodes": at / max(n - 1, 1), "periodic": at / n}[points]


@pytest.mark.parametrize("points", ["centres", "nodes"])
@pytest.mark.parametrize(("n", "wanted"), [(2, 7), (5, 9), (9, 5), (16, 48), (31, 8), (8, 1)])
def test_constants_and_slopes_are_exact_up_to_the_edge(points: str, n: int, wanted: int) -> None:
    found = regrid(3 * places(n, points) - 1, [wanted], points=points)
    torch.testing.assert_close(found, 3 * places(wanted, points) - 1, rtol=0, atol=1e-12)


@pytest.mark.parametrize("points", ["centres", "nodes", "periodic"])
@pytest.mark.parametrize("waves", [2, 4, 8])
def test_waves_are_kept_to_a_four_hundredth_down_to_four_points_a_length(points: str, waves: int) -> None:
    def wave(n: int) -> torch.Tensor:
        return torch.sin(2 * torch.pi * waves * places(n, points))

    for wanted in (16, 47, 64, 128):
        found, exact = regrid(wave(33), [wanted], points=points), wave(wanted)
        inner = slice(None) if points == "periodic" else slice(wanted // 6, -wanted // 6)
        assert (found - exact)[inner].abs().max() < 2.5e-3


@pytest.mark.parametrize(("points", "coarse", "fine"), [("nodes", 5, 9), ("periodic", 4, 12), ("centres", 4, 12)])
def test_points_that_coincide_keep_their_values(points: str, coarse: int, fine: int) -> None:
    field = torch.randn(2, fine, fine, dtype=torch.float64)
    step = (fine - 1) // (coarse - 1) if points == "nodes" else fine // coarse
    first = step // 2 if points == "centres" else 0
    thinned = field[:, first::step, first::step]
    torch.testing.assert_close(regrid(field, [coarse, coarse], points=points), thinned, rtol=0, atol=1e-12)


def test_shift_of_a_periodic_field_commutes() -> None:
    field = torch.randn(6, 10, dtype=torch.float64)
    found = regrid(field.roll((2, 5), (0, 1)), [9, 20], points="periodic")
    expected = regrid(field, [9, 20], points="periodic").roll((3, 10), (0, 1))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_a_single_point_is_a_constant() -> None:
    for points in ("centres", "nodes", "periodic"):
        assert regrid(torch.tensor([2.5]), [4], points=points).tolist() == 4 * [2.5]


def test_last_axes_are_the_grid_in_any_layout_and_type() -> None:
    field = torch.randn(7, 5, 3, 2).transpose(0, 3)  # (2, 5, 3, 7)
    found = regrid(field, [4, 9], points="centres")
    assert (found.shape, found.dtype) == ((2, 5, 4, 9), torch.float32)
    alone = regrid(regrid(field[1, 2].contiguous(), [4, 7], points="centres"), [4, 9], points="centres")
    torch.testing.assert_close(found[1, 2], alone)


def test_gradient_is_the_transposed_interpolation() -> None:
    field = torch.randn(2, 5, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: regrid(x, [7, 3], points="nodes"), field)


def test_network_works_on_the_grid_of_training() -> None:
    seen = []

    def network(x: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(x.shape[2:]))
        return 2 * x

    at = places(64, "centres")
    field = (at[:, None] + at)[None, None]
    torch.testing.assert_close(on_training_grid(network, field, 0.5, periodic=False), 2 * field, rtol=0, atol=1e-12)
    on_training_grid(network, field, 31 / 63, periodic=False)  # nodes
    on_training_grid(network, field, 2.0, periodic=False)
    on_training_grid(network, field, 0.25, periodic=True)
    assert seen == [(32, 32), (32, 32), (128, 128), (16, 16)]
    on_training_grid(network, field, 2.0, periodic=False, points="nodes")
    assert seen.pop() == (127, 127)
    nodes = places(64, "nodes").expand(1, 1, 64, 64)
    torch.testing.assert_close(on_training_grid(network, nodes, 31 / 63, periodic=False), 2 * nodes)


def test_without_scale_nothing_is_touched() -> None:
    field = torch.randn(1, 1, 3, 3)
    assert on_training_grid(lambda x: x, field, 1.0, periodic=False) is field


@pytest.mark.parametrize("ratio", [15 / 31, 0.483871, 0.484])
def test_a_ratio_may_be_typed_with_three_digits(ratio: float) -> None:
    seen: list[torch.Size] = []
    on_training_grid(lambda x: seen.append(x.shape) or x, torch.randn(1, 1, 32, 32), ratio, periodic=False)
    assert seen == [(1, 1, 16, 16)]


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match=r"64 x 48 points at 0\.7 times .* no counterpart .* 0\.703125"):
        on_training_grid(lambda x: x, torch.zeros(1, 1, 64, 48), 0.7, periodic=False)
    with pytest.raises(ValueError, match="dt_scale must be positive, got -1"):
        on_training_grid(lambda x: x, torch.zeros(1, 1, 4, 4), -1, periodic=False)
    with pytest.raises(ValueError, match=r"cannot bring fields of shape \(3,\) to a grid of \(4, 4\) points"):
        regrid(torch.zeros(3), [4, 4], points="nodes")
    with pytest.raises(TypeError, match=r"x must be a floating-point tensor, got torch\.int64"):
        regrid(torch.arange(5), [9], points="nodes")
    for n, wanted in ((3, 0), (0, 3)):
        with pytest.raises(ValueError, match=rf"shape \({n},\) to a grid of \({wanted},\) points"):
            regrid(torch.zeros(n), [wanted], points="nodes")
    with pytest.raises(ValueError, match="points must be one of 'centres', 'nodes', 'periodic', got 'centers'"):
        regrid(torch.zeros(3), [5], points="centers")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="points must be one of 'periodic', got 'nodes'"):
        on_training_grid(lambda x: x, torch.zeros(1, 1, 4, 4), 2, periodic=True, points="nodes")
