"""What a run says while it works: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
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
        self.console = Console(quiet=quiet or sys.stdout is None, highlight=False, soft_wrap=True)
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
        self._live = self.console.is_terminal and not self.console.quiet
        self._stage = ""
        self._total = self._done = self._found = 0
        self._task = self._bars.add_task("", total=None, visible=False) if self._live else None
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

    def stage(self, name: str, total: int) -> None:
        """Begin a stage of `total` steps."""
        self._stage, self._total, self._done, self._found = name, total, 0, 0
        self._began = self._last_line = time.monotonic()
        if self._task is not None:
            self._bars.reset(self._task, total=total, description=name, visible=True)

    def rest(self) -> None:
        """Take the live line away until the next stage."""
        if self._task is not None:
            self._bars.update(self._task, visible=False, refresh=True)

    def step(self, count: int = 1) -> None:
        """`count` more steps of the stage are done; several at once were found done and tell nothing of the speed."""
        self._done += count
        self._found += count if count > 1 else 0
        if self._task is not None:
            self._bars.update(self._task, completed=self._done)
        elif time.monotonic() - self._last_line >= _PLAIN_INTERVAL:
            self._last_line = time.monotonic()
            elapsed = self._last_line - self._began
            left = elapsed / max(1, self._done - self._found) * max(0, self._total - self._done)
            self.say(f"{self._stage}: {self._done} of {self._total}, {duration(left)} left")

    def say(self, message: str) -> None:
        """A line that stays, with the time since the start."""
        elapsed = duration(time.monotonic() - self._start)
        self._print(f"[dim]{elapsed:>7}[/dim]  {escape(message)}", markup=True)

    def show(self, renderable: object) -> None:
        """Show a table or text as it is."""
        self._print(renderable, markup=False)

    def _print(self, renderable: object, *, markup: bool) -> None:
        """Print while somebody listens: a closed pipe or a full log is no reason to stop hours of work."""
        if self.console.quiet:
            return
        try:
            self.console.print(renderable, markup=markup)
            sys.stdout.flush()
        except (OSError, SystemExit):  # rich turns a closed pipe into SystemExit
            self.console.quiet = True
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (for the rest of the process)


def duration(seconds: float) -> str:
    """Seconds as people say them: ``8 s``, ``2 m 05 s``, ``3 h 20 m``."""
    total = round(seconds)
    if total < 60:
        return f"{total} s"
    if total < 3600:
        return f"{total // 60} m {total % 60:02d} s"
    return f"{total // 3600} h {total % 3600 // 60:02d} m"
