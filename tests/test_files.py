"""Files are complete or absent, never half-written."""

from __future__ import annotations

import errno
import stat

import pytest

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
