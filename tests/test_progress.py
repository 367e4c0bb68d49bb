from __future__ import annotations

import io

import pytest
from rich.console import Console

from kinn import progress
from kinn.progress import ProgressBar


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_time_left_counts_from_the_first_report(clock):
    out = io.StringIO()
    with ProgressBar("Work", total=100, unit="samples", console=Console(file=out, width=40)) as bar:
        clock[0] = 50.0  # set-up
        bar.update(10)
        clock[0] = 70.0
        bar.update(20, "fine")
        clock[0] = 230.0
        bar.update(100)
    assert out.getvalue().splitlines() == [
        "Work: 20/100 samples, about 2:40 min left   fine",
        "Work: 100/100 samples, took 3:50 min",
    ]


def test_a_terminal_gets_a_bar(clock):
    out = io.StringIO()
    with ProgressBar("Work", total=4, console=Console(file=out, force_terminal=True, width=100)) as bar:
        bar.update(1)
        clock[0] = 1.0
        bar.update(2, "[loss]")
    assert "about 2 s left" in out.getvalue()
    assert "\x1b[" in out.getvalue()
