from __future__ import annotations

import ctypes
import os
import sys

import pytest
import torch
from torch.utils._device import _device_constructors

os.environ.setdefault("TRITON_INTERPRET", "1")  # before any kernel is defined: they run without a GPU
if "PYTEST_XDIST_WORKER" in os.environ:  # one process for each core; tests of threads set their number
    torch.set_num_threads(1)

M_PERTURB = -6  # of glibc's mallopt
# Whole files go to a process each, in this order, so that none is left with a long one at the end. The first needs no
# CPU kernels: while it runs, the other process compiles them for both.
FIRST = (
    "tests/ops/test_triton.py",
    "tests/ops/test_cascade.py",
    "tests/ops/test_cascade_contract.py",
    "tests/ops/test_agreement.py",
    "tests/ops/test_mlp.py",
    "tests/ops/test_branches.py",
    "docs/vision.md",
    "tests/models/test_timm_suite.py",
    "tests/ops/test_triton_cascade.py",
    "tests/recipes/test_named.py",
    "tests/recipes/test_recipes.py",
    "tests/models/test_models.py",
    "tests/train/test_images.py",
)


def pytest_collection_modifyitems(items):
    places = {name: place for place, name in enumerate(FIRST)}
    items.sort(key=lambda item: places.get(item.nodeid.split("::")[0], len(FIRST)))  # stable


@pytest.fixture
def poisoned_memory(monkeypatch):
    """Memory that nobody has written to holds NaN in tensors, huge numbers elsewhere, so that reading it shows."""

    def poison(function):
        def poisoned(*args, **kwargs):
            tensor = function(*args, **kwargs)
            return tensor.fill_(torch.nan) if tensor.is_floating_point() else tensor

        return poisoned

    _device_constructors()  # kept by torch from the first call on: not of the functions that follow
    monkeypatch.setattr(torch, "empty", poison(torch.empty))
    monkeypatch.setattr(torch, "empty_like", poison(torch.empty_like))
    monkeypatch.setattr(torch.Tensor, "new_empty", poison(torch.Tensor.new_empty))
    # The kernels' scratch comes from malloc. Patching np.empty instead would break their compilation.
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        yield
        return
    mallopt(M_PERTURB, 0x01)  # fresh memory is filled with the complement: 0xfe..., -1.7e38 or -5e303
    yield
    mallopt(M_PERTURB, 0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Data and a trained model, made by the commands themselves."""
    import h5py

    from kinn.cli import main

    folder = tmp_path_factory.mktemp("journey")
    model = ["--model", "FNO", "--model-arguments.width", "6", "--model-arguments.n_modes", "[3,3]"]
    small = [*model, "--epochs", "2", "--device", "cpu"]
    poisson = ["generate", "poisson", "--resolution", "16", "--max-mode", "6"]
    assert main([*poisson, "--output", f"{folder}/p.h5", "--samples", "24"]) == 0
    assert main([*poisson, "--output", f"{folder}/test.h5", "--samples", "5", "--seed", "1"]) == 0
    assert main(["train", "--data", f"{folder}/p.h5", *small, "--output", f"{folder}/run"]) == 0
    with h5py.File(folder / "flat.h5", "w") as file:  # its author forgot the axis of the one channel
        file["input"] = file["output"] = torch.zeros(3, 8, 8).numpy()
    with h5py.File(folder / "line.h5", "w") as file:
        file["input"] = file["output"] = torch.zeros(3, 1, 8).numpy()
    with h5py.File(folder / "rgb.h5", "w") as file:
        file["input"], file["output"] = torch.zeros(3, 3, 16, 16).numpy(), torch.zeros(3, 1, 16, 16).numpy()
    return folder
