"""What the attacks on whole runs share: a small run's settings, and how it ends undisturbed."""

from __future__ import annotations

import csv
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.tiny import write_corners, write_settings
from tests.zygote import Zygote

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
