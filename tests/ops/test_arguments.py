"""What a caller may pass, what is refused and how, and which backend answers."""

from __future__ import annotations

import subprocess
import sys
import warnings

import pytest
import torch

import kinn.ops
from kinn.notices import warn_once
from kinn.ops import cpu, grid_scan, selective_scan, triton
from kinn.ops.triton import available


@pytest.mark.parametrize(
    ("change", "error", "sentence"),
    [
        ({"x": torch.rand(2, 6)}, ValueError, r"x must have shape \(b, l, d\), got \(2, 6\)"),
        ({"dt": torch.rand(2, 6, 4)}, ValueError, r"dt must have shape \(2, 6, 3\), got \(2, 6, 4\)"),
        ({"a": torch.rand(4, 2)}, ValueError, r"a must have shape \(d, n\) with d = 3 as in x, got \(4, 2\)"),
        ({"B": torch.rand(2, 6, 5)}, ValueError, r"B must have shape \(2, 6, 2\), got \(2, 6, 5\)"),
        ({"C": torch.rand(1, 6, 2)}, ValueError, r"C must have shape \(2, 6, 2\), got \(1, 6, 2\)"),
        ({"D": torch.rand(2)}, ValueError, r"D must have shape \(3,\), got \(2,\)"),
        ({"initial_state": torch.rand(2, 3, 3)}, ValueError, r"initial_state must have shape \(2, 3, 2\)"),
        (
            {"x": torch.ones(2, 6, 3, dtype=torch.int64)},
            TypeError,
            "x must be a floating-point tensor, got torch.int64",
        ),
        ({"x": None}, TypeError, "x must be a floating-point tensor, got NoneType"),
        ({"a": 1.0}, TypeError, "a must be a floating-point tensor, got float"),
        ({"B": None}, TypeError, "B must be a floating-point tensor, got NoneType"),
        ({"C": torch.rand(2, 6, 2, device="meta")}, ValueError, "C must be on the device of x, cpu, got meta"),
        ({"injection": "exact"}, ValueError, "injection must be one of 'zoh', 'euler', got 'exact'"),
        ({"backend": "cuda"}, ValueError, "backend must be one of 'auto', 'cpu', 'triton', 'reference', got 'cuda'"),
    ],
)
def test_refusals(make, change, error, sentence):
    arguments = {k: v.float() for k, v in make(2, (6,), 3, 2).items()}
    with pytest.raises(error, match=sentence):
        selective_scan(**{**arguments, **change})


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"axis": 2}, r"axis must lie in \[-2, 1\] for 2 grid axes, got 2"),
        ({"lines": "both"}, "lines must be one of 'joined', 'separate', got 'both'"),
        ({"boundary": "wrap"}, "boundary must be one of 'zero', 'periodic', got 'wrap'"),
        (
            {"boundary": "periodic", "initial_state": torch.rand(2, 3, 2)},
            "periodic boundary determines the initial state",
        ),
        ({"lines": "separate", "initial_state": torch.rand(2, 3, 2)}, r"initial_state must have shape \(2, 4, 3, 2\)"),
    ],
)
def test_grid_refusals(make, options, sentence):
    arguments = {k: v.float() for k, v in make(2, (4, 5), 3, 2).items()}
    with pytest.raises(ValueError, match=sentence):
        grid_scan(**arguments, **options)


