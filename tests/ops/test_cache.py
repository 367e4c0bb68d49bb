"""Kernels' code on disk: kept, compiled again when it is damaged, never in the way."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys

import numba
import pytest

from kinn.ops.cpu import cache
from kinn.ops.cpu.cache import kept

SOURCE = """
from kinn.ops.cpu.cache import kernel

@kernel
def add(x, y):
    return x + y
"""


@pytest.fixture
def load(tmp_path, monkeypatch):
    """The kernel as a new process meets it."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "add_kernel.py").write_text(SOURCE)

    def load():
        sys.modules.pop("add_kernel", None)
        return importlib.import_module("add_kernel").add

    yield load
    sys.modules.pop("add_kernel", None)


def hits(dispatcher):
    return sum(dispatcher.stats.cache_hits.values())


def test_code_is_kept_from_process_to_process(load):
    first, second = load(), load()
    assert first(1, 2) == second(1, 2) == 3
    assert kept(first)
    assert (hits(first), hits(second)) == (0, 1)


def test_a_change_of_what_kernels_inline_asks_for_new_code(load, monkeypatch):
    load()(1, 2)
    monkeypatch.setattr(cache, "_parts", lambda: "changed")
    again, after = load(), load()
    assert again(1, 2) == after(1, 2) == 3
    assert (hits(again), hits(after)) == (0, 1)


@pytest.mark.parametrize("ending", ["nbi", "nbc"])
@pytest.mark.parametrize("content", [b"", b"\x80\x05nonsense"])
def test_a_damaged_file_is_replaced(load, tmp_path, ending, content):
    load()(1, 2)
    for path in (tmp_path / "cache").rglob(f"*.{ending}"):
        path.write_bytes(content)
    again, after = load(), load()
    assert again(1, 2) == after(1, 2) == 3
    assert (hits(again), hits(after)) == (0, 1)


def test_code_that_cannot_be_written_is_no_failure(load, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("numba.core.caching.IndexDataCacheFile.save", full)
    assert load()(1, 2) == 3


def test_processes_that_compile_for_different_types_at_once_keep_all(load, tmp_path):
    script = "import sys, add_kernel; one = eval(sys.argv[1])(1); print(add_kernel.add(one, one))"
    places = {"NUMBA_CACHE_DIR": str(tmp_path / "cache"), "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    running = [
        subprocess.Popen(
            [sys.executable, "-c", script, kind], env={**os.environ, **places}, stdout=subprocess.PIPE, text=True
        )
        for kind in ("int", "float", "complex")
    ]
    assert [p.communicate(timeout=300)[0].strip() for p in running] == ["2", "2.0", "(2+0j)"]
    add = load()
    assert [add(kind(1), kind(1)) for kind in (int, float, complex)] == [2, 2.0, 2 + 0j]
    assert hits(add) == 3
