"""Training, evaluation and trained models as files.

The trainer (Lightning) is loaded with `build_task`, `OperatorTask`, `RolloutTask` and `fit` only: to load a model and
use it needs none of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kinn.train.evaluate import Evaluation, evaluate, sample_field
from kinn.train.losses import LOSSES, mse_loss, relative_l1_loss, relative_l2_loss
from kinn.train.memory import keep_freed_memory
from kinn.train.prediction import Rollout, TrainedModel
from kinn.train.saving import load_model, save_model
from kinn.train.settings import OptimizerSettings, TrainSettings, chosen_device

if TYPE_CHECKING:
    from kinn.train.building import build_task
    from kinn.train.fitting import FitResult, fit
    from kinn.train.tasks import OperatorTask, RolloutTask

__all__ = [
    "LOSSES",
    "Evaluation",
    "FitResult",
    "OperatorTask",
    "OptimizerSettings",
    "Rollout",
    "RolloutTask",
    "TrainSettings",
    "TrainedModel",
    "build_task",
    "chosen_device",
    "evaluate",
    "fit",
    "keep_freed_memory",
    "load_model",
    "mse_loss",
    "relative_l1_loss",
    "relative_l2_loss",
    "sample_field",
    "save_model",
]

_NEEDS_LIGHTNING = {
    "FitResult": "fitting",
    "fit": "fitting",
    "OperatorTask": "tasks",
    "RolloutTask": "tasks",
    "build_task": "building",
}


def __getattr__(name: str) -> Any:
    if name not in _NEEDS_LIGHTNING:
        raise AttributeError(f"module 'kinn.train' has no attribute '{name}'")
    import importlib
    import importlib.util

    if importlib.util.find_spec("lightning") is None:
        raise ImportError(f"kinn.train.{name} needs Lightning: pip install 'kinn-torch[train]'")
    value = getattr(importlib.import_module(f"kinn.train.{_NEEDS_LIGHTNING[name]}"), name)
    globals()[name] = value
    return value
