"""What was measured of files that a converter made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nat2.deploy.samples import TestImages
from nat2.files import write_json


@dataclass(frozen=True)
class Converted:
    """A file, and how its answers compare with those of ``model.onnx``."""

    bytes: int
    accuracy: float
    """Share of the test images that it classifies correctly."""
    agreement: float
    """Share of the test images of which both give the same class."""
    difference: float
    """Largest difference of a logit, relative to the largest logit if that is above 1."""
    seconds: float
    """Processor time of the conversion."""

    @staticmethod
    def of(size: int, logits: NDArray[np.float64], test: TestImages, seconds: float) -> Converted:
        """Compare logits of the test images, shape (N, classes), with those of ``model.onnx``."""
        return Converted(size, test.accuracy(logits), test.agreement(logits), test.difference(logits), seconds)


def report(folder: Path, network: Path, files: Mapping[str, Converted], test: TestImages, *, by: str) -> list[str]:
    """Write ``numbers.json`` beside the files, and say what was measured, a sentence for each.

    Args:
        folder: Where the files are.
        network: Folder of the network.
        files: What was measured of each, by name.
        test: The images.
        by: What computed the answers.
    """
    numbers = {
        "network": network.name,
        "measured_by": by,
        "images": len(test.labels),
        "float_accuracy": test.accuracy(),
    }
    write_json(folder / "numbers.json", numbers | {"files": {name: vars(each) for name, each in files.items()}})
    exact = f"{100 * test.accuracy():.2f} % in floating point"
    return [
        f"{name}: {each.bytes:,} bytes, {100 * each.accuracy:.2f} % of {len(test.labels):,} test images "
        f"({exact}, {100 * each.agreement:.1f} % the same class)"
        for name, each in files.items()
    ]
