"""Recipes and examples do what they say, on few images and in seconds."""

from __future__ import annotations

import csv
import runpy
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from nat2.runs.read import read_run
from tests.tiny import follow

ROOT = Path(__file__).parents[1]
ONE_EXIT = ("--finetune.variant", "single")
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def networks(run: Path) -> list[dict[str, str]]:
    with (run / "pareto.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run an example in an empty folder; what it prints."""
    monkeypatch.chdir(tmp_path)

    def start(example: str, *words: str) -> str:
        monkeypatch.setattr(sys, "argv", [example, *words])
        runpy.run_path(str(ROOT / "examples" / example), run_name="__main__")
        return capsys.readouterr().out

    return start


def test_a_folder_of_photographs_becomes_networks(folder_recipe: Path) -> None:
    run = folder_recipe / "runs" / "photos"
    assert (run / "report.html").exists()
    assert any(row["id"].endswith("-ee") for row in networks(run))


def test_every_answer_is_kept_and_agrees_with_the_accuracies(folder_recipe: Path) -> None:
    """With one exit and with several, of validation images before and of test images after the last training."""
    run = read_run(folder_recipe / "runs" / "photos")
    with (run.folder / "splits.csv").open(newline="") as file:
        images = [(row["split"], row["class"], row["image"]) for row in csv.DictReader(file)]
    assert len(run.answers) == len(run.results) > 1
    for result in run.results:
        for split, accuracy in (("val", result.validated), ("test", result.tested)):
            answers = run.answers[result.id].predictions[split]
            assert answers.confusion(4).accuracy == accuracy
            classes = list(run.data["images"]["train"])
            named = [(split, classes[label], name) for label, name in zip(answers.labels, answers.names, strict=True)]
            assert named == [image for image in images if image[0] == split]
    assert "What the network gets wrong" in (run.folder / "report.html").read_text()


def test_little_memory_is_enough(folder_recipe: Path, tmp_path: Path) -> None:
    shutil.copytree(folder_recipe / "photos", tmp_path / "photos")
    assert networks(follow(ROOT / "recipes" / "low-memory.yaml", tmp_path, *ONE_EXIT))


def test_a_latency_is_kept_and_8_bits_are_exported(folder_recipe: Path, tmp_path: Path) -> None:
    shutil.copytree(folder_recipe / "photos", tmp_path / "photos")
    run = follow(ROOT / "recipes" / "latency-budget.yaml", tmp_path, *ONE_EXIT)
    for row in networks(run):
        assert float(row["latency"]) <= 3
        assert (run / "networks" / row["id"] / "model-int8.onnx").exists()


def test_a_data_set_of_arrays_becomes_a_network_that_answers(start: Callable[..., str]) -> None:
    assert start("own_dataset.py", "--quick").splitlines()[-1].startswith("new.png")


def test_an_objective_of_ones_own_is_searched(start: Callable[..., str]) -> None:
    printed = start("own_objective.py", "--quick").splitlines()
    header = next(number for number, line in enumerate(printed) if line.split()[:1] == ["network"] and "%" in line)
    assert "microjoules" in "".join(printed[header:])


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_workers_of_ones_own_evaluate_and_a_second_start_goes_on(start: Callable[..., str]) -> None:
    printed = start("own_workers.py", "--quick")
    assert printed.splitlines()[0].split() == ["network", "error", "nodes"]
    assert printed.splitlines()[-1].startswith("14 evaluations in ")
    assert Path("front.png").exists()
    again = start("own_workers.py", "--quick")
    assert again.splitlines()[:-1] == printed.splitlines()[:-1]


def test_a_network_is_picked_and_answers_without_us(
    folder_recipe: Path, tmp_path: Path, start: Callable[..., str]
) -> None:
    shutil.copytree(folder_recipe / "runs", tmp_path / "runs")
    image = next((folder_recipe / "photos").glob("*/*.png"))
    printed = start("pick_and_deploy.py", "runs/photos", str(image), "--macs", "20e6")
    assert sum(line.endswith("%") for line in printed.splitlines()) == 3


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_examples_can_be_read_and_say_how_they_are_run(example: Path) -> None:
    text = example.read_text()
    assert f"python examples/{example.name}" in text
    assert len(text.splitlines()) <= 75
    assert callable(runpy.run_path(str(example))["main"])
