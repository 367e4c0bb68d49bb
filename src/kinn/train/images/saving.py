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
_FIRST_WEIGHTS = ("pretrained", "checkpoint_path")


def architecture(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Model arguments without those that fetch weights, which a file or a checkpoint replaces.

    >>> architecture({"pretrained": True, "in_chans": 1})
    {'in_chans': 1}
    """
    return {name: value for name, value in arguments.items() if name not in _FIRST_WEIGHTS}


def save_classifier(path: str | Path, model: nn.Module, about: Mapping[str, Any]) -> None:
    """Write weights; the file appears complete or not at all.

    Args:
        path: of the file.
        model: whose weights.
        about: plain values: `model` and `model_arguments`, by which timm builds it, `num_classes`, and what else.
    """
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}
    with atomic_file(path) as file:
        about = {**about, "model_arguments": architecture(about["model_arguments"])}
        file.write(save(tensors, metadata={"format": "pt", _KEY: json.dumps(about)}))


def load_classifier(path: str | Path, *, device: torch.device | str = "cpu") -> tuple[nn.Module, dict[str, Any]]:
    """Read a file of :func:`save_classifier`.

    Returns:
        the model, in evaluation mode, and what the file says of it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no such file, or timm knows no model of that name; nothing is fetched.
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
    if not timm.is_model(about["model"]):  # timm would fetch a model "hf-hub:..."
        raise ValueError(f"{path} must hold a model that timm knows, but holds {about['model']!r}")
    arguments = architecture(about["model_arguments"])  # files of earlier versions hold all
    model = timm.create_model(about["model"], num_classes=about["num_classes"], **arguments)
    model.load_state_dict(tensors)
    return model.eval().to(device), about


def take_weights(model: nn.Module, path: str | Path) -> list[str]:
    """Give a model the weights of a file, ours or any that timm reads; another number of classes keeps its classifier.

    Args:
        model: of timm's.
        path: of the file, `.safetensors` or a checkpoint of PyTorch; no code in it is run.

    Returns:
        names of the weights that the model kept.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: timm cannot read it, or names or shapes other than the classifier's do not fit; some are named.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no model file {path}")
    try:
        found = timm.models.load_state_dict(str(path), weights_only=True)
    except Exception as error:  # timm and torch raise many kinds for a damaged file
        raise ValueError(f"{path} holds no weights that timm reads: {error}") from error
    shapes, came = (
        {name: getattr(value, "shape", None) for name, value in weights.items()}
        for weights in (model.state_dict(), found)
    )
    other = [name for name in {**shapes, **came} if shapes.get(name) != came.get(name)]
    heads = (getattr(model, "pretrained_cfg", None) or {}).get("classifier") or ()
    heads = tuple(f"{head}." for head in ([heads] if isinstance(heads, str) else heads))
    strange = [name for name in other if not name.startswith(heads)]
    if strange:
        raise ValueError(
            f"{path} does not fit this {type(model).__name__}: {len(strange)} weights differ in name or shape, "
            f"{', '.join(strange[:5])}{', ...' if strange[5:] else ''}"
        )
    kept = [name for name in shapes if name.startswith(heads)] if other else []
    model.load_state_dict({name: value for name, value in found.items() if name not in other + kept}, strict=False)
    return kept
