"""What the attacks on whole runs share: a small run's settings, processes to run it in, and how it ends undisturbed."""

from __future__ import annotations

import csv
import functools
import inspect
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import write_corners, write_settings

KINDS = {
    "test_configurations": "malformed settings",
    "test_images": "damaged and odd images",
    "test_weights": "damaged weights and exports",
    "test_folder": "damaged archives and run folders",
    "test_pickles": "hostile pickles",
    "test_names": "odd names",
    "test_disk": "full and read-only disks",
    "test_kills": "kills, two runs at once",
    "test_clock": "clocks that jump",
}


@dataclass(frozen=True)
class Ended:
    """How a command line ended in a process of its own; its code is negative if a signal ended it."""

    code: int
    output: str
    errors: str


class Zygote:
    """Runs command lines in processes that need no time to import anything."""

    def __init__(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.withstand.zygote"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=Path(__file__).parents[2],
        )
        assert self._read() == "ready\n"

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def begin(self, *arguments: str, **options: Any) -> None:
        """Start a command line; `end` waits for it."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"arguments": arguments, **options}) + "\n")
        self._process.stdin.flush()

    def end(self) -> Ended:
        """How the command line that was begun ended."""
        return Ended(**json.loads(self._read()))

    def run(self, *arguments: str, **options: Any) -> Ended:
        """Run a command line; see `zygote` for the options."""
        self.begin(*arguments, **options)
        return self.end()

    def close(self) -> None:
        """End the process."""
        self._process.communicate(timeout=60)


@pytest.fixture(scope="session", autouse=True)
def _parsers_are_built_fast() -> Iterator[None]:
    """Half of what a refusal takes is reading our own sources for the help texts; once is enough for all of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inspect, "getsource", functools.cache(inspect.getsource))
        yield


@pytest.fixture(scope="session")
def zygote() -> Iterator[Zygote]:
    process = Zygote()
    yield process
    process.close()


@pytest.fixture(scope="session")
def other_zygote() -> Iterator[Zygote]:
    process = Zygote()
    yield process
    process.close()


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command of a small run, but for its folder."""
    root = tmp_path_factory.mktemp("small")
    data, settings = write_corners(root / "images"), write_settings(root / "settings.yaml")
    return ["run", "--config", str(settings), "--data", str(data), "--checkpoint-seconds", "0"]


@pytest.fixture(scope="session")
def reference(small: list[str], zygote: Zygote, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the small run came to its end undisturbed."""
    out = tmp_path_factory.mktemp("reference") / "run"
    began = time.monotonic()
    ended = zygote.run(*small, "--out", str(out))
    assert (ended.code, ended.errors) == (0, "")
    (out.parent / "seconds").write_text(str(time.monotonic() - began))
    return out


@pytest.fixture(scope="session")
def pace(reference: Path) -> float:
    """How slow this machine is now: seconds for what took a second where the moments of the kills were chosen."""
    return float((reference.parent / "seconds").read_text()) / 8


def rows(path: Path) -> list[dict[str, str]]:
    """A table's rows."""
    with path.open() as file:
        return list(csv.DictReader(file))


def assert_same(out: Path, reference: Path) -> None:
    """Two runs came to the same results, generation by generation."""
    for name in ("pareto.csv", "results.json", "config.yaml", "data.json", "splits.csv"):
        assert (out / name).read_text() == (reference / name).read_text(), name
    same = ("generation", "hypervolume", "archive", "evaluations", "failed", "tau", "rho", "rmse")
    for row, other in zip(rows(out / "log.csv"), rows(reference / "log.csv"), strict=True):
        assert [row[name] for name in same] == [other[name] for name in same]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """State how many cases of each kind of attack were withstood."""
    counts: Counter[str] = Counter()
    for report in terminalreporter.getreports("passed"):
        module = Path(report.nodeid.partition("::")[0])
        if report.when == "call" and module.parent.name == "withstand" and module.stem in KINDS:
            counts[KINDS[module.stem]] += dict(report.user_properties).get("cases", 1)
    if counts:
        terminalreporter.write_line(f"withstood {counts.total()} attacks:")
        for kind, count in counts.most_common():
            terminalreporter.write_line(f"{count:6}  {kind}")
