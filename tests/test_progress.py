"""What a run says of its progress."""

from __future__ import annotations

import time

import pytest

from nat2.progress import FoundDone, Progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [line[9:].strip() for line in capsys.readouterr().out.splitlines()]


def test_counts_have_units_and_found_work_tells_nothing_of_the_speed(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with Progress() as progress:
        progress.stage("search", evaluations=392)
        clock[0] += 60
        progress.step(FoundDone(380))
        for _ in range(11):
            clock[0] += 2
            progress.step()
    assert lines(capsys)[-1] == "search: 390 of 392 evaluations, 4 s left"


def test_a_single_step_can_be_found_done(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with Progress() as progress:
        progress.stage("fine-tune", epochs=4)
        progress.step(FoundDone(1))
        clock[0] += 20
        progress.step()
    assert lines(capsys) == ["fine-tune: 2 of 4 epochs, 40 s left"]


def test_each_unit_has_its_own_speed(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with Progress() as progress:
        progress.stage("search", evaluations=10, steps=100)
        clock[0] += 5
        progress.step(unit="evaluations")
        clock[0] += 6
        progress.step(unit="evaluations")  # how long a step takes is not known yet
        clock[0] += 10
        progress.step(unit="steps")
    told = lines(capsys)
    assert told == [
        "search: 2 of 10 evaluations, 0 of 100 steps",
        "search: 2 of 10 evaluations, 1 of 100 steps, 17 m 14 s left",
    ]


def test_results_of_several_at_once_count_with_what_they_took_together(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with Progress() as progress:
        progress.stage("search", evaluations=16)
        for _ in range(2):
            clock[0] += 12
            for _ in range(4):
                progress.step()
    assert lines(capsys)[-1] == "search: 5 of 16 evaluations, 53 s left"


def test_nothing_of_no_stage_is_counted(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with Progress() as progress:
        clock[0] += 100
        progress.step()
        progress.stage("train", steps=0)
        clock[0] += 100
        progress.step()
    told = lines(capsys)
    progress.step()  # nor of one that is over
    assert (told, lines(capsys)) == ([], [])


def test_a_notebook_gets_plain_lines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    with Progress() as progress:
        progress.say("reading photos")
        assert not progress.console.is_jupyter
    assert capsys.readouterr().out.endswith("reading photos\n")
