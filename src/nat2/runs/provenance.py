"""The provenance of a result, as a run folder records it: images, versions, machine."""

from __future__ import annotations

import platform
import sys
from importlib.metadata import version

import torch

from nat2.data.dataset import Dataset
from nat2.environment import available_cores

_PACKAGES = ("nat2", "torch", "numpy", "scipy", "scikit-learn", "lightgbm", "pymoo", "onnx", "onnxruntime")


def environment() -> dict[str, object]:
    """Versions and machine, so that a result can be traced: environment.json."""
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "processors": available_cores(),
        "threads": torch.get_num_threads(),
        "packages": {name: version(name) for name in _PACKAGES},
        "command": sys.argv,
    }


def splits(dataset: Dataset) -> list[dict[str, str]]:
    """Which image is in which split: splits.csv."""
    return [
        {"split": name, "class": dataset.classes[label], "image": image}
        for name, split in (("train", dataset.train), ("val", dataset.val), ("test", dataset.test))
        for image, label in zip(split.names, split.labels.tolist(), strict=True)
    ]


def describe(dataset: Dataset) -> dict[str, object]:
    """The images and their fingerprint: data.json."""
    parts = {"train": dataset.train, "val": dataset.val, "test": dataset.test}
    return {
        "name": dataset.name,
        "fingerprint": dataset.fingerprint,
        "channels": dataset.channels,
        "mean": dataset.mean,
        "std": dataset.std,
        "range": [dataset.span.low, dataset.span.high] if dataset.span else None,
        "images": {
            name: dict(
                zip(
                    dataset.classes,
                    torch.bincount(split.labels, minlength=len(dataset.classes)).tolist(),
                    strict=True,
                )
            )
            for name, split in parts.items()
        },
        "notes": dataset.notes,
    }
