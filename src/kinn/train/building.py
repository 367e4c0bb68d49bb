"""From a model's name and the training data to a task: channels, initial weights and normalisers in one place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import nn

from kinn.data import Identity, MinMax, OperatorDataset, Standard, TrajectoryDataset
from kinn.models import build
from kinn.nn import SpectralConv2d
from kinn.train.prediction import Normalizer, Rollout
from kinn.train.settings import OptimizerSettings, expect_one_of
from kinn.train.tasks import OperatorTask, RolloutTask, Units

_NORMALIZERS = {"none": Identity, "min-max": MinMax, "standard": Standard}


def build_task(
    name: str,
    arguments: Mapping[str, Any],
    train: OperatorDataset | TrajectoryDataset,
    *,
    seed: int,
    normalize: Literal["standard", "min-max", "none"] = "standard",
    ranges: Mapping[str, Any] | None = None,
    loss: str | None = None,
    loss_units: Units = "normalized",
    optimizer: OptimizerSettings | None = None,
    rollout: Rollout | None = None,
    **windows: Any,
) -> OperatorTask | RolloutTask:
    """A model and how it is to be trained on a data set: pairs make an operator of it, trajectories a forecaster.

    Args:
        name: registered model (`kinn.models.model_names`).
        arguments: of its constructor; the data determine `in_channels` and `out_channels` where these are not given.
        train: the training part, to which normalisers are fitted.
        seed: of the initial weights; the surrounding random state is left as it is.
        normalize: "standard", "min-max" or "none".
        ranges: for "min-max" of pairs, published `input_range` and `output_range`, `(low, high)` in physical units,
            which are taken where they are known instead of the training part's.
        loss: a name in `kinn.train.LOSSES`; None for relative L1 on pairs, relative L2 on trajectories.
        loss_units: "normalized" or "physical".
        optimizer: defaults to `OptimizerSettings()`.
        rollout: for trajectories, defaults to `Rollout()`.
        windows: for trajectories, `unroll`, `window_stride` and `input_noise` of `RolloutTask`.

    Raises:
        ValueError: if there is no such model, it cannot be built with the arguments, or a word is unknown.

    Example:
        >>> from kinn.data import from_arrays
        >>> data = from_arrays(torch.rand(8, 2, 16, 16), torch.rand(8, 1, 16, 16))
        >>> task = build_task("FNO", {"width": 4}, data, seed=0, normalize="min-max")
        >>> task.model.arguments["in_channels"], tuple(task.input_normalizer.low.shape)
        (2, (2, 1, 1))
    """
    expect_one_of("normalize", normalize, tuple(_NORMALIZERS))
    fit = _NORMALIZERS[normalize].fit
    if isinstance(train, TrajectoryDataset):
        rollout = rollout or Rollout()
        channels = {"in_channels": rollout.n_history * train.channels, "out_channels": train.channels}
        model = _model(name, {**channels, **arguments}, seed, train.grid)
        how: dict[str, Any] = {"loss": loss or "relative_l2", "loss_units": loss_units, "optimizer": optimizer}
        return RolloutTask(model, normalizer=fit(train), rollout=rollout, **windows, **how)

    def normalizer(key: str, part: Any) -> Normalizer:
        published = (ranges or {}).get(key) if normalize == "min-max" else None
        return fit(part) if published is None else MinMax(*published)

    channels = {"in_channels": train.in_channels, "out_channels": train.out_channels}
    return OperatorTask(
        _model(name, {**channels, **arguments}, seed, train.grid),
        input_normalizer=normalizer("input_range", train.inputs),
        output_normalizer=normalizer("output_range", train.outputs),
        loss=loss or "relative_l1",
        loss_units=loss_units,
        optimizer=optimizer,
    )


def _model(name: str, arguments: Mapping[str, Any], seed: int, grid: tuple[int, ...]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            model = build(name, arguments)
        except (TypeError, RuntimeError) as error:
            raise ValueError(f"{name} cannot be built with {dict(arguments)}: {error}") from error
    for module in model.modules() if len(grid) == 2 else ():
        if isinstance(module, SpectralConv2d):  # a compiled step does not tell
            module.tell_idle(*grid)
    return model
