"""The last lines of a verb."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

from nat2.deploy.latency import Latency, Measured
from nat2.nas.archive import Evaluation
from nat2.reports.terminal import latency_table, networks_summary, search_summary
from nat2.runs.folder import RunFolder
from tests.reports.runs import networks, write_run


def printed(parts: list[Table | str]) -> str:
    console = Console(width=80, record=True, file=io.StringIO(), soft_wrap=True)
    for part in parts:
        console.print(part, markup=False)
    return console.export_text()


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    write_run(tmp_path / "run")
    return RunFolder(tmp_path / "run", shared=True)


def test_a_good_run_ends_with_what_to_do_next(folder: RunFolder) -> None:
    text = printed(networks_summary(folder.finished_networks(), folder))
    assert "beats chance" not in text
    assert "next: nat2 predict " in text
    assert "% validation, " in text
    assert "% test, " in text


def test_a_run_at_chance_says_so_and_what_helps(folder: RunFolder) -> None:
    results = [replace(each, test_accuracy=0.3) for each in folder.finished_networks()]  # chance is 25 % of 32 images
    text = printed(networks_summary(results, folder))
    assert "warning: none of the 5 networks beats chance" in text
    assert "right on 25.0 % of the 32 test images" in text
    assert "nat2 predict" not in text
    results[0] = replace(results[0], test_accuracy=0.9)
    text = printed(networks_summary(results, folder))
    assert "warning: not better than chance" in text
    assert "next: nat2 predict " in text


@pytest.mark.parametrize(("errors", "warned"), [((0.7, 0.75), True), ((0.7, 0.2), False)])
def test_a_search_at_chance_says_so(folder: RunFolder, errors: tuple[float, float], warned: bool) -> None:
    values = [{"error": error, "params": 100.0, "macs": 10.0} for error in errors]
    front = [Evaluation(arch, measured) for arch, measured in zip(networks(2), values, strict=True)]
    text = printed(search_summary(front, folder))
    assert ("no network beats chance by its standard error" in text) == warned
    assert "30.0 ± 8.1" in text


def test_latencies_have_the_digits_that_their_quartiles_support() -> None:
    measured = Measured("a", "onnx", 8, 1, "cpu", Latency(1.23456, 1.1, 1.4, 50))
    text = printed([latency_table([measured])])
    assert text.split()[-3:] == ["1.2", "1.1-1.4", "6,000"]
