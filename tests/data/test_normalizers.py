from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from kinn.data import Identity, MinMax, Standard, from_arrays, from_trajectories, normalizer_from_state

FIELDS = torch.randn(70, 3, 5, 6, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 10.0, 0.1]).reshape(
    3, 1, 1
) + torch.tensor([0.0, 500.0, -3.0]).reshape(3, 1, 1)


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("batch_size", [1, 7, 64, 1000])
def test_standard_is_mean_and_deviation_whatever_the_batches(per_channel: bool, batch_size: int) -> None:
    fitted = Standard.fit(FIELDS, per_channel=per_channel, batch_size=batch_size)
    axes = (0, 2, 3) if per_channel else (0, 1, 2, 3)
    assert fitted.mean.flatten().tolist() == pytest.approx(FIELDS.double().mean(axes).flatten().tolist(), rel=1e-5)
    std = FIELDS.double().std(axes, correction=0).flatten().tolist()
    assert fitted.std.flatten().tolist() == pytest.approx(std, rel=1e-6)
    encoded = fitted.encode(FIELDS).double()
    assert encoded.mean(axes).abs().max() < 1e-5
    assert (encoded.std(axes, correction=0) - 1).abs().max() < 1e-5


@pytest.mark.parametrize("per_channel", [True, False])
def test_minmax_fills_the_unit_interval(per_channel: bool) -> None:
    fitted = MinMax.fit(FIELDS, per_channel=per_channel, batch_size=16)
    encoded = fitted.encode(FIELDS)
    axes = (0, 2, 3) if per_channel else (0, 1, 2, 3)
    assert (encoded.amin(axes) == 0).all()
    assert (encoded.amax(axes) == 1).all()


@pytest.mark.parametrize("normalizer", [Identity(), MinMax.fit(FIELDS), Standard.fit(FIELDS), MinMax(-2.0, 5.0)])
def test_decode_inverts_encode_and_the_state_survives_json(normalizer) -> None:
    again = normalizer_from_state(json.loads(json.dumps(normalizer.state())))
    assert type(again) is type(normalizer)
    z = normalizer.encode(FIELDS)
    assert torch.equal(again.encode(FIELDS), z)
    assert torch.equal(again.decode(z), normalizer.decode(z))
    assert torch.allclose(normalizer.decode(z), FIELDS, rtol=1e-6, atol=1e-5)
    assert repr(again) == repr(normalizer)


def test_constants_broadcast_over_batches_frames_and_resolutions() -> None:
    fitted = Standard.fit(FIELDS)
    for shape in [(3, 9, 9), (4, 3, 9, 9), (4, 2, 3, 5, 7)]:
        x = torch.ones(shape)
        z = fitted.encode(x)
        assert z.shape == x.shape
        one = z.movedim(-3, 0)[1]
        assert one.flatten()[0] == pytest.approx(((1 - fitted.mean[1]) / fitted.std[1]).item(), rel=1e-6)


@pytest.mark.parametrize("shape", [(4, 1, 8, 8), (4, 3, 8, 8), (4, 8), (8, 8)])
def test_fields_of_other_channels_are_refused(shape: tuple[int, ...]) -> None:
    fields = torch.randn(6, 2, 8, 8)
    for normalizer in (Standard.fit(fields), MinMax.fit(fields)):
        for function in (normalizer.encode, normalizer.decode):
            with pytest.raises(ValueError, match=r"expected fields of 2 channels on a grid of 2 axes.*got the shape"):
                function(torch.randn(shape))
            with pytest.raises(TypeError, match=r"expected fields as a torch\.Tensor, got ndarray"):
                function(fields.numpy())  # pyright: ignore[reportArgumentType]
    Standard.fit(fields, per_channel=False).encode(torch.randn(shape))  # one constant fits all
    with pytest.raises(TypeError, match="got ndarray"):
        Standard.fit(fields.numpy())  # pyright: ignore[reportArgumentType]


