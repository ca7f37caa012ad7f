"""How the hostile user attacks: the command line in this process, and in processes that can be killed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from nat2.cli import main

LINES = 12  # of a refusal; the parser's own has its usage, a tip and the reasons
LETTERS = 6000
RecordProperty = Callable[[str, object], None]
"""pytest's fixture `record_property`."""


@dataclass(frozen=True)
class Answer:
    """What came back from the command line."""

    code: int
    output: str
    errors: str
    seconds: float


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> Answer:
    """What the command line says and exits with; any other end than an exit fails the test."""
    capsys.readouterr()
    began = time.perf_counter()
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    captured = capsys.readouterr()
    return Answer(int(stop.value.code or 0), captured.out, captured.err, time.perf_counter() - began)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str, lines: int = LINES) -> str:
    """The message with which a command is refused: short, in words, with exit code 2, and soon."""
    given = answer(capsys, *arguments)
    assert given.code == 2, given
    assert given.errors.strip()
    assert "Traceback" not in given.errors
    assert len(given.errors.splitlines()) <= lines, given.errors
    assert len(given.errors) <= LETTERS
    assert given.seconds < 60  # an alarm against hangs on a machine however busy, not a measurement
    return given.errors


class BegunError(Exception):
    """A run that ought to have been refused was begun."""


def nothing_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a run stop where its training would begin."""

    def begin(*arguments: object, **options: object) -> None:
        raise BegunError

    monkeypatch.setattr("nat2.pipeline.api.RunContext.of", begin)


def flipped(content: bytes, positions: Iterator[int], bits: Iterator[int]) -> bytes:
    """Content with a bit changed at each position."""
    changed = bytearray(content)
    for position, bit in zip(positions, bits, strict=False):
        changed[position % len(changed)] ^= 1 << bit % 8
    return bytes(changed)


class Bomb:
    """Touches a file when it is unpickled by whoever runs what a pickle names."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return exec, (f"open({str(self.marker)!r}, 'w').close()",)
