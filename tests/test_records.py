from __future__ import annotations

import json
import math
import subprocess
import sys

import pytest
import torch

from kinn.records import hardware, peak_memory, plain, reset_peak_memory, versions, write_record


def test_record_is_strict_json(tmp_path):
    record = {"metrics": {"a": math.inf, "b": torch.tensor(float("nan")), "c": 0.5}, "shape": (1, 2), "path": tmp_path}
    write_record(tmp_path / "r.json", record)
    text = (tmp_path / "r.json").read_text()
    found = json.loads(text, parse_constant=pytest.fail)
    assert found.pop("hardware") == hardware()
    assert found.pop("versions") == versions()
    assert found.pop("date").endswith("Z")
    assert found == {
        "schema": 1,
        "metrics": {"a": None, "b": None, "c": 0.5},
        "shape": [1, 2],
        "path": str(tmp_path),
    }


def test_what_is_no_json_leaves_no_file(tmp_path):
    with pytest.raises(TypeError):
        write_record(tmp_path / "r.json", {"x": object()})
    assert not list(tmp_path.iterdir())


def test_plain_keeps_integers_and_booleans():
    assert plain({"n": 3, "b": True, "s": "x", "none": None}) == {"n": 3, "b": True, "s": "x", "none": None}


def test_machine_and_versions_are_plain():
    json.dumps([hardware(), versions()])
    assert hardware()["threads"] == torch.get_num_threads()
    assert versions()["torch"].startswith(torch.__version__.split("+")[0])


def test_peak_memory_takes_no_context_on_a_gpu_that_is_not_in_use(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    reset_peak_memory()
    assert set(peak_memory()) == {"peak_rss_bytes"}


def test_peak_memory_sees_a_large_tensor_and_forgets_it():
    # in a process of its own: here, memory freed by other tests would be used again
    script = (
        "import torch; from kinn.records import peak_memory, reset_peak_memory\n"
        "before = peak_memory()['peak_rss_bytes']\n"
        "block = torch.ones(64 * 2**20 // 4); grown = peak_memory()['peak_rss_bytes'] - before; del block\n"
        "reset_peak_memory(); kept = peak_memory()['peak_rss_bytes'] - before; print(grown, kept)"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    grown, kept = map(int, found.stdout.split())
    assert grown > 32 * 2**20
    assert kept < grown // 2 or not sys.platform.startswith("linux")