def test_fit_streams_over_data_sets_of_both_kinds() -> None:
    pairs = from_arrays(FIELDS, FIELDS[:, :1] * 2)
    assert torch.equal(Standard.fit(pairs.inputs).mean, Standard.fit(FIELDS).mean)
    assert MinMax.fit(pairs.outputs).low.shape == (1, 1, 1)
    flows = from_trajectories(FIELDS.reshape(7, 10, 3, 5, 6))
    fitted = Standard.fit(flows, batch_size=2)
    assert fitted.mean.shape == (3, 1, 1)
    assert torch.allclose(fitted.mean, Standard.fit(FIELDS).mean)
    with pytest.raises(TypeError, match=r"\.inputs or its \.outputs"):
        Standard.fit(pairs)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("kind", [MinMax, Standard])
def test_nothing_real_to_fit_to(kind: type) -> None:
    for shape in ((0, 1, 3), (2, 1, 0), (2,)):
        with pytest.raises(
            ValueError, match=rf"at least one sample \(C, \*grid\) to fit to, got the shape \({shape[0]},"
        ):
            kind.fit(torch.zeros(shape))
    with pytest.raises(ValueError, match="at least one sample"):
        kind.fit(from_arrays(FIELDS, FIELDS).inputs.subset([]))
    with pytest.raises(TypeError, match=r"expected real numbers to fit to, got torch\.complex64"):
        kind.fit(torch.ones(2, 2, 3, dtype=torch.cfloat))


def test_fit_reads_files_in_batches(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", FIELDS.numpy())
    data = from_arrays(tmp_path / "x.npy", tmp_path / "x.npy").inputs
    sizes = []
    read = data.store.read
    data.store.read = lambda rows, window: sizes.append(len(rows)) or read(rows, window)
    fitted = Standard.fit(data, batch_size=32)
    assert sizes == [32, 32, 6]
    assert torch.allclose(fitted.std, Standard.fit(FIELDS).std)


@pytest.mark.parametrize("kind", [MinMax, Standard])
@pytest.mark.parametrize("value", [0.0, 0.1, -1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])  # sums of the latter are rounded
def test_constant_data_are_shifted_not_divided_by_zero(kind: type, value: float, dtype: torch.dtype) -> None:
    x = torch.full((40, 2, 3, 3), value, dtype=dtype)
    fitted = kind.fit(x, batch_size=7)
    assert fitted.encode(x).abs().max() < 1e-3 * max(1, abs(value))
    assert torch.allclose(fitted.decode(fitted.encode(x)), x)
    assert fitted.encode(x + 1).mean() == pytest.approx(1, abs=2e-3)


def test_small_spread_on_a_large_mean_is_kept() -> None:
    x = 1000 + torch.randn(2000, 1, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert Standard.fit(x).std.item() == pytest.approx(1, rel=0.03)


def test_modules_move_and_travel_with_checkpoints() -> None:
    fitted = MinMax.fit(FIELDS)
    other = MinMax(torch.zeros(3, 1, 1), torch.ones(3, 1, 1))
    other.load_state_dict(fitted.state_dict())
    assert torch.equal(other.encode(FIELDS), fitted.encode(FIELDS))
    assert fitted.to("meta").low.device.type == "meta"


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"kind": "quantile"}, r"one of \['identity', 'minmax', 'standard'\]"),
        ({}, "must name its kind"),
        (["standard"], "must name its kind"),
        ({"kind": "standard", "mean": 0.0}, r"must hold \['mean', 'std'\], but holds \['kind', 'mean'\]"),
        ({"kind": "standard", "mean": "zero", "std": 1.0}, "must hold numbers"),
        ({"kind": "standard", "mean": 0.0, "std": -1.0}, "std >= 0"),
        ({"kind": "standard", "mean": float("nan"), "std": 1.0}, "must be finite"),
        ({"kind": "minmax", "low": 1.0, "high": 0.0}, "low <= high"),
        ({"kind": "minmax", "low": [1.0], "high": 2.0}, "equal shapes"),
    ],
)
def test_foreign_states_are_refused(state, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        normalizer_from_state(state)
