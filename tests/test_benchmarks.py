"""Results of benchmarks are kept with what they depend on, and compared row by row."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from nat2.supernet import SuperNetwork
from nat2.supernet.layers import normalize_by_joint_batch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("table")


@pytest.fixture
def compare(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("compare")


def row(name: str, value: float, *, met: bool | None = None, better: str = "lower") -> dict[str, Any]:
    return {"name": name, "value": value, "target": 1.0, "better": better, "unit": "", "met": met}


def result(*rows: dict[str, Any]) -> dict[str, Any]:
    return {"title": "t", "machine": {"processor": "p"}, "versions": {"torch": "2.13.0"}, "rows": list(rows)}


def test_a_result_says_where_it_comes_from(
    table: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmarks/b.py", "--json", "a file"])
    table.show("ours", [table.Row("a", 0.5, 1.0, detail="3 ms"), table.Row("b", 2.0)], tmp_path / "new" / "b.json")
    assert "a; 3 ms" in capsys.readouterr().out
    kept = json.loads((tmp_path / "new" / "b.json").read_text())
    assert kept["command"] == "python benchmarks/b.py --json 'a file'"
    assert kept["machine"]["cores"] >= 1
    assert kept["load"] >= 0
    assert kept["machine"]["processor"]
    assert {"python", "torch", "nat2"} <= set(kept["versions"])
    assert kept["date"].endswith("+00:00")
    assert [(each["name"], each["met"]) for each in kept["rows"]] == [("a", True), ("b", None)]


@pytest.mark.parametrize(
    ("old", "new", "verdict", "failed"),
    [
        (row("a", 1.0), row("a", 1.1), "same", False),
        (row("a", 1.0), row("a", 1.11), "worse", True),
        (row("a", 1.0), row("a", 0.8), "better", False),
        (row("a", 1.0, better="higher"), row("a", 0.8, better="higher"), "worse", True),
        (row("a", 1.0, better="higher"), row("a", 1.2, better="higher"), "better", False),
        (row("a", -2.0, better="higher"), row("a", -2.1, better="higher"), "same", False),
        (row("a", 0.0), row("a", 0.1), "worse", True),
        (row("a", 1.0), row("a", float("nan")), "worse", True),
        (row("a", 0.99, met=True), row("a", 1.01, met=False), "target missed", True),
        (row("a", 1.01, met=False), row("a", 1.02, met=False), "same", False),
        (row("a", 1.01, met=False), row("a", 1.5, met=False), "worse", True),
        (row("a", 1.01, met=False), row("a", 0.99, met=True), "same", False),
        (row("a", 1.0), None, "missing", True),
        (None, row("a", 1.0), "new", False),
        (None, row("a", 1.0, met=False), "target missed", True),
    ],
)
def test_rows_are_judged(
    compare: ModuleType, old: dict[str, Any] | None, new: dict[str, Any] | None, verdict: str, failed: bool
) -> None:
    (change,) = compare.changes(result(*filter(None, [old])), result(*filter(None, [new])), tolerance=0.1)
    assert (change.verdict, change.failed) == (verdict, failed)


def test_rows_without_a_target_can_be_left_out(compare: ModuleType) -> None:
    old, new = result(row("a", 1.0), row("b", 0.5, met=True)), result(row("a", 9.0), row("b", 0.5, met=True))
    assert [change.failed for change in compare.changes(old, new, tolerance=0.1)] == [True, False]
    (change,) = compare.changes(old, new, tolerance=0.1, targets_only=True)
    assert (change.name, change.verdict) == ("b", "same")


def call(compare: ModuleType, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["compare.py", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        compare.main()
    return int(stop.value.code or 0)


def test_a_busy_machine_is_named(compare: ModuleType) -> None:
    quiet, busy = ({**result(row("a", 1.0)), "load": load, "machine": {"cores": 2}} for load in (2.0, 9.5))
    (line,) = compare.differences(quiet, busy)
    assert line == "the new result was measured on a busy machine: load 9.5 on 2 cores"


def test_the_command_says_what_else_changed_and_fails_for_what_is_worse(
    compare: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    old.write_text(json.dumps(result(row("a", 1.0))))
    new.write_text(json.dumps({**result(row("a", 1.2)), "versions": {"torch": "2.14.0"}}))
    assert call(compare, monkeypatch, old, new) == 1
    shown = capsys.readouterr().out
    assert "+20 %" in shown
    assert "torch: 2.13.0 -> 2.14.0" in shown
    assert call(compare, monkeypatch, old, new, "--tolerance", 0.3) == 0
    assert call(compare, monkeypatch, old, old) == 0


@pytest.mark.parametrize("content", ["[]", "{", '{"rows": [{}]}', '{"rows": 3}', '[{"name": "of 0.1.0"}]', None])
def test_other_files_are_refused_in_words(
    compare: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    content: str | None,
) -> None:  # fmt: skip
    file = tmp_path / "old.json"
    if content is not None:
        file.write_text(content)
    assert call(compare, monkeypatch, file, file) == 2
    assert "old.json" in capsys.readouterr().err


@pytest.mark.parametrize("tolerance", ["-0.1", "nan", "inf", "some"])
def test_tolerances_are_shares(
    compare: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tolerance: str
) -> None:
    assert call(compare, monkeypatch, "a", "b", "--tolerance", tolerance) == 2
    assert "--tolerance" in capsys.readouterr().err


@pytest.mark.parametrize("file", sorted((BENCHMARKS / "results").glob("*.json")), ids=lambda file: str(file.stem))
def test_kept_results_are_those_of_a_benchmark(compare: ModuleType, file: Path) -> None:
    kept = compare.read_result(file)
    assert (BENCHMARKS / f"{file.stem.partition('-')[0]}.py").exists()
    assert len({each["name"] for each in kept["rows"]}) == len(kept["rows"])


def test_the_short_form_of_the_gpu_benchmark_runs_anywhere(
    table: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = importlib.import_module("gpu")
    monkeypatch.setattr(gpu.torch.cuda, "is_available", lambda: False)
    sections = ["correctness", "training", "plain", "repetition"]
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--json", str(tmp_path / "gpu.json"), "--sections", *sections])
    gpu.main()
    rows = json.loads((tmp_path / "gpu.json").read_text())["rows"]
    assert [each["name"] for each in rows if each["met"] is False] == []
    assert {
        "weights after the same steps twice, relative difference",
        "extracted network beside the super-network",
    } <= {each["name"] for each in rows}
    assert any(each["name"].startswith("training step") for each in rows)


def test_the_short_form_of_the_scale_benchmark_meets_its_targets(
    table: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All but the times, which a busy machine decides."""
    scale = importlib.import_module("scale")
    monkeypatch.setattr(sys, "argv", ["scale.py", "--json", str(tmp_path / "scale.json"), "--images", "3000"])
    scale.main()
    rows = {each["name"]: each for each in json.loads((tmp_path / "scale.json").read_text())["rows"]}
    missed = [name for name, each in rows.items() if each["met"] is False]
    assert [name for name in missed if "per second" not in name and "start" not in name] == []
    assert rows["after a kill: images in the cache that were decoded again"]["detail"] != "0 of 3,000 images"


