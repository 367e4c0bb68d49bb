"""The kernels as a GPU runs them, and what leads to them; everything else of Triton is tested in its interpreter."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from kinn.ops.path import Path as Grid
from kinn.ops.triton import available, cascade_triton, scan_triton


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_compiled_kernels_agree_with_the_definition():
    script = Path(__file__).with_name("check_kernels.py")
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    done = subprocess.run([sys.executable, str(script), "cuda"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(("capability", "taken"), [((7, 5), torch.float32), ((8, 0), torch.bfloat16)])
def test_bfloat16_reaches_kernels_that_can_convert_it(monkeypatch, capability, taken):
    """The GPU and its tensors are made up."""
    seen = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if function.namespace == "kinn":
                seen.append(args[0].dtype)
            return function(*args, **(kwargs or {}))

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: capability)
    with FakeTensorMode(), Watch():
        x, B = (torch.ones(2, 6, width, dtype=torch.bfloat16, device="cuda") for width in (3, 2))
        a, D = torch.ones(3, 2, device="cuda"), torch.ones(3, device="cuda")
        path = Grid.along((6,), 0, joined=True, reverse=False)
        y, state = scan_triton(x, x, a, B, B, D, None, path, "zoh")
        assert (y.dtype, state.dtype) == (torch.bfloat16, torch.float32)
        shapes = [(1, 1, 5, 3), (1, 1, 3, 1), (1, 1, 3), (1, 1, 3, 2), (1, 1, 3)]
        parameters = [torch.ones(shape, device="cuda") for shape in shapes]
        y = cascade_triton(x, *parameters, [(0, False)], True, True, "zoh", 1.0)
        assert y.dtype == torch.bfloat16
    assert seen == [taken, taken]


@pytest.mark.parametrize(("patience", "said"), [(0.01, 1), (60.0, 0)])
def test_kernels_that_are_compiled_say_so_once(monkeypatch, capsys, patience, said):
    monkeypatch.setattr(available, "interpreted", lambda: False)
    monkeypatch.setattr(available, "_launched", set())
    monkeypatch.setattr(available, "_PATIENCE", patience)
    available._announce.cache_clear()
    for kernels in ("one", "other", "one"):
        with available.launching(kernels, torch.empty(1)):
            time.sleep(0.1)
    assert capsys.readouterr().err.count("kinn: compiling the GPU kernels, a minute or two") == said
