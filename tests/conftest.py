from __future__ import annotations

import ctypes
import os
import sys

import pytest
import torch

os.environ.setdefault("TRITON_INTERPRET", "1")  # before any kernel is defined: they run without a GPU
if "PYTEST_XDIST_WORKER" in os.environ:  # one process for each core; tests of threads set their number
    torch.set_num_threads(1)

M_PERTURB = -6  # of glibc's mallopt


@pytest.fixture
def poisoned_memory(monkeypatch):
    """Memory that nobody has written to holds NaN in tensors, huge numbers elsewhere, so that reading it shows."""

    def poison(function):
        def poisoned(*args, **kwargs):
            tensor = function(*args, **kwargs)
            return tensor.fill_(torch.nan) if tensor.is_floating_point() else tensor

        return poisoned

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
