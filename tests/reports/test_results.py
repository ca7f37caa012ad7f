"""Tables, picks, pictures and the page."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from nat2.nas.archive import Evaluation, Generation
from nat2.reports.page import write_page
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
GENERATIONS = [Generation(0, tuple(ARCHS), 0.5, {}), Generation(1, tuple(ARCHS), 0.6, {"tau": 0.25})]


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


def page(path: Path, title: str = "photos") -> str:
    write_page(
        path,
        title=title,
        facts=[("images", "12 <b>"), ("note", "one"), ("note", "two")],
        archive=ARCHIVE,
        results=RESULTS,
        generations=GENERATIONS,
        seconds={"train": 61.0, "search": 5.0},
        config="seed: 0\n",
    )
    return path.read_text()


def test_the_page_stands_alone(tmp_path: Path) -> None:
    text = page(tmp_path / "report.html")
    without_library = re.sub(r"<script>.*?</script>", "", text, count=1, flags=re.DOTALL)
    assert not re.search(r"(src|href)\s*=\s*[\"']?(?!data:)\w", without_library)
    assert "<!--" not in without_library
    for each in RESULTS:
        assert f"networks/{each.id}" in text or each.id in text


def test_the_page_holds_every_point(tmp_path: Path) -> None:
    text = page(tmp_path / "report.html")
    data = json.loads(re.search(r"^const data = (.*);$", text, re.MULTILINE)[1])  # type: ignore[index]
    assert [point["params"] for point in data["archive"]] == [10, 11, 12, 13]
    assert {point["id"] for point in data["results"]} == {each.id for each in RESULTS}
    assert [generation["tau"] for generation in data["generations"]] == [None, 0.25]


def test_names_cannot_break_the_page(tmp_path: Path) -> None:
    text = page(tmp_path / "report.html", title="</script><script>alert(1)")
    assert "alert(1)" in text
    assert "<script>alert(1)" not in text
    assert "12 &lt;b&gt;" in text


@pytest.mark.parametrize("cost", ["params", "macs"])
def test_the_plot_is_a_picture(tmp_path: Path, cost: str) -> None:
    plot_pareto(tmp_path / "pareto.png", ARCHIVE, RESULTS, cost=cost)
    with Image.open(tmp_path / "pareto.png") as image:
        assert min(image.size) > 500
        assert len(image.convert("RGB").getcolors(2**24)) > 50