def test_grid_needs_one_to_three_axes(make):
    with pytest.raises(ValueError, match=r"1 to 3 grid axes, got \(2, 1, 1, 1, 2, 3\)"):
        grid_scan(**make(2, (1, 1, 1, 2), 3, 2))


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_negative_step_or_rate(make, backend):
    arguments = make(3, (40,), 37, 2)
    for name, index, sentence in (
        ("dt", (2, 39, 36), "dt must be non-negative .* smallest value is -0.25"),
        ("a", (36, 1), "a must be non-negative .* smallest value is -0.25"),
    ):
        wrong = {k: v.clone() for k, v in arguments.items()}
        wrong[name][index] = -0.25
        with pytest.raises(ValueError, match=sentence):
            selective_scan(**wrong, backend=backend)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_half_precision_computes_in_float32(make, backend, half):
    arguments = {k: v.to(half if k in ("x", "B", "C") else torch.float32) for k, v in make(2, (50,), 5, 3).items()}
    arguments["x"].requires_grad_()
    y, state = selective_scan(**arguments, return_state=True, backend=backend)
    assert (y.dtype, state.dtype) == (half, torch.float32)
    exact = selective_scan(**{k: v.float() for k, v in arguments.items()}, backend=backend)
    torch.testing.assert_close(y.float(), exact, rtol=torch.finfo(half).eps, atol=0)
    y.sum().backward()
    assert arguments["x"].grad.dtype == half


def test_autocast_leaves_the_scan_in_float32(make):
    arguments = {k: v.float() for k, v in make(2, (50,), 5, 3).items()}
    expected = selective_scan(**arguments)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(selective_scan(**arguments), expected)


def test_one_float64_argument_makes_it_float64(make):
    arguments = make(2, (10,), 3, 2)
    mixed = {k: v if k == "a" else v.float() for k, v in arguments.items()}
    y, state = selective_scan(**mixed, return_state=True)
    assert (y.dtype, state.dtype) == (torch.float32, torch.float64)


def test_unusable_compiler_is_said_once(make, monkeypatch):
    arguments = make(1, (4,), 2, 2)
    monkeypatch.setattr(cpu, "unavailable", lambda: "numba is on holiday")
    warn_once.cache_clear()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for _ in range(2):
            y = selective_scan(**arguments)
    assert len(seen) == 1
    assert torch.equal(y, selective_scan(**arguments, backend="reference"))
    assert "slow reference loop, because numba is on holiday" in str(seen[0].message)
    assert seen[0].filename == __file__
    with pytest.raises(RuntimeError, match="backend 'cpu' cannot run: numba is on holiday"):
        selective_scan(**arguments, backend="cpu")
    warn_once.cache_clear()


def test_layers_without_a_compiler_say_so_once(monkeypatch):
    monkeypatch.setattr(cpu, "unavailable", lambda: "numba is on holiday")
    warn_once.cache_clear()
    x, weight = torch.rand(600, 2), torch.rand(2, 2)
    with pytest.warns(UserWarning, match="fused layers run as plain PyTorch, because numba is on holiday") as seen:
        y = [kinn.ops.channel_mix(x, x, weight, None) for _ in range(2)]
    assert len(seen) == 1
    assert seen[0].filename == __file__
    monkeypatch.undo()
    torch.testing.assert_close(y[0], kinn.ops.channel_mix(x, x, weight, None))
    warn_once.cache_clear()


def test_cpu_backend_wants_cpu_tensors(make):
    with pytest.raises(ValueError, match="backend 'cpu' takes CPU tensors, got meta"):
        selective_scan(**{k: v.to("meta") for k, v in make(1, (4,), 2, 2).items()}, backend="cpu")


def test_triton_backend_wants_cuda_tensors(make, monkeypatch):
    monkeypatch.setattr(triton, "interpreted", lambda: False)
    with pytest.raises(ValueError, match="backend 'triton' takes CUDA tensors, got cpu"):
        selective_scan(**make(1, (4,), 2, 2), backend="triton")


def test_an_old_triton_is_named(monkeypatch):
    module = pytest.importorskip("triton")
    for version, refused in (("3.4.0", True), ("3.5.1+git1", False), ("3.10.0", False)):
        monkeypatch.setattr(module, "__version__", version)
        reason = available._unavailable.__wrapped__()
        assert reason == (f"Triton {version} is older than 3.5" if refused else None)


