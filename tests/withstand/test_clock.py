"""Clocks that jump by years, and files from the future."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from nat2.progress import Progress, duration
from tests.withstand.conftest import assert_same
from tests.zygote import Zygote

YEAR = 365 * 24 * 3600


def test_a_run_does_not_care_what_day_it_is(
    small: list[str], reference: Path, pace: float, zygote: Zygote, tmp_path: Path
) -> None:
    """Every look at the clock is another year, and behind a kill all files are from the future or from long ago."""
    out = tmp_path / "run"
    ended = zygote.run(*small, "--out", str(out), jumping=True, kill_after=2.5 * pace)
    assert ended.code == -9, ended
    for number, path in enumerate(sorted(path for path in out.rglob("*") if path.is_file())):
        moment = time.time() + 20 * YEAR if number % 2 else 1.0
        os.utime(path, (moment, moment))
    ended = zygote.run(*small, "--out", str(out), jumping=True)
    assert (ended.code, ended.errors) == (0, "")
    assert_same(out, reference)
    took = next(line for line in ended.output.splitlines() if "time:" in line)
    assert "h" not in took.replace("the", "")  # seconds or minutes, not years


@pytest.mark.parametrize("years", [-50, -1, 1, 50, 1000])
def test_no_wait_becomes_a_year(years: int, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = time.time
    monkeypatch.setattr(time, "time", lambda: clock() + years * YEAR)
    with Progress(quiet=True) as progress:
        progress.stage("train", steps=10)
        for _ in range(10):
            progress.step()
    assert duration(years * YEAR)


def test_a_finished_run_from_the_future_is_a_finished_run(small: list[str], reference: Path, zygote: Zygote) -> None:
    for path in reference.rglob("*"):
        os.utime(path, (time.time() + YEAR, time.time() + YEAR))
    ended = zygote.run(*small, "--out", str(reference))
    assert ended.code == 0
    assert "finished run" in ended.output
