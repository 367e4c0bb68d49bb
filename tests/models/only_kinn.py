"""A pytest plugin for timm's own test files: they see our models and no others."""

from __future__ import annotations

import timm

import kinn  # noqa: F401  enters our models


def pytest_configure(config):
    every_model = timm.list_models

    def ours(filter="", module="", **options):  # whatever a test asks of a model's file, ours are to hold
        return [name for name in every_model(filter, **options) if "kinn_" in name]

    timm.list_models = ours
    timm.list_pretrained = lambda *args, **options: []
    for marker in ("base", "cfg", "cfg_nonstd", "forward", "backward", "features", "fxforward", "fxbackward"):
        config.addinivalue_line("markers", marker)
    config.addinivalue_line("markers", "torchscript")
