"""What `import kinn` promises: the public names, and nothing heavy."""

from __future__ import annotations

import subprocess
import sys

import pytest

import kinn

HEAVY = ("torch", "lightning", "matplotlib", "numba", "h5py", "triton", "timm")


def test_every_public_name_is_there():
    assert [name for name in kinn.__all__ if not hasattr(kinn, name)] == []
    assert set(kinn._HOMES) | {"__version__"} == set(kinn.__all__)


def test_unknown_names_raise_as_modules_do():
    with pytest.raises(AttributeError, match="'kinn' has no attribute 'KNC'"):
        _ = kinn.KNC


@pytest.mark.parametrize(
    ("code", "unwanted"),
    [
        ("import kinn", HEAVY),
        ("import kinn.models", ("lightning", "matplotlib", "numba", "torch._dynamo", "triton")),
        ("import kinn.train", ("lightning", "matplotlib")),
        ("import kinn.recipes; kinn.recipes.experiments('demo')", ("lightning", "matplotlib")),
        ("import kinn.recipes.files", ("lightning", "matplotlib")),  # kinn evaluate needs it
    ],
)
def test_imports_stay_light(code, unwanted):
    script = f"{code}; import sys; print([m for m in {unwanted!r} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("module", "missing", "extra"),
    [
        ("kinn.models.vision", "timm", "vision"),
        ("kinn.train.images", "timm", "train,vision"),
        ("kinn.train.images", "lightning", "train,vision"),
    ],
)
def test_what_needs_an_extra_names_it(module, missing, extra):
    script = f"import sys; sys.modules[{missing!r}] = None; import {module}"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert f"ImportError: {module} needs {missing}: pip install 'kinn-torch[{extra}]'" in found.stderr
