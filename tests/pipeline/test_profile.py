"""What a run will be."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from nat2.errors import ConfigError
from nat2.pipeline.profile import profile
from nat2.reports.profile import profile_table
from nat2.runs.config import RunConfig
from nat2.runs.profile import Profile
from nat2.space import Macro, SearchSpace, cost
from nat2.space.boards import board_named
from nat2.training.settings import Phase
from tests.tiny import SETTINGS, write_corners

MACRO = Macro(classes=4, channels=1, width=0.25, stem_stride=1)
SPACE = SearchSpace.of(MACRO, (12, 16))


def config(data: Path, **changes: object) -> RunConfig:
    phases = tuple(Phase(**phase) for phase in SETTINGS["phases"])
    return RunConfig.of("quick", data=str(data), **{**SETTINGS, "phases": phases, **changes})


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corners(tmp_path_factory.mktemp("profile") / "corners")


@pytest.fixture(scope="module")
def found(data: Path) -> Profile:
    return profile(config(data, budget="params<=20k,latency<=100ms"))


def test_the_ends_of_the_space_are_told(found: Profile) -> None:
    spans = {span.objective.name: span for span in found.spans}
    assert found.size == SPACE.size
    smallest, largest = cost(MACRO, SPACE.smallest), cost(MACRO, SPACE.largest)
    assert (spans["params"].least, spans["params"].most) == (smallest.params, largest.params)
    assert (spans["macs"].least, spans["macs"].most) == (smallest.macs, largest.macs)
    for span in spans.values():
        assert 0 < span.least < span.median < span.most


def test_the_share_that_keeps_the_budget_is_told(found: Profile) -> None:
    assert 0.1 < found.kept < 0.6
    assert all(seconds > 0 for seconds in found.seconds.values())


def test_everything_is_printed(found: Profile) -> None:
    first, spans, plans, last = profile_table(found)
    assert "search space" in first  # type: ignore[operator]
    assert spans.row_count == len(found.spans)  # type: ignore[union-attr]
    assert plans.row_count == len(found.plans) == 4  # type: ignore[union-attr]
    assert "params <= 20,000, latency <= 100 ms" in last  # type: ignore[operator]
    assert "a run takes about" in last  # type: ignore[operator]


def test_an_impossible_budget_names_the_nearest(data: Path) -> None:
    smallest = cost(MACRO, SPACE.smallest).params
    with pytest.raises(ConfigError, match=f"the nearest has params {smallest:,}"):
        profile(config(data, budget="params<=100"))


def test_a_board_is_told_with_an_estimate_of_the_latency(data: Path) -> None:
    found = profile(config(data, device="arduino-nano-33-ble", budget="ram<=16KiB"))
    facts, _, _, ends = profile_table(found)
    assert "device: arduino-nano-33-ble: nRF52840, Cortex-M4F, 1 MiB flash, 256 KiB RAM, 64 MHz; 50 % of" in str(facts)
    assert {"flash", "ram"} <= {span.objective.name for span in found.spans}
    assert "flash <= 524.3 kB, ram <= 16.4 kB" in str(ends)
    assert "can be met: by" in str(ends)
    (line,) = [line for line in str(ends).splitlines() if "latency there" in line]
    assert "estimated from MACs (MLPerf Tiny" in line
    assert "unknown; no published throughput of RP2040" in str(
        profile_table(dataclasses.replace(found, board=board_named("rp2040")))[3]
    )
    with pytest.raises(ConfigError, match=r"keeps the budget .*; the nearest has flash [\d.]+ kB, ram [\d.]+ kB"):
        profile(config(data, device="arduino-nano-33-ble", budget="ram<=2KiB"))
