from __future__ import annotations

import numpy as np
import pytest
import torch


@pytest.fixture
def poisoned_memory(monkeypatch):
    """Memory that nobody has written to holds NaN, so that reading it shows."""

    def poison(function):
        def poisoned(*args, **kwargs):
            tensor = function(*args, **kwargs)
            return tensor.fill_(torch.nan) if tensor.is_floating_point() else tensor

        return poisoned

    def poisoned_array(*args, **kwargs):
        array = numpy_empty(*args, **kwargs)
        if np.issubdtype(array.dtype, np.floating):
            array.fill(np.nan)
        return array

    numpy_empty = np.empty
    monkeypatch.setattr(torch, "empty", poison(torch.empty))
    monkeypatch.setattr(torch, "empty_like", poison(torch.empty_like))
    monkeypatch.setattr(torch.Tensor, "new_empty", poison(torch.Tensor.new_empty))
    monkeypatch.setattr(np, "empty", poisoned_array)
