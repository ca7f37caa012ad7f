"""Progress of a run: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress

_PLAIN_INTERVAL = 10.0  # seconds between two plain lines of the same stage


class FoundDone(int):
    """A number of steps done earlier, by a run that was interrupted: they say nothing about the speed."""


@dataclass
class _Tally:
    """Steps of one unit."""

    total: int
    done: int = 0
    timed: int = 0
    """Steps done in this process, whose time is known."""
    seconds: float = 0.0
    """Time that the timed steps took."""

    @property
    def left(self) -> float | None:
        """Estimated seconds for the remaining steps; None before the first timed one."""
        open_steps = max(0, self.total - self.done)
        if not open_steps:
            return 0.0
        return open_steps * self.seconds / self.timed if self.timed else None


class Reporter:
    """Receives the progress of a long computation; this base class shows nothing."""

    def stage(self, name: str, **totals: int) -> None:
        """Begin a stage.

        Args:
            name: Shown to the user.
            totals: Number of steps of each unit: ``networks=40, steps=200``.
        """

    def step(self, count: int = 1, *, unit: str = "") -> None:
        """Report that `count` more steps of the stage are done.

        Args:
            count: Number of steps; `FoundDone` for steps done in an earlier run.
            unit: One of the stage's; the first by default.
        """

    def rest(self) -> None:
        """Report that the stage is over and that the next one does not follow immediately."""

    def say(self, message: str) -> None:
        """Report a line that stays on the screen."""


SILENT = Reporter()
"""Reports nothing."""


class Progress(Reporter):
    """Shows stage, steps and time left, and messages that stay on the screen.

    A context manager; one stage is shown at a time.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        """Write to standard output, or nowhere if `quiet`."""
        # A notebook would put each line into a separate display; as plain output they stay together.
        self.console = Console(quiet=quiet or sys.stdout is None, highlight=False, soft_wrap=True, force_jupyter=False)
        self._bars = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[state]}"),
            TimeElapsedColumn(),
            console=self.console,
            transient=True,
        )
        self._live = self.console.is_terminal and not self.console.quiet
        self._stage = ""
        self._tallies: dict[str, _Tally] = {}
        self._task = self._bars.add_task("", total=None, visible=False, state="") if self._live else None
        self._start = self._last_line = self._last_step = time.monotonic()

    def __enter__(self) -> Progress:
        """Show the live line, on a terminal."""
        if self._live:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the live line."""
        if self._live:
            self._bars.stop()

    def stage(self, name: str, **totals: int) -> None:
        """Begin a stage, see `Reporter.stage`."""
        self._stage = name
        self._tallies = {unit: _Tally(total) for unit, total in totals.items() if total}
        self._last_line = self._last_step = time.monotonic()
        if self._task is not None:
            self._bars.reset(
                self._task, total=sum(totals.values()), description=name, visible=True, state=self._state()
            )

    def rest(self) -> None:
        """Remove the live line until the next stage."""
        if self._task is not None:
            self._bars.update(self._task, visible=False, refresh=True)

    def step(self, count: int = 1, *, unit: str = "") -> None:
        """Count steps of the stage, see `Reporter.step`."""
        now = time.monotonic()
        tally = self._tallies.get(unit) or next(iter(self._tallies.values()), None)
        if tally is None or not count:
            return
        tally.done += count
        if not isinstance(count, FoundDone):
            tally.timed += count
            tally.seconds += now - self._last_step
        self._last_step = now
        if self._task is not None:
            done = sum(each.done for each in self._tallies.values())
            self._bars.update(self._task, completed=done, state=self._state())
        elif now - self._last_line >= _PLAIN_INTERVAL:
            self._last_line = now
            self.say(f"{self._stage}: {self._state()}")

    def _state(self) -> str:
        """Counts with their units, and the time left if it is known: ``12 of 40 networks, 2 m 05 s left``."""
        counts = ", ".join(f"{each.done} of {each.total} {unit}" for unit, each in self._tallies.items())
        left = [each.left for each in self._tallies.values()]
        known = [each for each in left if each is not None]
        return f"{counts}, {duration(sum(known))} left" if known and len(known) == len(left) else counts

    def say(self, message: str) -> None:
        """Print a line that stays, with the time since the start."""
        elapsed = duration(time.monotonic() - self._start)
        self._print(f"[dim]{elapsed:>7}[/dim]  {escape(message)}", markup=True)

    def show(self, renderable: object) -> None:
        """Print a table or text as it is."""
        self._print(renderable, markup=False)

    def _print(self, renderable: object, *, markup: bool) -> None:
        """Print as long as possible: a closed pipe or a full log is no reason to stop hours of work."""
        if self.console.quiet:
            return
        try:
            self.console.print(renderable, markup=markup)
            sys.stdout.flush()
        except (OSError, SystemExit):  # rich turns a closed pipe into SystemExit
            self.console.quiet = True
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (for the rest of the process)


def duration(seconds: float) -> str:
    """Seconds in readable form: ``8 s``, ``2 m 05 s``, ``3 h 20 m``."""
    total = round(seconds)
    if total < 60:
        return f"{total} s"
    if total < 3600:
        return f"{total // 60} m {total % 60:02d} s"
    return f"{total // 3600} h {total % 3600 // 60:02d} m"
