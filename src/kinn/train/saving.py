"""Trained models as files: safetensors, with everything needed to build and use the model as JSON beside the weights.

Nothing in such a file is executed on loading. The metadata entry `kinn` is a JSON object: `format` (a number), `model`
(registered name), `arguments` (of its constructor), `task` (operator or rollout), `input_normalizer`,
`output_normalizer`, `complex` (names of tensors stored as pairs of real numbers), `version` (of the library), `extra`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from kinn._version import __version__
from kinn.data import Identity, normalizer_from_state
from kinn.files import atomic_file
from kinn.models import build, model_names
from kinn.train.prediction import Normalizer, Rollout, TrainedModel
from kinn.train.settings import chosen_device

FORMAT = 1


def save_model(
    path: str | Path,
    model: nn.Module,
    *,
    input_normalizer: Normalizer | None = None,
    output_normalizer: Normalizer | None = None,
    rollout: Rollout | None = None,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write a model with its constructor arguments and normalisers to one safetensors file.

    Args:
        path: of the file; it appears complete or not at all.
        model: a registered model (`kinn.models`).
        input_normalizer: None for fields that need none.
        output_normalizer: likewise.
        rollout: how the model forecasts; None for a one-shot operator.
        extra: plain (JSON-able) values to keep with the model.

    Raises:
        ValueError: if the model is not a registered one, or `extra` is not JSON-able.
        OSError: if the file cannot be written.
    """
    name, arguments = blueprint(model)
    tensors = {key: value.detach().cpu() for key, value in model.state_dict().items()}
    paired = [key for key, value in tensors.items() if value.is_complex()]
    # clones: safetensors refuses tensors that share memory or have gaps
    stored = {
        key: (torch.view_as_real(value.resolve_conj()) if value.is_complex() else value).contiguous().clone()
        for key, value in tensors.items()
    }
    trained = TrainedModel(model, input_normalizer or Identity(), output_normalizer or Identity(), rollout)
    content = {
        "format": FORMAT,
        "version": __version__,
        "model": name,
        "arguments": arguments,
        "task": trained.settings(),
        "input_normalizer": trained.input_normalizer.state(),
        "output_normalizer": trained.output_normalizer.state(),
        "complex": paired,
        "extra": dict(extra or {}),
    }
    try:
        header = json.dumps(content)
    except (TypeError, ValueError) as error:
        raise ValueError(f"what is saved with a model must be plain (JSON-able) values: {error}") from error
    with atomic_file(path) as file:
        file.write(save(stored, metadata={"kinn": header}))


def blueprint(model: nn.Module) -> tuple[str, dict[str, Any]]:
    """Name and constructor arguments of a registered model: what builds it again.

    Raises:
        ValueError: if it is not registered.
    """
    name, arguments = type(model).__name__, getattr(model, "arguments", None)
    if name not in model_names() or not isinstance(arguments, dict):
        names = model_names()
        wrong = "is another class than the registered one" if name in names else f"is none of {', '.join(names)}"
        raise ValueError(
            f"only registered models can be saved, so that they can be built again: {name} {wrong} "
            "(see kinn.models.register_model)"
        )
    return name, arguments


def load_model(path: str | Path, *, device: torch.device | str = "cpu") -> TrainedModel:
    """Read a file of `save_model`: the model in evaluation mode, with its normalisers.

    Args:
        path: of the file.
        device: where to put the model; "auto" is a CUDA GPU if there is one.

    Returns:
        the model; `metadata` holds `path`, `model`, `arguments`, `version` and `extra`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is truncated or foreign, of a newer format, of an unknown model, or its weights do not
            fit the model.
    """
    path, device = Path(path), chosen_device(device)
    content, state = _read(path)
    if content["model"] not in model_names():
        raise ValueError(
            f"{path} holds a model '{content['model']}', but this version of kinn knows {', '.join(model_names())}: "
            "import the module that registers it first (on the command line, --import MODULE)"
        )
    try:
        with torch.random.fork_rng(devices=[]):  # weights that are replaced must not draw from the caller's generator
            model = build(content["model"], content["arguments"])
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {content['model']} cannot be built from its saved arguments: {error}") from error
    _check_fit(path, content["model"], model.state_dict(), state)
    _widen(model, state)
    model.load_state_dict(state)
    trained = TrainedModel(
        model.eval(),
        normalizer_from_state(content["input_normalizer"]),
        normalizer_from_state(content["output_normalizer"]),
        _rollout(path, content["task"]),
        {"path": str(path), **{key: content[key] for key in ("model", "arguments", "version", "extra")}},
    )
    return trained.to(device)