def test_the_model_of_several_processes_knows_their_exchanges(table: ModuleType) -> None:
    processes = importlib.import_module("processes")
    exchanged: list[int] = []

    def add(x: torch.Tensor) -> torch.Tensor:
        exchanged.append(x.numel())
        return x

    network = SuperNetwork(processes.MACRO)
    logits = network(torch.randn(4, 3, 16, 16), processes.SPACE.largest, normalize=normalize_by_joint_batch(add))
    logits.sum().backward()
    norms = processes.norms_of(processes.MACRO, processes.SPACE.largest)
    joint = processes.Case("joint", subnets=1)
    assert len(exchanged) == 2 * norms == processes.exchanges_of(joint, norms) - 1
    assert processes.exchanges_of(processes.Case("per-process", subnets=3), norms) == 1
    assert processes.exchanges_of(processes.Case("per-process", subnets=3, clip=5.0), norms) == 3

    speeds = {row.name: row.value for row in processes.modelled() if "images/s" in row.name}
    one = speeds["model: images/s (1 GPUs, 512 images each)"]
    assert speeds["model: images/s (8 GPUs, 64 images each, joint)"] < one  # the same batch
    assert speeds["model: images/s (8 GPUs, 512 images each, per-process)"] == pytest.approx(8 * one, rel=0.05)


def test_the_table_of_networks_has_the_best_of_each_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    networks = importlib.import_module("networks")
    generator = np.random.default_rng(0)
    costs = np.exp(generator.uniform(np.log(1e4), np.log(1e6), (300, 2))).astype(np.int64)
    values, sides = generator.random(300), generator.integers(0, 2, 300)
    best = networks.best_of_each_size(costs, values, sides, 1)
    for side in (0, 1):
        for column, low, high in networks.classes_of_size(costs):
            inside = np.flatnonzero((sides == side) & (costs[:, column] > low) & (costs[:, column] <= high))
            assert not len(inside) or inside[values[inside].argmax()] in best
    assert len(best) <= 2 * (len(networks.PARAMS) + len(networks.MACS) + 2)


def test_networks_that_smaller_ones_beat_clearly_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    networks = importlib.import_module("networks")
    costs = np.array([[1, 1], [2, 2], [3, 3], [4, 1], [2, 2]])
    values, sides = np.array([0.5, 0.46, 0.44, 0.6, 0.3]), np.array([0, 0, 0, 0, 1])
    assert networks.front(costs, values, sides, 0.05) == [0, 1, 3, 4]
    assert networks.front(costs, values, sides, 0.0) == [0, 3, 4]


def test_batches_are_compared_seed_by_seed(table: ModuleType) -> None:
    batches = importlib.import_module("batches")
    small, large = (50.0, 60.0, 40.0), (51.0, 60.0, 40.5)
    found = [
        {
            "shrinking, 64": one,
            "shrinking, 256": other,
            "adaptation, 64": one,
            **{f"adaptation, 256, {rule}": one - 2 for rule in batches.RULES},
        }
        for one, other in zip(small, large, strict=True)
    ]
    rows = batches.rows_of(found)
    assert [row.value for row in rows] == pytest.approx([0.5, -2.0, -2.0, -2.0])
    assert rows[0].detail == "50.0 and 50.5 %; standard error 0.29"
    assert "standard error 0.00" in rows[1].detail
    assert [row.value for row in batches.rows_of(found[:1])] == pytest.approx([1.0, -2.0, -2.0, -2.0])
