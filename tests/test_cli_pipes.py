"""The command line whose reader, or whose worker, goes away."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import pytest

from kinn.cli import main


def test_a_reader_that_has_seen_enough_is_no_error():
    script = (
        "import sys, kinn.cli\nkinn.cli._parser = lambda _: print('x' * 100_000)\nsys.exit(kinn.cli.main(['train']))"
    )
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-c", script], stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


def test_another_pipe_that_breaks_is_an_error(monkeypatch, capsys):
    def broken(_):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr("kinn.cli._parser", broken)
    assert main(["train"]) == 2
    assert "connection to another process broke, which ended early: Broken pipe" in capsys.readouterr().err
    with pytest.raises(BrokenPipeError):
        main(["train", "--debug"])
