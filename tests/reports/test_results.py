"""Tables, picks and pictures."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from nat2.nas.archive import Evaluation
from nat2.reports.plots import plot_pareto
from nat2.reports.results import Result, picks, table
from nat2.space import Arch

ARCHS = [Arch.from_key(f"r{r}-w0.5-k3e3.k5e4-k7e6.k3e3") for r in (16, 18, 20, 24)]


def result(number: int, params: int, val: float, test: float) -> Result:
    arch = ARCHS[number]
    return Result(arch.id, arch.key, 0.1, params, 100_000_000 * (4 - number), val - 0.2, val - 0.1, val, test, 5)


RESULTS = [
    result(0, 3_000_000, 0.99, 0.9),
    result(1, 20, 0.985, 0.95),
    result(2, 10, 0.9, 0.97),
    result(3, 200, 0.99, 0.91),
]
ARCHIVE = [Evaluation(arch, {"error": 0.1 * n, "params": 10 + n, "macs": 100 + n}) for n, arch in enumerate(ARCHS)]


def test_picks_are_made_on_validation_images() -> None:
    chosen = picks(RESULTS)
    assert chosen["most accurate"] == RESULTS[3]  # of two equals the smaller, whatever the test says
    assert chosen["small and good"] == RESULTS[1]
    assert chosen["fewest parameters"] == RESULTS[2]
    assert chosen["fewest operations"] == RESULTS[3]


def test_rows_begin_with_what_was_searched() -> None:
    row = RESULTS[0].row(["error", "macs"])
    assert list(row)[:7] == ["id", "arch", "error", "macs", "params", "val_accuracy", "test_accuracy"]
    assert row["test_accuracy"] == 0.9


def test_the_table_fits_a_terminal() -> None:
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(table(RESULTS))
    lines = console.export_text().splitlines()
    ids = {each.id for each in RESULTS}
    assert "…" not in "".join(lines)
    assert max(map(len, lines)) <= 80
    assert [line.split()[0] for line in lines if line.split()[:1] and line.split()[0] in ids] == [
        RESULTS[i].id for i in (2, 1, 3, 0)
    ]


@pytest.mark.parametrize("cost", ["params", "macs"])
def test_the_plot_is_a_picture(tmp_path: Path, cost: str) -> None:
    plot_pareto(tmp_path / "pareto.png", ARCHIVE, RESULTS, cost=cost)
    with Image.open(tmp_path / "pareto.png") as image:
        assert min(image.size) > 500
        assert len(image.convert("RGB").getcolors(2**24)) > 50