def test_a_triton_that_cannot_reach_the_gpu_is_named_before_its_first_kernel(monkeypatch):
    """In an image without a C compiler its driver cannot be built; AMD's GPUs call themselves cuda, too."""
    module = pytest.importorskip("triton")

    class NoCompiler:
        @property
        def active(self):
            raise RuntimeError("Failed to find C compiler")

    monkeypatch.setattr(available, "_emulated", lambda kernel: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(module.runtime, "driver", NoCompiler())
    reason = available._unavailable.__wrapped__()
    assert reason == "Triton cannot be used (RuntimeError: Failed to find C compiler)"
    monkeypatch.setattr(torch.version, "hip", "6.2")
    assert "for NVIDIA's GPUs" in available._unavailable.__wrapped__()


def test_missing_triton_is_said_and_costs_the_cpu_nothing():
    """In a fresh process without Triton: the reason is named, and scans on a CPU neither want it nor look for it."""
    code = """
import sys
sys.modules["triton"] = None
import torch, kinn.ops
from kinn.ops import backends, triton
ones = torch.ones(1, 3, 1)
kinn.ops.selective_scan(ones, ones, torch.ones(1, 1), ones, ones)
assert "kinn.ops.triton._kernels" not in sys.modules
assert "Triton cannot be used (ModuleNotFoundError" in triton.unavailable(), triton.unavailable()
try:
    backends.backend_for("scan", "triton", torch.device("cuda"))
except RuntimeError as error:
    assert "backend 'triton' cannot run: Triton cannot be used" in str(error), error
else:
    raise AssertionError("not refused")
"""
    environment = {k: v for k, v in _environment().items() if k != "TRITON_INTERPRET"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def test_works_without_a_compiler_and_import_is_light():
    """In a fresh process: importing kinn.ops does not import numba, and a scan without its compiler still runs."""
    code = """
import sys, warnings, kinn.ops, torch
assert "numba" not in sys.modules
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    ones = torch.ones(1, 3, 1)
    kinn.ops.selective_scan(ones, ones, torch.ones(1, 1), ones, ones)
assert any("NUMBA_DISABLE_JIT" in str(w.message) for w in seen), seen
"""
    subprocess.run([sys.executable, "-c", code], check=True, env={**_environment(), "NUMBA_DISABLE_JIT": "1"})


def test_a_compiler_that_fails_is_done_without():
    """Numba that imports and then cannot compile: LLVM may lack the processor, or memory that may be run."""
    code = """
import numba, torch, warnings
from numba.core.errors import LoweringError
def fail(*args, **options):
    raise LoweringError("no code")
numba.core.dispatcher.Dispatcher.compile = fail
import kinn.ops
ones = torch.ones(1, 3, 1)
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    for _ in range(2):
        kinn.ops.selective_scan(ones, ones, torch.ones(1, 1), ones, ones)
assert sum("numba cannot be used (LoweringError: no code" in str(w.message) for w in seen) == 1, seen
"""
    subprocess.run([sys.executable, "-c", code], check=True, env=_environment())


def test_compilation_is_announced_and_survives_without_a_cache(tmp_path):
    """Compiling says so on stderr; a cache folder that cannot be made costs the cache, not the result."""
    code = """
import torch
from kinn.ops.cpu import mix_cpu  # the smallest kernel
for _ in range(2):
    mix_cpu(torch.ones(600, 2), torch.ones(600, 2), torch.ones(2, 2), None, False)
"""
    environment = {**_environment(), "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    first = subprocess.run([sys.executable, "-c", code], check=True, env=environment, capture_output=True, text=True)
    assert first.stderr.count("kinn: compiling the CPU kernels") == 1
    again = subprocess.run([sys.executable, "-c", code], check=True, env=environment, capture_output=True, text=True)
    assert "compiling" not in again.stderr
    nowhere = "import numba.core.caching; numba.core.caching.CacheImpl._locator_classes = []\n" + code
    without = subprocess.run([sys.executable, "-c", nowhere], capture_output=True, text=True)
    assert without.returncode == 0, without.stderr
    assert without.stderr.count("kinn: compiling the CPU kernels") == 1


def test_fast_path_is_silent(make):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        selective_scan(**make(1, (4,), 2, 2))
    assert cpu.unavailable() is None


def _environment() -> dict[str, str]:
    import os

    return {k: v for k, v in os.environ.items() if not k.startswith("NUMBA_")}
