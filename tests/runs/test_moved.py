"""A run folder and its images may move."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from nat2.errors import CheckpointError, RunError
from nat2.files import save_tensors
from nat2.pipeline.prepare import prepare
from nat2.pipeline.pretrained import recalled
from nat2.runs.config import RunConfig
from nat2.runs.folder import RunFolder
from nat2.space.macro import Macro
from nat2.supernet import SuperNetwork
from tests.tiny import write_corners


def claim(folder: Path, config: RunConfig) -> str:
    plan, dataset = prepare(config)
    with RunFolder(folder) as run:
        run.claim(plan.config, dataset)
    return str(yaml.safe_load((folder / "config.yaml").read_text())["data"])


def test_a_run_goes_on_from_any_folder_and_with_moved_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_corners(tmp_path / "photos", count=12)
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "run"
    assert claim(run, RunConfig(data="photos")) == str(tmp_path / "photos")
    stored = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump(stored | {"data": "photos"}))  # as 0.1.0 wrote it
    assert claim(run, RunConfig(data="photos")) == str(tmp_path / "photos")
    monkeypatch.chdir(tmp_path / "other")
    (tmp_path / "photos").rename(tmp_path / "moved")
    assert claim(run, RunConfig(data="../moved")) == str(tmp_path / "moved")
    write_corners(tmp_path / "others", count=11)
    with pytest.raises(RunError, match="are not those that the run"):
        claim(run, RunConfig(data="../others"))


def test_a_run_that_has_begun_needs_its_pretrained_weights_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_corners(tmp_path / "photos", count=12)
    monkeypatch.chdir(tmp_path)
    weights = tmp_path / "weights.safetensors"
    save_tensors(weights, SuperNetwork(Macro(classes=4, channels=1, width=0.25, stem_stride=1)).state_dict())
    given = RunConfig(data="photos", pretrained="weights.safetensors")
    claim(tmp_path / "run", given)
    weights.unlink()
    stored = tmp_path / "run" / "config.yaml"
    with pytest.raises(CheckpointError, match=r"weights\.safetensors does not exist"):
        prepare(given)
    config = recalled(given, stored)
    assert (config.family, config.width, config.stem_stride) == ("EE_D", "0.25", 1)
    claim(tmp_path / "run", config)
    assert recalled(RunConfig(data="photos", pretrained="other.pth"), stored).width == "auto"
    stored.write_text("width: 3")
    assert recalled(given, stored) == given
