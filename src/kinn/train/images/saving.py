"""Classifiers as files: safetensors that timm reads (`create_model(..., checkpoint_path=...)`), with what they need."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

import kinn.models.vision  # noqa: F401  its models by name
from kinn.files import atomic_file

_KEY = "kinn_images"


def save_classifier(path: str | Path, model: nn.Module, about: Mapping[str, Any]) -> None:
    """Write weights; the file appears complete or not at all.

    Args:
        path: of the file.
        model: whose weights.
        about: plain values: `model` and `model_arguments`, by which timm builds it, `num_classes`, and what else.
    """
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}
    with atomic_file(path) as file:
        file.write(save(tensors, metadata={"format": "pt", _KEY: json.dumps(dict(about))}))


def load_classifier(path: str | Path, *, device: torch.device | str = "cpu") -> tuple[nn.Module, dict[str, Any]]:
    """Read a file of :func:`save_classifier`.

    Returns:
        the model, in evaluation mode, and what the file says of it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no such file.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no model file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {}).get(_KEY, "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  no mapping
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged, or no model file of kinn: {error}") from error
    if about is None:
        raise ValueError(f"{path} is no image classifier that kinn trained: it does not say which model it holds")
    model = timm.create_model(about["model"], num_classes=about["num_classes"], **about["model_arguments"])
    model.load_state_dict(tensors)
    return model.eval().to(device), about
