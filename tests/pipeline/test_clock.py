"""What each stage has taken, in the run folder."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from nat2.pipeline.clock import StageClock
from nat2.runs.folder import RunFolder


class Clock:
    """A time that passes when it is told to."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock.monotonic)
    return clock


def test_a_stage_is_accounted_for_at_each_lap_and_at_its_end(tmp_path: Path, clock: Clock) -> None:
    with RunFolder(tmp_path) as folder:
        stages = StageClock(folder)
        with stages.timed("train"):
            clock.now += 5
            assert folder.seconds() == {}
            stages.lap()
            assert folder.seconds() == {"train": 5.0}  # a kill now would lose nothing
            clock.now += 2
        assert folder.seconds() == {"train": 7.0}
        clock.now += 50  # between stages
        with stages.timed("search"):
            clock.now += 1
        with stages.timed("train"):
            clock.now += 3
        assert folder.seconds() == {"train": 10.0, "search": 1.0}


def test_a_stage_that_fails_is_accounted_for_and_what_comes_after_it_is_not(tmp_path: Path, clock: Clock) -> None:
    def fail() -> None:
        clock.now += 4
        raise KeyboardInterrupt

    with RunFolder(tmp_path) as folder:
        stages = StageClock(folder)
        with pytest.raises(KeyboardInterrupt), stages.timed("train"):
            fail()
        clock.now += 9
        stages.lap()
        assert folder.seconds() == {"train": 4.0}


def test_processes_beside_the_first_write_nothing(tmp_path: Path, clock: Clock) -> None:
    with RunFolder(tmp_path) as folder:
        stages = StageClock(None)
        with stages.timed("train"):
            clock.now += 4
            stages.lap()
        assert folder.seconds() == {}
