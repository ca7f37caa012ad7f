"""A run of seconds: what the tests of the command line use."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

SETTINGS: dict[str, Any] = {
    "width": 0.25,
    "resolutions": "12,16",
    "networks": 2,
    "phases": [
        {"name": "full", "epochs": 2, "lr": 0.1, "joint": True},
        {"name": "all", "epochs": 2, "lr": 0.05, "kernels": [3, 5, 7], "expands": [3, 4, 6], "depths": [2, 3, 4],
         "exits": [1, 2, 3, 4, 5], "levels": [1, 2, 3]},
    ],
    "shrink": {"batch_size": 32, "calibration_images": 48},
    "search": {"archive": 8, "preprocess": "oversample", "oversample": 2,
               "generations": 2, "candidates": 3, "top": 4, "population": 12,
               "inner_generations": 3},
    "adapt": {"epochs": 1, "batch_size": 32},
    "finetune": {"epochs": 2, "batch_size": 32, "variant": "single"},
}  # fmt: skip


def write_settings(path: Path) -> Path:
    """The settings as a file for --config."""
    path.write_text(yaml.safe_dump(SETTINGS))
    return path


def write_corners(root: Path, count: int = 24) -> Path:
    """Grey images of four classes: which corner is bright."""
    generator = np.random.default_rng(0)
    for label, name in enumerate(("north west", "north east", "süd west", "-south east")):
        (root / name).mkdir(parents=True)
        for number in range(count):
            image = generator.integers(0, 120, (16, 16), dtype=np.uint8)
            image[8 * (label // 2) :, 8 * (label % 2) :][:8, :8] += 90
            Image.fromarray(image).save(root / name / f"{number}.png")
    return root


RECIPE = {
    "width": 0.25,
    "resolutions": "12,16",
    "networks": 1,
    "phases": [{**SETTINGS["phases"][1], "epochs": 1}],
    "shrink": {"batch_size": 32, "calibration_images": 48},
    "search": {"archive": 8, "generations": 1, "candidates": 2, "top": 4, "population": 8, "inner_generations": 2,
               "predictor": "ridge"},
    "adapt": {"epochs": 1, "batch_size": 32},
    "finetune": {"epochs": 1, "batch_size": 32, "variant": "ensemble", "prune": False},
}  # fmt: skip
"""Over the settings of a recipe: what makes it a run of seconds."""
TWO_EXITS = "r16-w0.25-k3e3.k3e3-k3e3.k3e3"
"""A network that ends behind the second stage."""


def follow(recipe: Path, place: Path, *flags: str) -> Path:
    """Run a recipe in a folder that holds the images `photos`; the run folder, named after the recipe."""
    from nat2.cli import main

    small = place / "small.yaml"
    small.write_text(yaml.safe_dump(RECIPE))
    out = place / "runs" / recipe.stem
    words = ["run", "--config", str(recipe), "--config", str(small), "--data", "photos", "--out", str(out), "--quiet"]
    words += flags
    with contextlib.chdir(place), pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 0
    return out
