"""Classify image files with an exported network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from PIL import Image

from nat2.data.sources import decode
from nat2.data.transform import central, resize, scale
from nat2.deploy.export import describe, load
from nat2.errors import ConfigError, DataError


def predict(network: Path, images: Sequence[Path], *, top: int = 3) -> Iterator[tuple[Path, list[tuple[str, float]]]]:
    """Yield each image with its most probable classes and their probabilities (0..1), most probable first.

    Args:
        network: Folder of an exported network.
        images: Image files; each goes through the steps that the training images went through.
        top: How many classes to give.

    Raises:
        CheckpointError: the folder does not hold an exported network.
        ConfigError: `top` is below 1.
        DataError: images cannot be read; all others are answered first.
    """
    if top < 1:
        raise ConfigError(f"--top must be at least 1; got {top}")
    description, model = describe(network), load(network)
    inputs, classes = description["input"], description["classes"]
    bad = []
    for path in images:
        try:
            if path.exists() and not path.is_file():  # a pipe would be waited for
                raise ValueError("a folder or a device")
            with Image.open(path) as image:
                pixels = decode(image, inputs["side"], grey=model.mean.shape[1] == 1)
        except Exception as error:  # PIL raises almost anything on damaged files
            bad.append(f"{path} cannot be read as an image ({error})")
            continue
        batch = torch.from_numpy(pixels.transpose(2, 0, 1).copy())[None]
        with torch.no_grad():
            shares = model(resize(scale(central(batch, inputs["center"])), inputs["resolution"])).softmax(1)[0]
        best = shares.argsort(descending=True)[:top].tolist()
        yield path, [(classes[label], float(shares[label])) for label in best]
    if bad:
        raise DataError("; ".join(bad))
