"""The documents tell the truth: every command line in them is one that the program understands."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from nat2.cli.parser import build_parser
from nat2.cli.verbs import VERBS
from nat2.deploy import load
from nat2.deploy.export import write_program
from nat2.deploy.predict import predict
from nat2.nas.archive import Archive
from nat2.nas.nat import search as search_space
from nat2.runs.config import Preset, RunConfig
from nat2.runs.folder import RunFolder
from nat2.runs.profile import Profile
from nat2.runs.results import Result
from nat2.space import Arch

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


def nat2_lines() -> list[str]:
    """Lines that begin with `nat2`, or with a launcher that starts it."""
    found = [line[line.index("nat2 ") :] for line in command_lines() if re.match(r"nat2 |torchrun .*-m nat2 ", line)]
    return [line for line in found if "--help" not in line]


def test_there_are_commands_to_check() -> None:
    assert sum(line.startswith("nat2 ") for line in command_lines()) >= 5
    assert {"make demo", "make test"} <= set(command_lines())


@pytest.mark.parametrize("line", nat2_lines())
def test_documented_commands_are_understood(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [re.sub(r"^--([\w-]+)", lambda m: "--" + m[1].replace("-", "_"), word) for word in shlex.split(line)[1:]]
    recipe = Path(words[words.index("--config") + 1]) if "--config" in words else None
    if recipe is None or recipe.parts[0] == "recipes":  # others are the reader's
        monkeypatch.chdir(ROOT)
        preset: Preset = yaml.safe_load(recipe.read_text())["preset"] if recipe else "quick"
        given = build_parser(preset).parse_args(words)
        assert given.subcommand in VERBS


@pytest.mark.parametrize("line", [line for line in command_lines() if line.startswith("make ")])
def test_documented_targets_exist(line: str) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert f"\n{line.split()[1]}:" in makefile


@pytest.mark.parametrize("line", [line for line in command_lines() if line.startswith("python ")])
def test_documented_scripts_exist(line: str) -> None:
    assert (ROOT / line.split()[1]).is_file()


@pytest.mark.parametrize("document", sorted({document for document, _ in blocks("python")}))
def test_documented_python_runs(
    document: str, folder_recipe: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _furnish(tmp_path, folder_recipe)
    if document == "deploying.md":
        write_program(load(tmp_path / "deploy" / "1a2b3c4d"), tmp_path / "deploy" / "1a2b3c4d")
    monkeypatch.chdir(tmp_path)
    for verb in ("run", "train", "search", "finetune"):
        monkeypatch.setattr(f"nat2.pipeline.api.{verb}", getattr(_Shortcuts(), verb))
    monkeypatch.setattr("nat2.pipeline.profile.profile", _Shortcuts().profile)
    names: dict[str, object] = {"__name__": "__main__"}
    for name, text in blocks("python"):
        if name == document:  # in order: a later one may read what an earlier one has written
            exec(compile(text, document, "exec"), names)
    if document == "README.md":
        network = names["network"]
        assert isinstance(network, torch.nn.Module)
        assert network(torch.zeros(2, 1, 16, 16)).shape == (2, 4)
    if document == "deploying.md":  # what the reader's own program makes of an image is what ours does
        ((_, answers),) = predict("deploy/1a2b3c4d", ["new.jpg"], top=4)
        shares = names["shares"]
        assert isinstance(shares, np.ndarray)
        assert sorted(share for _, share in answers) == pytest.approx(sorted(shares[0]), abs=2e-3)


def _furnish(place: Path, recipe: Path) -> None:
    """What the documents speak of: images, finished runs, exported networks."""
    shutil.copytree(recipe / "photos", place / "photos")
    for name in ("photos", "photos-fast", "digits"):
        shutil.copytree(recipe / "runs" / "photos", place / "runs" / name)
    networks = recipe / "runs" / "photos" / "networks"
    several = next(path.parent for path in networks.glob("*/arch.json") if json.loads(path.read_text())["anytime"])
    for name in ("1a2b3c4d", "1a2b3c4d-ee"):
        shutil.copytree(several, place / "deploy" / name)
    generator = np.random.default_rng(0)
    noise = Image.fromarray(generator.integers(0, 255, (7, 9, 3), dtype=np.uint8))
    noise.resize((90, 70)).save(place / "new.jpg")


class _Shortcuts:
    """Stand in for verbs that take minutes: give what a run of seconds has given."""

    def run(self, config: RunConfig, *, out: Path = Path("runs/photos"), **options: object) -> list[Result]:
        assert isinstance(config, RunConfig)
        return RunFolder(out, shared=True).results()

    finetune = run

    def train(self, config: RunConfig) -> list[Path]:
        assert isinstance(config, RunConfig)
        return sorted(Path("runs/photos").glob("supernet-*"))

    def search(self, space: Any, *arguments: Any, **options: Any) -> object:
        if not isinstance(space, RunConfig):
            return search_space(space, *arguments, **options)
        with Archive[Arch](Path("runs/photos/archive.db"), ("error", "params", "macs", "memory")) as archive:
            return [evaluation for evaluation, _ in archive.evaluations()]

    def profile(self, config: RunConfig) -> Profile:
        assert isinstance(config, RunConfig)
        return Profile((), 10**19, (), (), 1.0, {"train": 60.0}, ())


@pytest.mark.parametrize("recipe", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_recipes_are_understood_and_say_what_they_cost(recipe: Path) -> None:
    preset = yaml.safe_load(recipe.read_text())["preset"]
    given = build_parser(preset).parse_args(["run", "--config", str(recipe)]).run
    assert given.data
    lines = recipe.read_text().splitlines()
    verb = "train" if recipe.stem.startswith("pretrain") else "run"
    for start in ("# Cost:", "# Expected:", f"#   nat2 {verb} --config recipes/{recipe.name}"):
        assert any(line.startswith(start) for line in lines)
