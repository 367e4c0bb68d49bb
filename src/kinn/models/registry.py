"""Models by name: what a checkpoint needs to rebuild a model without executing stored code."""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any, TypeVar

from torch import nn

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["build", "model_class", "model_names", "register_model"]

_MODELS: dict[str, type[nn.Module]] = {}
_Model = TypeVar("_Model", bound="type[nn.Module]")


def register_model(cls: _Model) -> _Model:
    """Record a model class under its name, and on every instance the arguments that it was built with.

    A decorated class is found by :func:`build`, and each instance carries `arguments`: a plain dict of JSON-able values
    (tuples as lists) with every constructor argument, defaults included, so that
    `build(type(model).__name__, model.arguments)` makes a model of the same shape.

    Args:
        cls: an `nn.Module` whose constructor takes JSON-able values only, and no `*args` or `**kwargs`.

    Raises:
        ValueError: another class is registered under the same name.
        TypeError: (on construction) an argument is not JSON-able.
    """
    name = cls.__name__
    known = _MODELS.get(name)
    if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
        raise ValueError(f"register_model: the name {name!r} is taken by {known.__module__}.{known.__qualname__}")
    # Any: a wrapped constructor is beyond what the type checker can follow.
    model: Any = cls
    construct = model.__init__
    signature = inspect.signature(construct)

    @functools.wraps(construct)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        construct(self, *args, **kwargs)
        if type(self) is model:
            bound = signature.bind(self, *args, **kwargs)
            bound.apply_defaults()
            values = list(bound.arguments.items())[1:]
            self.arguments = {key: _plain(value, f"{name}: {key}") for key, value in values}

    model.__init__ = init
    _MODELS[name] = cls
    return cls


def build(name: str, arguments: Mapping[str, Any]) -> nn.Module:
    """Build the model called `name` from the arguments that an instance recorded.

    Args:
        name: class name of a registered model, such as `"FNO"`.
        arguments: constructor arguments by name, as in `model.arguments`.

    Raises:
        ValueError: unknown name (the message lists the known ones), or arguments that the constructor does not take.

    >>> model = build("FNO", {"in_channels": 10, "out_channels": 1, "width": 8, "n_modes": [4, 4]})
    >>> model.arguments["width"]
    8
    """
    model = model_class(name)
    signature = inspect.signature(model)
    try:
        signature.bind(**arguments)
    except TypeError as error:
        raise ValueError(f"{name}: {error}; its arguments are {', '.join(signature.parameters)}") from None
    return model(**arguments)


def model_class(name: str) -> type[nn.Module]:
    """The registered model called `name`.

    Raises:
        ValueError: unknown name (the message lists the known ones).
    """
    if name not in _MODELS:
        raise ValueError(f"unknown model {name!r}; known models: {', '.join(model_names())}")
    return _MODELS[name]


def model_names() -> list[str]:
    """Names of the registered models, sorted."""
    return sorted(_MODELS)


def _plain(value: Any, where: str) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return [_plain(item, where) for item in value]
    raise TypeError(f"{where} must be a number, text, None or a list of these, got {type(value).__name__}")
