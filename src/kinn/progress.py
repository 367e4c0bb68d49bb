"""A progress bar with an estimate of the time left, or plain lines where there is no terminal."""

from __future__ import annotations

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

_LINE_EVERY = 15.0  # seconds between two plain lines
_DRAW_EVERY = 0.1


class ProgressBar:
    """Progress of one piece of work, drawn to stderr.

    Args:
        title: what is being done.
        total: units of work in all.
        unit: what a unit is, in the plural.
        console: where to draw; by default stderr. Where it is no terminal, a plain line appears now and then.

    Example:
        >>> import io
        >>> out = io.StringIO()
        >>> with ProgressBar("Counting", total=2, unit="numbers", console=Console(file=out)) as bar:
        ...     bar.update(2)
        >>> print(out.getvalue().strip())
        Counting: 2/2 numbers, ...
    """

    def __init__(self, title: str, total: int, *, unit: str = "steps", console: Console | None = None) -> None:
        self.title, self.total, self.unit = title, total, unit
        self.console = console or Console(file=sys.stderr)
        self._started, self._first, self._drawn = time.monotonic(), None, 0.0
        what, text = (TextColumn(field, markup=False) for field in ("{task.description}", "{task.fields[text]}"))
        columns = what, BarColumn(bar_width=28), text
        self._bar = Progress(*columns, console=self.console) if self.console.is_terminal else None
        self._task = None if self._bar is None else self._bar.add_task(title, total=total, text="")

    def __enter__(self) -> ProgressBar:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave the bar as it stands."""
        if self._bar is not None:
            self._bar.stop()

    def due(self) -> bool:
        """Whether an update would be drawn now; saves the work of composing its text."""
        return time.monotonic() - self._drawn >= (_LINE_EVERY if self._bar is None else _DRAW_EVERY)

    def update(self, done: int, text: str = "") -> None:
        """Say how far the work is.

        Args:
            done: units done so far. The first call may start above 0, when the work was resumed.
            text: what else to show.
        """
        now = time.monotonic()
        if self._first is None:
            self._first = (done, now) if done < self.total else (0, self._started)
            if self._bar is None:
                self._drawn = now
        if done < self.total and not self.due():
            return
        self._drawn = now
        shown = f"{done}/{self.total} {self.unit}, {self._time(done, now)}" + (f"   {text}" if text else "")
        if self._bar is None:
            self.console.print(f"{self.title}: {shown}", soft_wrap=True, highlight=False, markup=False)
        else:
            assert self._task is not None
            self._bar.update(self._task, completed=done, total=self.total, text=shown)

    def report(self, done: int, total: int) -> None:
        """Say how far the work is, and how much there is in all: for those who learn that only as they go."""
        self.total = total
        self.update(done)

    def _time(self, done: int, now: float) -> str:
        assert self._first is not None
        if done >= self.total:
            return f"took {clock(now - self._started)}"
        # from the first report on: what came before it is set-up, such as compiling
        start, since = self._first
        if done <= start:
            return "estimating the time left"
        return f"about {clock((now - since) / (done - start) * (self.total - done))} left"


def clock(seconds: float) -> str:
    """A duration for people.

    Example:
        >>> clock(7), clock(83), clock(7500)
        ('7 s', '1:23 min', '2:05 h')
    """
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60}:{seconds % 60:02d} min"
    return f"{seconds // 3600}:{seconds % 3600 // 60:02d} h"
