"""timm's own model tests, from its published source package, over our backbones.

kinn_nano takes them all, kinn_tiny those that its sizes matter to: its defaults, its larger matrices. kinn_small and
kinn_base are the same class with other sizes, and minutes longer.

TorchScript is left out, as timm leaves it out for models with operators that cannot be scripted: `torch.jit` is
deprecated, and `torch.export` and `torch.compile` take its place.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path

import pytest

# tests that name the models which they take
MORE = """
import pytest, timm, torch
import test_models as suite

@pytest.mark.parametrize("name", ["kinn_nano", "kinn_tiny"])
def test_more_of_kinn(name):
    suite.test_prune_intermediate_layers_params_used(name)
    suite.test_features_only_grad_checkpointing_backward(name)
    suite.test_reset_classifier_keeps_pool(name)
    suite.test_head_hidden_size(name, {})

@pytest.mark.parametrize("name", ["kinn_nano", "kinn_tiny"])
def test_traced_kinn_is_the_same_to_the_bit(name):
    model, x = timm.create_model(name).eval(), torch.randn(2, 3, 96, 96)
    with torch.inference_mode():
        assert torch.equal(*suite._create_fx_model(model)(x).values(), model(x))
"""


@pytest.fixture(scope="module")
def suite(request, tmp_path_factory) -> Path:
    """A folder with the test files of the installed version."""
    release = version("timm")
    kept = request.config.cache.mkdir(f"timm-{release}")
    if not any(kept.glob("*.tar.gz")):
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "timm"]
        done = subprocess.run([*pip, "--dest", kept, f"timm=={release}"], capture_output=True, text=True)
        if done.returncode != 0:
            if os.environ.get("CI"):
                pytest.fail(f"timm's source package could not be fetched: {done.stderr[-500:]}")
            pytest.skip("timm's source package cannot be fetched here")
    folder = tmp_path_factory.mktemp("timm")
    with tarfile.open(next(kept.glob("*.tar.gz"))) as archive:
        source = archive.extractfile(f"timm-{release}/tests/test_models.py")
        assert source is not None
        (folder / "test_models.py").write_bytes(source.read())
    (folder / "test_more.py").write_text(MORE)
    (folder / "pytest.ini").write_text("[pytest]\n")
    return folder


@pytest.mark.timeout(900)
def test_timms_own_tests(suite: Path) -> None:
    where = os.pathsep.join([str(Path(__file__).parent), str(suite)])
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "only_kinn",
            "-k",
            "not torchscript and (kinn_nano or kinn_tiny and (default_cfgs or backward or traced))",
            ".",
        ],
        cwd=suite,
        env={**os.environ, "PYTHONPATH": where},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None
    assert int(passed[1]) >= 15, done.stdout[-1000:]  # nine tests for kinn_nano, four for kinn_tiny, two of ours
    assert "skipped" not in done.stdout
