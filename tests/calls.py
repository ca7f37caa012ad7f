"""What a long computation reports, passed on to functions of a test."""

from __future__ import annotations

from collections.abc import Callable

from nat2.progress import Reporter


class Calls(Reporter):
    """Passes on lines and steps."""

    def __init__(self, say: Callable[[str], object] | None = None, tick: Callable[[int], object] | None = None) -> None:
        self._say, self._tick = say, tick

    def say(self, message: str) -> None:
        if self._say is not None:
            self._say(message)

    def step(self, count: int = 1, *, unit: str = "") -> None:
        if self._tick is not None:
            self._tick(count)
