"""The CPU's fused cascade against its cells one by one in float64, and what every cascade refuses."""

from __future__ import annotations

import math

import pytest
import torch

from kinn.ops import cascade_scan, cpu

ROUTES = [(1, False), (0, False), (1, True), (0, True)]
TOLERANCE = {torch.float32: 3e-6, torch.float64: 1e-12}


@pytest.fixture
def check(assert_close, monkeypatch, differentiate_cascade):
    monkeypatch.setattr("kinn.ops.cascade.cascade_fits", lambda *sizes: True)

    def run(arguments, **options):
        for dtype, tolerance in TOLERANCE.items():
            rounded = {k: v.to(dtype) for k, v in arguments.items()}
            exact = differentiate_cascade({k: v.double() for k, v in rounded.items()}, backend="reference", **options)
            assert_close(differentiate_cascade(rounded, backend="cpu", **options), exact, tolerance)

    return run


@pytest.mark.usefixtures("poisoned_memory")
class TestAgreement:
    @pytest.mark.parametrize("length", [1, 2, 31, 63, 64, 65, 300])
    @pytest.mark.parametrize("injection", ["zoh", "euler"])
    def test_lengths(self, check, length, injection, make_cascade):
        check(make_cascade(2, (length,), 5, 16), routes=[(0, False), (0, True)], injection=injection)

    @pytest.mark.parametrize(
        ("d", "n", "rank"),
        [(1, 1, 1), (5, 16, 3), (16, 3, 1), (17, 3, 4), (25, 4, 5), (33, 5, 17), (40, 16, 2), (57, 2, 4), (200, 64, 9)],
    )
    def test_sizes(self, check, d, n, rank, make_cascade):
        """Every kind of tile, and products whose edges are padded."""
        check(make_cascade(3, (5, 6), d, n, rank=rank), routes=ROUTES[:2])

    @pytest.mark.parametrize(("length", "d", "n", "rank"), [(1, 5, 1, 1), (65, 5, 16, 3), (31, 33, 3, 8)])
    @pytest.mark.parametrize("injection", ["zoh", "euler"])
    @pytest.mark.parametrize("wiring", ["series", "parallel"])
    def test_bounded_couplings(self, check, length, d, n, rank, injection, wiring, make_cascade):
        """Of projections so large that they are far from what free ones give."""
        arguments = make_cascade(2, (length,), d, n, rank=rank, cells=3)
        arguments["projection"][:, :, rank:] *= 8
        routes = [(0, False), (0, True)]
        check(arguments, routes=routes, injection=injection, wiring=wiring, couplings="bounded")
        free, held = (
            cascade_scan(**arguments, routes=routes, injection=injection, couplings=couplings)
            for couplings in ("free", "bounded")
        )
        assert (free - held).abs().max() > 0.1 * held.abs().max()

    def test_bounded_couplings_of_extreme_size(self, check, make_cascade):
        """From 1e-6, where they are free, to 1e6, where they are signs."""
        arguments = make_cascade(2, (40,), 7, 3)
        arguments["projection"][:, :, 2:] *= torch.logspace(-6, 6, 6, dtype=torch.float64)[:, None]
        check(arguments, routes=[(0, False), (0, True)], couplings="bounded")

    @pytest.mark.parametrize("grid", [(7,), (5, 4), (3, 4, 5)])
    @pytest.mark.parametrize("lines", ["joined", "separate"])
    @pytest.mark.parametrize("wiring", ["series", "parallel"])
    def test_grids(self, check, grid, lines, wiring, make_cascade):
        routes = [(axis, reverse) for reverse in (False, True) for axis in range(len(grid))]
        for cells in (1, 3):
            arguments = make_cascade(2, grid, 6, 3, routes=len(routes), cells=cells)
            check(arguments, routes=routes, lines=lines, wiring=wiring, dt_scale=0.6)

    @pytest.mark.parametrize("batch", [1, 3, 33, 70])
    def test_batches_and_threads(self, check, threads, batch, make_cascade):
        """Fewer batch elements than threads, more than blocks."""
        for count in (1, 3, 4):
            threads(count)
            check(make_cascade(batch, (5, 7), 9, 2, routes=4), routes=ROUTES)

    @pytest.mark.parametrize(
        ("batch", "length", "d", "n", "rank"),
        [(0, 5, 3, 2, 2), (2, 0, 3, 2, 2), (2, 40, 0, 2, 2), (2, 40, 3, 0, 2), (2, 40, 3, 2, 0), (2, 40, 3, 0, 0)],
    )
    def test_empty(self, check, batch, length, d, n, rank, make_cascade):
        check(make_cascade(batch, (length,), d, n, rank=rank), routes=[(0, False), (0, True)])

    def test_periodic_goes_cell_by_cell(self, check, make_cascade):
        check(make_cascade(2, (6, 5), 4, 3), routes=ROUTES[:2], boundary="periodic")

    def test_extreme_steps(self, check, make_cascade):
        """Steps from 1e-6 to 200, by way of a bias far from zero."""
        arguments = make_cascade(2, (9, 9), 7, 3)
        arguments["dt_bias"] = torch.linspace(-14, 200, arguments["dt_bias"].numel()).double().view(2, 2, 7)
        check(arguments, routes=ROUTES[:2])


