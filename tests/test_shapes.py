"""A small set of images learns with the default settings."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch

import nat2
from nat2.deploy.predict import predict
from nat2.runs.config import RunConfig
from nat2.runs.results import picks
from tests.shapes import NAMES, write_shapes


@pytest.mark.slow
def test_forty_drawn_shapes_of_each_kind_are_learned_in_two_minutes_on_two_cores(tmp_path: Path) -> None:
    data, unseen = write_shapes(tmp_path / "shapes", count=40), write_shapes(tmp_path / "unseen", count=100, seed=1)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    began = time.monotonic()
    try:
        results = nat2.run(RunConfig(data=str(data)), out=tmp_path / "run", quiet=True)
    finally:
        torch.set_num_threads(threads)
    taken = time.monotonic() - began
    best = picks(results)["most accurate"]
    right = 0
    for name in NAMES:
        images = sorted((unseen / name).iterdir())
        answers = predict(tmp_path / "run" / "networks" / best.id, images)
        right += sum(classes[0][0] == name for _, classes in answers)
    assert right / (100 * len(NAMES)) >= 0.95
    assert taken <= 120


@pytest.mark.slow
def test_five_images_of_each_kind_end_with_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_shapes(tmp_path / "shapes", count=5)
    nat2.run(RunConfig.of("quick", data=str(data), finetune={"steps": 60}), out=tmp_path / "run")
    assert "3 test images measure an accuracy to ±" in " ".join(capsys.readouterr().out.split())
