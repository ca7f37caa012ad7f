"""What a run says while it works: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

_PLAIN_INTERVAL = 10.0  # seconds between two plain lines of the same stage


class Progress:
    """Stage, step and time left, and messages that stay on the screen.

    A context manager; one stage is shown at a time.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        """Write to standard output, or nowhere if `quiet`."""
        self.console = Console(quiet=quiet, highlight=False, soft_wrap=True)
        self._bars = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
        )
        self._live = self.console.is_terminal and not quiet
        self._stage = ""
        self._total = self._done = self._first = 0
        self._task = self._bars.add_task("", total=None) if self._live else None
        self._began = self._last_line = time.monotonic()
        self._start = self._began

    def __enter__(self) -> Progress:
        """Show the live line, on a terminal."""
        if self._live:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take the live line away."""
        if self._live:
            self._bars.stop()

    def stage(self, name: str, total: int, *, done: int = 0) -> None:
        """Begin a stage of `total` steps, `done` of which were made before."""
        self._stage, self._total, self._done, self._first = name, total, done, done
        self._began = self._last_line = time.monotonic()
        if self._task is not None:
            self._bars.reset(self._task, total=total, completed=done, description=name)

    def step(self, count: int = 1) -> None:
        """`count` more steps of the stage are done."""
        self._done += count
        if self._task is not None:
            self._bars.update(self._task, completed=self._done)
        elif time.monotonic() - self._last_line >= _PLAIN_INTERVAL:
            self._last_line = time.monotonic()
            elapsed = self._last_line - self._began
            left = elapsed / max(1, self._done - self._first) * (self._total - self._done)
            self.say(f"{self._stage}: {self._done} of {self._total}, {duration(left)} left")

    def say(self, message: str) -> None:
        """A line that stays, with the time since the start."""
        elapsed = duration(time.monotonic() - self._start)
        self.console.print(f"[dim]{elapsed:>7}[/dim]  {escape(message)}")
        sys.stdout.flush()

    def show(self, renderable: object) -> None:
        """Show a table or text as it is."""
        self.console.print(renderable, markup=False)
        sys.stdout.flush()


def duration(seconds: float) -> str:
    """Seconds as people say them: ``8 s``, ``2 m 05 s``, ``3 h 20 m``."""
    total = round(seconds)
    if total < 60:
        return f"{total} s"
    if total < 3600:
        return f"{total // 60} m {total % 60:02d} s"
    return f"{total // 3600} h {total % 3600 // 60:02d} m"
