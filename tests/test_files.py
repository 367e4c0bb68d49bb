"""Files are complete or absent, never half-written."""

from __future__ import annotations

import errno
import stat
from pathlib import Path

import pytest

from kinn import files
from kinn.files import atomic_file, write_text


@pytest.mark.parametrize(
    ("failure", "message"),
    [(OSError(errno.ENOSPC, "disk full"), r"disk full: '.*a\.txt'"), (KeyboardInterrupt(), None)],
)
def test_a_failure_leaves_the_old_file_and_no_other(tmp_path, failure, message):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(type(failure), match=message), atomic_file(path) as file:
        file.write(b"new")
        raise failure
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_nothing_stands_under_the_final_name_until_the_end(tmp_path):
    path = tmp_path / "folder" / "a.txt"
    with atomic_file(path) as file:
        file.write(b"whole")
        assert not path.exists()
    assert path.read_bytes() == b"whole"


def test_files_have_the_usual_permissions(tmp_path):
    (tmp_path / "usual").touch()
    write_text(tmp_path / "ours", "")
    assert stat.S_IMODE((tmp_path / "ours").stat().st_mode) == stat.S_IMODE((tmp_path / "usual").stat().st_mode)


def test_a_mount_without_modes_keeps_files(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "chmod", refuse)
    write_text(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").read_text() == "new"


@pytest.mark.parametrize("refusals", [2, 3])
def test_a_file_that_another_program_has_open_is_waited_for_as_windows_needs(tmp_path, monkeypatch, refusals):
    path, replace, calls = tmp_path / "a.txt", Path.replace, []

    def busy(self, target):
        calls.append(target)
        if len(calls) <= refusals:
            raise PermissionError(errno.EACCES, "Access is denied")
        return replace(self, target)

    write_text(path, "old")
    monkeypatch.setattr(files, "_PAUSES", (0, 0))
    monkeypatch.setattr(Path, "replace", busy)
    if refusals == 2:
        write_text(path, "new")
        assert path.read_text() == "new"
    else:
        with pytest.raises(PermissionError):
            write_text(path, "new")
        assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
