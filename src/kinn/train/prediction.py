"""From fields to predicted fields: one-shot operators and autoregressive rollouts, in physical units."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from kinn.data import Identity, MinMax, OperatorDataset, Standard, TrajectoryDataset
from kinn.nn.regridding import points_at
from kinn.notices import warn_once

if TYPE_CHECKING:
    from jaxtyping import Float

Normalizer = Identity | MinMax | Standard


@dataclass(frozen=True)
class Rollout:
    """How a model that predicts one frame from several is applied to itself.

    Args:
        n_history: frames that the model sees, oldest first; they are its input channels, `n_history * C`.
        predict_increment: the model's output is added to the newest frame instead of being the next frame itself.

    Raises:
        ValueError: if `n_history` is not positive.
    """

    n_history: int = 10
    predict_increment: bool = False

    def __post_init__(self) -> None:
        if self.n_history < 1:
            raise ValueError(f"n_history must be at least 1 frame, but is {self.n_history}")

    def unroll(
        self,
        model: Callable[[Tensor], Tensor],
        history: Float[Tensor, "b h c *grid"],
        n_steps: int,
    ) -> Float[Tensor, "b s c *grid"]:
        """Predict `n_steps` frames, each from the `n_history` frames before it, predicted ones included.

        The result is differentiable through all steps.

        Args:
            model: maps `(b, h*c, *grid)` to `(b, c, *grid)`.
            history: the frames that are given, `(b, h, c, *grid)`, oldest first.
            n_steps: how many to predict.

        Returns:
            the predicted frames, `(b, n_steps, c, *grid)`.

        Raises:
            ValueError: if `history` does not hold `n_history` frames, or the model's output is no frame.

        Example:
            >>> frames = Rollout(n_history=2).unroll(lambda x: x.sum(1, keepdim=True), torch.ones(1, 2, 1, 1), 4)
            >>> frames.flatten().tolist()  # Fibonacci
            [2.0, 3.0, 5.0, 8.0]
        """
        if history.dim() < 4 or history.shape[1] != self.n_history:
            raise ValueError(
                f"a rollout starts from (batch, {self.n_history} frames, channels, *grid), "
                f"but the history has the shape {tuple(history.shape)}"
            )
        if n_steps < 1:
            raise ValueError(f"a rollout needs at least 1 step, but {n_steps} were asked for")
        known = list(history.unbind(1))
        for _ in range(n_steps):
            frame = model(torch.cat(known[-self.n_history :], dim=1))
            if frame.shape != known[-1].shape:
                raise ValueError(
                    f"the model must predict one frame {tuple(known[-1].shape)}, but its output is {tuple(frame.shape)}"
                )
            known.append(known[-1] + frame if self.predict_increment else frame)
        return torch.stack(known[self.n_history :], dim=1)


@dataclass
class TrainedModel:
    """A model with all that is needed to use it on physical fields.

    Args:
        model: maps normalised input to normalised output, `(B, C_in, *grid)` to `(B, C_out, *grid)`.
        input_normalizer: between physical and normalised inputs.
        output_normalizer: likewise for outputs; a rollout uses it for history and prediction alike.
        rollout: None for a one-shot operator.
        metadata: plain values that travel with the file: how it was trained, on what.
    """

    model: nn.Module
    input_normalizer: Normalizer
    output_normalizer: Normalizer
    rollout: Rollout | None = None
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        """Where the model's parameters lie."""
        return next((p.device for p in self.model.parameters()), torch.device("cpu"))

    def to(self, device: torch.device | str) -> TrainedModel:
        """Move model and normalisers, in place; returns itself."""
        for module in (self.model, self.input_normalizer, self.output_normalizer):
            module.to(device)
        return self

    def _fields(self, values: Any) -> Tensor:
        if isinstance(values, (OperatorDataset, TrajectoryDataset)):
            raise TypeError(
                f"expected fields, a tensor or an array, got {values!r}: take some, by .inputs.read(range(4)) or "
                ".trajectories.read(range(4)), or measure all with kinn.train.evaluate"
            )
        parameter = next((p for p in self.model.parameters() if p.is_floating_point()), torch.empty(0))
        if isinstance(values, np.ndarray):  # of any byte order, and of any strides
            values = np.ascontiguousarray(values, values.dtype.newbyteorder("="))
        values = torch.as_tensor(values)
        if values.is_complex():
            raise TypeError(f"fields must be real, but are {values.dtype}")
        return values.to(parameter)

    def settings(self) -> dict[str, Any]:
        """The kind of task and its settings, as plain values."""
        return {"kind": "operator"} if self.rollout is None else {"kind": "rollout", **asdict(self.rollout)}

    def as_module(self, *, dt_scale: float = 1.0) -> nn.Module:
        """One step in physical units as a module, in evaluation mode: for `torch.export` and ONNX.

        Args:
            dt_scale: see `predict`; it becomes part of the module.

        Returns:
            a module of the same weights: `(B, C_in, *grid)` to `(B, C_out, *grid)` as `predict`, or, of a model that
            forecasts, `(B, n_history, C, *grid)` to the next frame `(B, C, *grid)`.

        Raises:
            ValueError: a `dt_scale` for a model that takes none.
        """
        self._expect_taken(dt_scale)
        return _OneStep(self, dt_scale).eval()

    def _remind(self, grid: tuple[int, ...]) -> None:
        """Say so where the grid is not that of the training and a model that wants to know is not told."""
        ours = self._training_grid or grid
        if ours == grid or len(ours) != len(grid) or 0 in grid or not self.takes_dt_scale:
            return
        centres = {f"{a / b:.6g}" for a, b in zip(ours, grid)}
        nodes = {f"{(a - 1) / max(b - 1, 1):.6g}" for a, b in zip(ours, grid)}
        words = (centres, "centres of cells, or periodic"), (nodes, "nodes with both ends")
        fits = " or ".join(f"{min(one)} ({what})" for one, what in words if len(one) == 1)
        fits = f"set it to {fits}" if fits else "its axes are refined by different ratios, which no dt_scale expresses"
        before, here = (" x ".join(map(str, points)) for points in (ours, grid))
        warn_once(
            f"the model was trained on {before} points, these data have {here}, and dt_scale (--dt-scale) is 1. "
            f"If they cover the same domain, {fits}"
        )

    @property
    def _training_grid(self) -> tuple[int, ...]:
        return tuple(self.metadata.get("extra", {}).get("grid", ()))

    def _takes(self, name: str) -> bool:
        return name in inspect.signature(self.model.forward).parameters

    @property
    def takes_dt_scale(self) -> bool:
        """Whether the model is told the grid's spacing."""
        return self._takes("dt_scale")

    def _told(self, grid: tuple[int, ...], dt_scale: float) -> dict[str, Any]:
        """What the model is told of a grid. 17 points at twice the spacing are 33 nodes or 34 cells: which it knew."""
        if dt_scale == 1.0:
            return {}
        able = self._takes("points") and not getattr(self.model, "periodic", False)
        nodes = able and points_at(grid, dt_scale, "nodes") == self._training_grid
        return {"dt_scale": dt_scale, "points": "nodes"} if nodes else {"dt_scale": dt_scale}

    def _expect_taken(self, dt_scale: float) -> None:
        if dt_scale != 1.0 and not self.takes_dt_scale:
            raise ValueError(
                f"{type(self.model).__name__} is not told the grid's spacing: it takes no dt_scale, got {dt_scale:g}"
            )

    def predict_normalized(self, first: Tensor, n_steps: int = 1, *, dt_scale: float = 1.0) -> Tensor:
        """Prediction in normalised units from fields in physical units; see `predict` and `forecast` for shapes."""
        self._expect_taken(dt_scale)
        grid = tuple(first.shape[2 if self.rollout is None else 3 :])
        if dt_scale == 1.0 and not torch.compiler.is_compiling():
            self._remind(grid)
        told = self._told(grid, dt_scale)

        def apply(x: Tensor) -> Tensor:
            return self.model(x, **told)

        if self.rollout is None:
            return apply(self.input_normalizer.encode(first))
        return self.rollout.unroll(apply, self.output_normalizer.encode(first), n_steps)

    @torch.no_grad()
    def predict(self, x: Float[Tensor, "b c_in *grid"], *, dt_scale: float = 1.0) -> Float[Tensor, "b c_out *grid"]:
        """Apply a one-shot operator to fields in physical units.

        Args:
            x: `(B, C_in, *grid)`, a tensor on any device or an array, of any real dtype.
            dt_scale: ratio of the grid spacing to that of the training, for models that are to be told it.

        Returns:
            `(B, C_out, *grid)` in physical units, on the model's device.

        Raises:
            ValueError: if the model forecasts frames instead, takes no `dt_scale`, or `x` does not fit it.
            TypeError: if `x` is complex, or a data set.
        """
        if self.rollout is not None:
            raise ValueError("this model forecasts frames: call forecast(history, n_steps) instead of predict(x)")
        return self.output_normalizer.decode(self.predict_normalized(self._fields(x), dt_scale=dt_scale))

    @torch.no_grad()
    def forecast(
        self, history: Float[Tensor, "b h c *grid"], n_steps: int, *, dt_scale: float = 1.0
    ) -> Float[Tensor, "b s c *grid"]:
        """Roll a forecasting model out from frames in physical units.

        Args:
            history: `(B, n_history, C, *grid)`, oldest first, likewise.
            n_steps: frames to predict.
            dt_scale: ratio of the grid spacing to that of the training, for models that are to be told it.

        Returns:
            `(B, n_steps, C, *grid)` in physical units, on the model's device.

        Raises:
            ValueError: if the model is a one-shot operator, takes no `dt_scale`, or `history` does not fit it.
            TypeError: if `history` is complex, or a data set.
        """
        if self.rollout is None:
            raise ValueError("this model is a one-shot operator: call predict(x) instead of forecast(history, n_steps)")
        normalized = self.predict_normalized(self._fields(history), n_steps, dt_scale=dt_scale)
        return self.output_normalizer.decode(normalized)


class _OneStep(nn.Module):
    """See `TrainedModel.as_module`."""

    def __init__(self, trained: TrainedModel, dt_scale: float) -> None:
        super().__init__()
        # registered, so that they move and are exported; `_trained` is a view of the same modules
        self.model, self.input_normalizer = trained.model, trained.input_normalizer
        self.output_normalizer = trained.output_normalizer
        self._trained, self._dt_scale = trained, dt_scale

    def forward(self, x: Tensor) -> Tensor:
        prediction = self._trained.predict_normalized(x, dt_scale=self._dt_scale)
        prediction = self.output_normalizer.decode(prediction)
        return prediction if self._trained.rollout is None else prediction[:, 0]
