"""What a run does for the place where its networks will run: objectives and bounds at the door, files at the end."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

import nat2
from nat2.errors import ConfigError
from nat2.pipeline import api
from nat2.pipeline.evaluation import quantities
from nat2.pipeline.export import check_target
from nat2.pipeline.prepare import target_facts
from nat2.runs.config import RunConfig, read_config
from nat2.space.boards import BOARDS


def bounds(config: RunConfig) -> dict[str, float]:
    return {each.name: each.high for part in quantities(config) for each in part if each.high < math.inf}


def test_a_microcontroller_has_objectives_and_bounds_of_its_own() -> None:
    config = RunConfig(target="microcontroller")
    assert config.objectives == "error,flash"
    assert bounds(config) == {"flash": 128 * 1024, "ram": 64 * 1024}
    assert [each.name for each in quantities(config)[0]] == ["error", "flash"]


def test_what_is_given_takes_precedence_over_the_target() -> None:
    config = RunConfig(target="microcontroller", objectives="int8_error,params", budget="ram<=20KiB")
    assert config.objectives == "int8_error,params"
    assert bounds(config) == {"flash": 128 * 1024, "ram": 20 * 1024}
    board = BOARDS["rp2040"]
    config = RunConfig(target="microcontroller", device=board.name, budget="flash<=30KiB,params<=9k")
    assert bounds(config) == {"flash": 30 * 1024, "ram": board.ram / 2, "params": 9_000}
    assert bounds(RunConfig(device=board.name)) == {"flash": board.flash / 2, "ram": board.ram / 2}


@pytest.mark.parametrize("target", ["any", "phone", "executorch", "coreml", "browser", "server", "gpu"])
def test_other_targets_leave_the_search_as_it_is(target: Any) -> None:
    config = RunConfig(target=target)
    assert (config.objectives, bounds(config)) == ("error,params", {})
    assert bool(target_facts(target)) is (target != "any")


def test_a_target_is_written_down_with_what_it_means(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(RunConfig(target="microcontroller").to_dict()))
    assert read_config(file).objectives == "error,flash"
    file.write_text("target: microcontroller\n")
    assert read_config(file) == RunConfig(target="microcontroller")


def test_an_unknown_target_is_refused() -> None:
    with pytest.raises(ConfigError, match="--target"):
        RunConfig(target="fridge")  # type: ignore[arg-type]


def test_a_target_whose_extra_is_missing_is_refused_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'nat2\[microcontroller\]'"):
        nat2.run(RunConfig(data="no such folder", target="microcontroller"), out=tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()
    check_target("server")
    with pytest.raises(ConfigError, match="--for must be one of"):
        check_target("any")


def test_a_run_ends_with_the_files_that_are_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[tuple[Path, list[str], str]] = []
    results: list[Any] = [SimpleNamespace(id=name) for name in ("1a", "2b")]
    monkeypatch.setattr(api, "_start", lambda *given: SimpleNamespace(results=results))
    monkeypatch.setattr(api, "export", lambda run, names, *, target, quiet: written.append((run, names, target)))
    config = RunConfig(target="server")
    nat2.run(config, out=tmp_path, quiet=True)
    assert written.pop() == (tmp_path, ["1a", "2b"], "server")
    (tmp_path / "networks" / "1a" / "server").mkdir(parents=True)
    nat2.finetune(config, out=tmp_path, quiet=True)
    assert written.pop() == (tmp_path, ["2b"], "server")
    monkeypatch.setattr(api, "check_target", lambda target: None)
    (tmp_path / "networks" / "1a" / "phone").mkdir()
    (tmp_path / "networks" / "1a" / "phone" / "model-int8.tflite").write_text("interrupted before the last file")
    nat2.run(RunConfig(target="phone"), out=tmp_path, quiet=True)
    assert written.pop() == (tmp_path, ["1a", "2b"], "phone")
    (tmp_path / "networks" / "1a" / "phone" / "preprocessing.json").write_text("{}")
    nat2.run(RunConfig(target="phone"), out=tmp_path, quiet=True)
    assert written.pop() == (tmp_path, ["2b"], "phone")
    nat2.run(RunConfig(), out=tmp_path, quiet=True)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    nat2.run(config, out=tmp_path, quiet=True)
    assert not written