def take_weights(model: nn.Module, path: str | Path) -> None:
    """Give a model the weights of a file of `save_model`, which must be the model's own by name and shape.

    Args:
        model: of any class.
        path: of the file; its normalisers and its task do not count.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no file of `save_model`, or weights do not fit; some are named.
    """
    path = Path(path)
    state = _read(path)[1]
    _check_fit(path, f"this {type(model).__name__}", model.state_dict(), state)
    model.load_state_dict(state)


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if not path.is_file():
        inside = path / "model.safetensors"
        hint = f"; the folder holds {inside}" if inside.is_file() else ""
        raise FileNotFoundError(f"there is no model file {path}{hint}")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            header = metadata.get("kinn")
            stored = {key: file.get_tensor(key) for key in file.keys()} if header else {}  # noqa: SIM118
    except SafetensorError as error:
        best = path.with_name("model.safetensors")
        hint = f"; it is where a training goes on, its best model is {best}" if path.suffix == ".ckpt" else ""
        raise ValueError(f"{path} is not a kinn model, or is truncated: {error}{hint}") from error
    if header is None:
        what = "not of a kinn model: its metadata has no entry 'kinn'"
        if "kinn_images" in metadata:
            what = "of an image classifier, which kinn evaluate image and kinn.train.images take"
        raise ValueError(f"{path} is a safetensors file, but {what}")
    content = json.loads(header)
    if content.get("format", 0) > FORMAT:
        raise ValueError(
            f"{path} has format {content['format']}, written by kinn {content.get('version')}, but kinn {__version__} "
            f"reads up to format {FORMAT}: please update kinn"
        )
    needed = {"model", "arguments", "task", "input_normalizer", "output_normalizer", "complex", "version", "extra"}
    if needed - content.keys():
        raise ValueError(f"{path} is not a complete kinn model: its metadata lacks {sorted(needed - content.keys())}")
    paired = set(content["complex"])
    # clones: in the file a pair may lie off the boundaries that torch's copies of complex numbers take for granted
    return content, {
        key: torch.view_as_complex(value.clone()) if key in paired else value for key, value in stored.items()
    }


def _widen(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Make a model double where all that is stored is: it would be rounded. Narrower weights fit as they are."""
    numbers = [value for value in state.values() if value.is_floating_point() or value.is_complex()]
    if {value.dtype.to_real() for value in numbers} != {torch.float64}:
        return
    for tensor in (*model.parameters(), *model.buffers()):  # nn.Module.to would drop imaginary parts
        if not is_lazy(tensor) and (tensor.is_floating_point() or tensor.is_complex()):
            tensor.data = tensor.data.to(torch.complex128 if tensor.is_complex() else torch.float64)


def _check_fit(path: Path, name: str, expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    missing, surplus = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    if missing or surplus:
        raise ValueError(
            f"{path} does not fit {name}: it lacks {len(missing)} tensors {missing[:3]} and has {len(surplus)} "
            f"unknown ones {surplus[:3]}"
        )
    other = [key for key, value in expected.items() if not is_lazy(value) and value.shape != found[key].shape]
    if other:
        shape, came = (tuple(tensors[other[0]].shape) for tensors in (expected, found))
        more = f"; {len(other) - 1} more do not fit, {other[1:4]}" if other[1:] else ""
        wrong = f"'{other[0]}' should have the shape {shape}, but has {came}{more}"
        raise ValueError(f"{path} does not fit {name}: {wrong}")


def _rollout(path: Path, task: Mapping[str, Any]) -> Rollout | None:
    settings = dict(task)
    kind = settings.pop("kind", None)
    if kind not in ("operator", "rollout"):
        raise ValueError(f"{path} holds a model for an unknown task '{kind}': known are operator and rollout")
    return None if kind == "operator" else Rollout(**settings)
