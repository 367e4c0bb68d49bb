"""The kernels as a GPU runs them; everything else of Triton is tested in its interpreter."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_compiled_kernels_agree_with_the_definition():
    script = Path(__file__).with_name("check_kernels.py")
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    done = subprocess.run([sys.executable, str(script), "cuda"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
