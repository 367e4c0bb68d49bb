"""Our backbones enter timm's registry when both packages are loaded, in whichever order, and cost nothing before."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import warnings
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from typing import Any


def register_when_loaded() -> None:
    """Register now if timm is loaded, else right after it will have been."""
    if "timm" in sys.modules:
        _register()
    else:
        sys.meta_path.insert(0, _Finder())


def _register() -> None:
    try:
        importlib.import_module("kinn.models.vision")
    except (ImportError, AttributeError) as error:  # a timm that lacks what we build on must still load
        warnings.warn(f"kinn: the KINN backbones are not in timm's registry: {error}", stacklevel=2)


class _Finder(MetaPathFinder):
    """Finds timm as all other finders do, and has its loader call us back."""

    _asks = False

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        if fullname != "timm" or self._asks:
            return None
        self._asks = True
        try:
            spec = importlib.util.find_spec("timm")
        finally:
            self._asks = False
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(Loader):
    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> Any:
        return self._loader.create_module(spec)

    def exec_module(self, module: Any) -> None:
        module.__spec__.loader = module.__loader__ = self._loader
        sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _Finder)]
        self._loader.exec_module(module)
        _register()
