"""Normalisers: invertible affine maps between physical units and those that a network sees.

`encode(x) = (x - shift) / scale`, `decode(z) = z * scale + shift`. Per-channel constants have the shape
`(C, 1, ..., 1)` (one 1 per grid axis) and so broadcast over `(C, *grid)`, `(B, C, *grid)` and `(B, T, C, *grid)`, on
any resolution; constants over all channels are scalars. Fields of other channels are refused with a ValueError.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from kinn.data.datasets import OperatorDataset, TrajectoryDataset
from kinn.data.samples import Samples
from kinn.data.stores import rows_per_read

if TYPE_CHECKING:
    from jaxtyping import Float


class Identity(nn.Module):
    """No normalisation.

    Example:
        >>> Identity().encode(torch.tensor(3.0))
        tensor(3.)
    """

    def encode(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """`x` itself."""
        return x

    def decode(self, z: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """`z` itself."""
        return z

    def state(self) -> dict[str, Any]:
        """Plain values for `normalizer_from_state`."""
        return {"kind": "identity"}

    @classmethod
    def fit(
        cls, data: Tensor | Samples | TrajectoryDataset, *, per_channel: bool = True, batch_size: int = 64
    ) -> Identity:
        """The identity, whatever the data: it can stand where the others do."""
        return cls()


class MinMax(nn.Module):
    """Maps `[low, high]` to `[0, 1]`, as CNO's benchmarks do with the constants of their training data.

    Args:
        low: what becomes 0: a number or a tensor of shape `(C, 1, ..., 1)`.
        high: what becomes 1, likewise. Where it equals `low` (constant data) the scale is 1.

    Raises:
        ValueError: if a value is not finite, or `high < low`.

    Example:
        >>> MinMax(-1.0, 3.0).encode(torch.tensor([-1.0, 1.0, 3.0]))
        tensor([0.0000, 0.5000, 1.0000])
    """

    low: Tensor
    high: Tensor

    def __init__(self, low: float | Tensor, high: float | Tensor) -> None:
        super().__init__()
        self.register_buffer("low", _constant(low, "low"))
        self.register_buffer("high", _constant(high, "high"))
        if self.low.shape != self.high.shape or (self.high < self.low).any():
            raise ValueError(f"MinMax needs low <= high in equal shapes, but got {low} and {high}")

    def encode(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """To `[0, 1]`."""
        return (_checked(x, self.low) - self.low) / _nonzero(self.high - self.low)

    def decode(self, z: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """To physical units."""
        return _checked(z, self.low) * _nonzero(self.high - self.low) + self.low

    def state(self) -> dict[str, Any]:
        """Plain values for `normalizer_from_state`."""
        return {"kind": "minmax", "low": self.low.tolist(), "high": self.high.tolist()}

    @classmethod
    def fit(
        cls, data: Tensor | Samples | TrajectoryDataset, *, per_channel: bool = True, batch_size: int = 64
    ) -> MinMax:
        """Smallest and largest value of the data, read `batch_size` samples at a time.

        Args:
            data: a tensor `(N, C, *grid)`, the `inputs` or `outputs` of a data set of pairs, or a data set of
                trajectories.
            per_channel: own constants for each channel.
            batch_size: samples held at once; fewer of large ones.

        Raises:
            TypeError: if these are no such data, or complex numbers.
            ValueError: if there is no sample.
        """
        low, high = None, None
        for values in _channel_batches(data, per_channel=per_channel, batch_size=batch_size):
            part_low, part_high = values.amin(1), values.amax(1)
            low = part_low if low is None else torch.minimum(low, part_low)
            high = part_high if high is None else torch.maximum(high, part_high)
        assert low is not None
        assert high is not None
        shape = _constant_shape(data, per_channel=per_channel)
        return cls(low.reshape(shape), high.reshape(shape))

    def extra_repr(self) -> str:
        """Constants, for `repr`."""
        return f"low={self.low.flatten().tolist()}, high={self.high.flatten().tolist()}"


class Standard(nn.Module):
    """Zero mean and unit variance.

    Args:
        mean: a number or a tensor of shape `(C, 1, ..., 1)`.
        std: likewise. Where it is 0 (constant data) the scale is 1.

    Raises:
        ValueError: if a value is not finite, or `std < 0`.

    Example:
        >>> Standard.fit(torch.tensor([1.0, 3.0]).reshape(2, 1, 1)).encode(torch.tensor([[[5.0]]]))
        tensor([[[3.]]])
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: float | Tensor, std: float | Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", _constant(mean, "mean"))
        self.register_buffer("std", _constant(std, "std"))
        if self.mean.shape != self.std.shape or (self.std < 0).any():
            raise ValueError(f"Standard needs std >= 0 in the shape of mean, but got mean {mean} and std {std}")

    def encode(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """To zero mean and unit variance."""
        return (_checked(x, self.mean) - self.mean) / _nonzero(self.std)

    def decode(self, z: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """To physical units."""
        return _checked(z, self.mean) * _nonzero(self.std) + self.mean

    def state(self) -> dict[str, Any]:
        """Plain values for `normalizer_from_state`."""
        return {"kind": "standard", "mean": self.mean.tolist(), "std": self.std.tolist()}

    @classmethod
    def fit(
        cls, data: Tensor | Samples | TrajectoryDataset, *, per_channel: bool = True, batch_size: int = 64
    ) -> Standard:
        """Mean and standard deviation of the data, read `batch_size` samples at a time, in float64.

        Args:
            data: a tensor `(N, C, *grid)`, the `inputs` or `outputs` of a data set of pairs, or a data set of
                trajectories.
            per_channel: own constants for each channel.
            batch_size: samples held at once; fewer of large ones.

        Raises:
            TypeError: if these are no such data, or complex numbers.
            ValueError: if there is no sample.
        """
        count, mean, squares = 0, torch.zeros(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
        for values in _channel_batches(data, per_channel=per_channel, batch_size=batch_size):
            # merge the moments of two sets (Chan, Golub, LeVeque 1983): no difference of large sums
            new, total = values.shape[1], count + values.shape[1]
            part_mean = values.mean(1)
            shift = part_mean - mean
            squares = squares + (values - part_mean[:, None]).square().sum(1) + shift.square() * (count * new / total)
            mean, count = mean + shift * (new / total), total
        std = (squares / count).sqrt()
        std = torch.where(std <= 1e-7 * mean.abs(), 0.0, std)  # rounding of constant float32 data is not a spread
        shape = _constant_shape(data, per_channel=per_channel)
        return cls(mean.reshape(shape), std.reshape(shape))

    def extra_repr(self) -> str:
        """Constants, for `repr`."""
        return f"mean={self.mean.flatten().tolist()}, std={self.std.flatten().tolist()}"


def normalizer_from_state(state: Mapping[str, Any]) -> Identity | MinMax | Standard:
    """The normaliser whose `state()` this is.

    Raises:
        ValueError: if it is not the state of a known normaliser.

    Example:
        >>> normalizer_from_state({"kind": "minmax", "low": 0.0, "high": 2.0})
        MinMax(low=[0.0], high=[2.0])
    """
    kinds = {"identity": (Identity, ()), "minmax": (MinMax, ("low", "high")), "standard": (Standard, ("mean", "std"))}
    kind = state.get("kind") if isinstance(state, Mapping) else None
    if kind not in kinds:
        raise ValueError(f"a normaliser's state must name its kind, one of {list(kinds)}, but is {state!r}")
    cls, names = kinds[kind]
    if set(state) != {"kind", *names}:
        raise ValueError(f"the state of the normaliser '{kind}' must hold {list(names)}, but holds {sorted(state)}")
    try:
        constants = [torch.tensor(state[name], dtype=torch.float32) for name in names]
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"the state of the normaliser '{kind}' must hold numbers, but is {dict(state)!r}") from error
    return cls(*constants)


def _constant(value: float | Tensor, name: str) -> Tensor:
    tensor = torch.as_tensor(value).detach().to("cpu", torch.float32, copy=True)
    if not torch.isfinite(tensor).all():
        raise ValueError(f"a normaliser's {name} must be finite, but is {value}")
    return tensor


def _checked(x: Tensor, constant: Tensor) -> Tensor:
    """`x`, if it has the channels of the constant: broadcasting would make several of one."""
    if not isinstance(x, Tensor):
        raise TypeError(f"expected fields as a torch.Tensor, got {type(x).__name__}: torch.as_tensor makes one")
    axes = constant.dim()
    if axes and (x.dim() < axes or x.shape[-axes] != constant.shape[0]):
        raise ValueError(
            f"expected fields of {constant.shape[0]} channels on a grid of {axes - 1} axes, like those that the "
            f"normaliser was fitted to, got the shape {tuple(x.shape)}"
        )
    return x


def _nonzero(scale: Tensor) -> Tensor:
    return torch.where(scale == 0, 1.0, scale)


def _channel_axis(data: Tensor | Samples | TrajectoryDataset) -> int:
    if isinstance(data, OperatorDataset):
        raise TypeError("a data set of pairs has two kinds of fields: pass its .inputs or its .outputs to fit")
    if not isinstance(data, (Tensor, Samples, TrajectoryDataset)):
        raise TypeError(
            f"expected a tensor (N, C, *grid), samples or trajectories to fit to, got {type(data).__name__}"
        )
    return 2 if isinstance(data, TrajectoryDataset) else 1


def _channel_batches(
    data: Tensor | Samples | TrajectoryDataset, *, per_channel: bool, batch_size: int
) -> Iterable[Float[Tensor, "c n"]]:
    """Float64 values by channel (one row in all unless `per_channel`), a batch of samples at a time."""
    axis = _channel_axis(data)
    samples = data.trajectories if isinstance(data, TrajectoryDataset) else data
    if isinstance(samples, Tensor) and samples.is_complex():
        raise TypeError(f"expected real numbers to fit to, got {samples.dtype}")
    if len(samples.shape) <= axis or 0 in samples.shape:
        raise ValueError(f"expected at least one sample (C, *grid) to fit to, got the shape {tuple(samples.shape)}")
    if isinstance(samples, Tensor):
        batches: Iterable[Tensor] = samples.split(batch_size)
    else:
        batches = samples.batches(min(batch_size, rows_per_read(samples.shape)))
    for batch in batches:
        values = batch.cpu().double().movedim(axis, 0)
        yield values.reshape(values.shape[0] if per_channel else 1, -1)


def _constant_shape(data: Tensor | Samples | TrajectoryDataset, *, per_channel: bool) -> tuple[int, ...]:
    shape = data.trajectories.shape if isinstance(data, TrajectoryDataset) else tuple(data.shape)
    axis = _channel_axis(data)
    return (shape[axis], *[1] * (len(shape) - axis - 1)) if per_channel else ()
