"""The documents tell the truth: every command line in them is one that the program understands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import torch
import yaml

from nat2.cli import VERBS, build_parser

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(language: str) -> list[tuple[str, str]]:
    found = []
    for document in DOCUMENTS:
        for text in re.findall(rf"```{language}\n(.*?)```", document.read_text(encoding="utf-8"), re.DOTALL):
            found.append((document.name, text))
    return found


def command_lines() -> list[str]:
    lines = [line.split(" #")[0].strip() for _, text in blocks("sh") for line in text.splitlines()]
    return [line for line in lines if line]


def test_there_are_commands_to_check() -> None:
    assert sum(line.startswith("nat2 ") for line in command_lines()) >= 5
    assert {"make demo", "make test"} <= set(command_lines())


@pytest.mark.parametrize(
    "line", [line for line in command_lines() if line.startswith("nat2 ") and "--help" not in line]
)
def test_documented_commands_are_understood(line: str) -> None:
    words = [re.sub(r"^--([\w-]+)", lambda m: "--" + m[1].replace("-", "_"), word) for word in shlex.split(line)[1:]]
    if "--config" not in words:
        given = build_parser().parse_args(words)
        assert given.subcommand in VERBS


@pytest.mark.parametrize("line", [line for line in command_lines() if line.startswith("make ")])
def test_documented_targets_exist(line: str) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert f"\n{line.split()[1]}:" in makefile


@pytest.mark.parametrize("document", sorted({document for document, _ in blocks("python")}))
def test_documented_python_runs(document: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("nat2.verbs.run", _small_run)
    names: dict[str, object] = {}
    for name, text in blocks("python"):
        if name == document:  # in order: a later one may read what an earlier one has written
            exec(compile(text, document, "exec"), names)
    if document == "README.md":
        network = names["network"]
        assert isinstance(network, torch.nn.Module)
        assert network(torch.zeros(2, 1, 16, 16)).shape == (2, 2)


def _small_run(config: object, *, out: Path | None = None, **options: object) -> list[object]:
    """Stands in for a run of minutes: makes the files that the documents go on to use."""
    from nat2.config import RunConfig
    from nat2.data import Pipeline
    from nat2.deploy import export
    from nat2.reports.results import Result
    from nat2.space import Arch, Macro, cost
    from nat2.supernet import SuperNetwork, extract

    assert isinstance(config, RunConfig)
    macro = Macro(classes=2, channels=1, width=0.25, stem_stride=1)
    arch = Arch.from_key("r16-w0.25-k3e3.k3e3")
    network = extract(SuperNetwork(macro, generator=torch.Generator().manual_seed(0)), arch)
    folder = (out or Path("runs/digits")) / "networks" / arch.id
    export(network, Pipeline((0.5,), (0.2,)), ["a", "b"], folder, side=16, facts={})
    return [Result(arch.id, arch.key, 0.1, *cost(macro, arch)[:2], 0.5, 0.9, 0.95, 0.94, 3)]


@pytest.mark.parametrize("recipe", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_recipes_are_understood_and_say_what_they_cost(recipe: Path) -> None:
    preset = yaml.safe_load(recipe.read_text())["preset"]
    given = build_parser(preset).parse_args(["run", "--config", str(recipe)]).run
    assert given.data
    assert {"# Cost:", "# Expected:", f"#   nat2 run --config recipes/{recipe.name}"} <= {
        line[: len(start)] for line in recipe.read_text().splitlines()
        for start in ("# Cost:", "# Expected:", f"#   nat2 run --config recipes/{recipe.name}")
    }  # fmt: skip
