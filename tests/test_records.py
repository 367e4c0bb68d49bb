from __future__ import annotations

import json
import math
import os
import subprocess
import sys

import pytest
import torch

from kinn.files import atomic_file
from kinn.records import hardware, plain, versions, write_record


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


def test_an_interrupted_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write():
        with atomic_file(path) as file:
            file.write(b"half of the n")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_new_files_have_ordinary_rights(tmp_path):
    (tmp_path / "ordinary").write_text("")
    with atomic_file(tmp_path / "ours") as file:
        file.write(b"x")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "ordinary").stat().st_mode


def test_machine_and_versions_are_plain():
    json.dumps([hardware(), versions()])
    assert hardware()["threads"] == torch.get_num_threads()
    assert versions()["torch"].startswith(torch.__version__.split("+")[0])


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