@pytest.fixture
def hard(make_cascade):
    """Four cells in series on a drive of some tens: unheld they would reach 1e80."""
    arguments = make_cascade(2, (6, 5), 9, 3, cells=4)
    arguments["x"] *= 30
    arguments["projection"] *= 4
    return arguments


def test_what_drives_the_next_cell_is_bounded(hard, assert_close, monkeypatch, differentiate_cascade):
    monkeypatch.setattr("kinn.ops.cascade.cascade_fits", lambda *sizes: True)
    exact = differentiate_cascade(hard, backend="reference", routes=ROUTES[:2])
    assert exact["y"].abs().max() > 1e20
    assert_close(differentiate_cascade(hard, backend="cpu", routes=ROUTES[:2]), exact, 1e-9)
    monkeypatch.setattr("kinn.ops.cascade.LARGEST_DRIVE", math.inf)
    assert differentiate_cascade(hard, backend="reference", routes=ROUTES[:2])["y"].abs().max() > 1e60


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_cells_in_series_stay_finite_in_single_precision(hard, monkeypatch, backend):
    monkeypatch.setattr("kinn.ops.cascade.cascade_fits", lambda *sizes: True)
    y = cascade_scan(**{k: v.float() for k, v in hard.items()}, backend=backend, routes=ROUTES[:2])
    assert y.isfinite().all()


def test_bounded_cells_are_linear_in_large_drives(make_cascade):
    """Free ones are cubic: in series, each multiplies powers."""
    arguments = make_cascade(2, (30,), 5, 3, routes=1)

    def growth(couplings):
        one, ten = (
            cascade_scan(**{**arguments, "x": arguments["x"] * size}, routes=[(0, False)], couplings=couplings)
            for size in (1e2, 1e3)
        )
        return (ten.abs().max() / one.abs().max()).item()

    assert growth("bounded") == pytest.approx(10, rel=0.2)
    assert growth("free") > 1e5


@pytest.mark.parametrize(("wiring", "couplings"), [("series", "free"), ("parallel", "free"), ("series", "bounded")])
def test_gradcheck(wiring, couplings, make_cascade):
    leaves = [v.requires_grad_() for v in make_cascade(2, (3, 4), 3, 2).values()]
    torch.autograd.gradcheck(
        lambda *t: cascade_scan(*t, routes=ROUTES[:2], wiring=wiring, couplings=couplings, backend="cpu"), leaves
    )  # fmt: skip


@pytest.mark.parametrize("batch", [1, 6])
def test_same_bits_every_time(threads, batch, make_cascade, differentiate_cascade):
    threads(3)
    arguments = {k: v.float() for k, v in make_cascade(batch, (40, 50), 40, 8, routes=4).items()}
    first = differentiate_cascade(arguments, routes=ROUTES)
    for _ in range(4):
        again = differentiate_cascade(arguments, routes=ROUTES)
        assert all(torch.equal(again[name], value) for name, value in first.items())


def test_the_result_may_be_changed_in_place(threads, make_cascade):
    threads(1)
    arguments = {k: v.requires_grad_() for k, v in make_cascade(2, (8, 9), 5, 3).items()}
    y = cascade_scan(**arguments, routes=ROUTES[:2])
    y += 1
    y.sum().backward()
    assert all(v.grad is not None for v in arguments.values())


