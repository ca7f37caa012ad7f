"""The account in a run folder of what each stage has taken."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from nat2.runs.folder import RunFolder


class StageClock:
    """Measures the stages of a run, one after the other."""

    def __init__(self, folder: RunFolder | None) -> None:
        """Write to the folder's account; without one, in processes other than the first, nothing is written."""
        self._folder, self._stage, self._began = folder, "", 0.0

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Account for a stage, however it ends."""
        self._stage, self._began = stage, time.monotonic()
        try:
            yield
        finally:
            self.lap()
            self._stage = ""

    def spent(self) -> float:
        """Seconds of all stages up to now, interruptions left out; 0 in processes other than the first."""
        if self._folder is None:
            return 0.0
        self.lap()
        return sum(self._folder.seconds().values())

    def lap(self) -> None:
        """Account for the stage up to now, so that a kill does not lose it."""
        now = time.monotonic()
        if self._folder is not None and self._stage:
            self._folder.add_seconds(self._stage, now - self._began)
        self._began = now