def test_too_little_for_the_threads_goes_cell_by_cell(threads, monkeypatch, make_cascade):
    threads(4)
    assert not cpu.cascade_fits(1, 1, 64)
    assert cpu.cascade_fits(2, 1, 64)
    assert cpu.cascade_fits(1, 2, 64)
    assert cpu.cascade_fits(1, 1, 32)  # a scan of so few channels has no more to share out
    arguments = make_cascade(1, (30,), 40, 2, routes=1)
    expected = cascade_scan(**arguments, routes=[(0, False)], backend="reference")
    torch.testing.assert_close(cascade_scan(**arguments, routes=[(0, False)]), expected)


def test_memory_between_forward_and_backward_is_a_fraction_of_the_states(make_cascade):
    tensors = [v.flatten(1, 2) if k == "x" else v for k, v in make_cascade(2, (16, 16), 40, 16).items()]
    paths = [16, 16, 1, 1, 0, 1, 16, 16, 1, 1]
    assert torch.ops.kinn.cascade_scan(*tensors, paths, True, True, False, 1.0, False)[1].numel() == 0
    kept = torch.ops.kinn.cascade_scan(*tensors, paths, True, True, False, 1.0, True)[1]
    assert kept.numel() == tensors[0].numel() * 16 * 4 // 64


@pytest.mark.parametrize(
    ("change", "error", "sentence"),
    [
        (
            {"x": torch.rand(2, 4)},
            ValueError,
            r"x must have shape \(b, \*grid, d\) with 1 to 3 grid axes, got \(2, 4\)",
        ),
        (
            {"a": torch.rand(2, 2, 5, 3)},
            ValueError,
            r"a must have shape \(r, k, d, n\) with r = 2 .* got \(2, 2, 5, 3\)",
        ),
        ({"a": -torch.rand(2, 2, 4, 3)}, ValueError, r"a must be non-negative \(a decay rate\)"),
        ({"D": torch.rand(2, 2, 5)}, ValueError, r"D must have shape \(2, 2, 4\), got \(2, 2, 5\)"),
        ({"dt_weight": torch.rand(2, 2, 4)}, ValueError, r"dt_weight must have shape \(r, k, d, rank\)"),
        ({"projection": torch.rand(2, 2, 9, 4)}, ValueError, r"projection must have shape \(2, 2, 8, 4\)"),
        (
            {"dt_bias": torch.zeros(2, 2, 4).long()},
            TypeError,
            "dt_bias must be a floating-point tensor, got torch.int64",
        ),
        ({"D": torch.rand(2, 2, 4, device="meta")}, ValueError, "D must be on the device of x, cpu, got meta"),
        (
            {"routes": [(2, False), (0, False)]},
            ValueError,
            r"routes must be pairs \(axis, reverse\) with axes in 0 .. 1, got \[\(2, False\)",
        ),
        ({"routes": []}, ValueError, "routes must be pairs"),
        ({"D": None}, TypeError, "D must be a floating-point tensor, got NoneType"),
        ({"dt_scale": 0.0}, ValueError, "dt_scale must be positive, got 0.0"),
        ({"dt_scale": float("inf")}, ValueError, "dt_scale must be positive and finite, got inf"),
        ({"wiring": "star"}, ValueError, "wiring must be one of 'series', 'parallel', got 'star'"),
        ({"injection": "rk4"}, ValueError, "injection must be one of"),
        ({"couplings": "tight"}, ValueError, "couplings must be one of 'free', 'bounded', got 'tight'"),
        ({"lines": "broken"}, ValueError, "lines must be one of"),
        ({"boundary": "none"}, ValueError, "boundary must be one of"),
        ({"backend": "tpu"}, ValueError, "backend must be one of"),
    ],
)
def test_refusals(change, error, sentence, make_cascade):
    arguments = {"routes": ROUTES[:2], **make_cascade(2, (5, 6), 4, 3), **change}
    with pytest.raises(error, match=f"cascade_scan: {sentence}" if "non-negative" not in sentence else sentence):
        cascade_scan(**arguments)
