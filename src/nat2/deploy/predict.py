"""Classify image files with an exported network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from nat2.checks import user_path
from nat2.data.sources import decode
from nat2.data.transform import central, resize, scale
from nat2.deploy.anytime import Operating, threshold_for
from nat2.deploy.deployable import Deployable, load
from nat2.deploy.description import describe
from nat2.errors import CheckpointError, ConfigError, DataError


def predict(
    network: Path | str,
    images: Path | str | Sequence[Path | str],
    *,
    top: int = 3,
    threshold: float | None = None,
    mean_macs: float | None = None,
) -> Iterator[tuple[Path, list[tuple[str, float]]]]:
    """Each image with its most probable classes and their probabilities (0..1), most probable first.

    Args:
        network: Folder of an exported network.
        images: Image files, or one; each goes through the steps that the training images went through.
        top: How many classes to give.
        threshold: Let the first of several exits answer that is at least so sure, 0..1; by default all answer together.
        mean_macs: The same with the threshold that takes so many multiply-accumulates an image in the mean.

    Raises:
        CheckpointError: the folder does not hold an exported network.
        ConfigError: `top` is below 1, or the network cannot do what is asked of its exits.
        DataError: images cannot be read; all others are answered first.
    """
    if top < 1:
        raise ConfigError(f"--top must be at least 1; got {top}")
    folder = user_path(network, "NETWORK")
    description, model = describe(folder), load(folder)
    if threshold is not None and mean_macs is not None:
        raise ConfigError("--threshold and --mean_macs both say when an exit answers; give one of them")
    if (threshold is not None or mean_macs is not None) and len(model.network.exit_numbers) == 1:
        raise ConfigError(
            f"{folder} has one exit, or one that was left of several; only networks with several answer at any time"
        )
    if threshold is not None and not 0 <= threshold <= 1:
        raise ConfigError(f"--threshold must be from 0 to 1; got {threshold}")
    if mean_macs is not None:
        threshold = threshold_for(operating_points(folder), mean_macs)
    paths = [images] if isinstance(images, Path | str) else images
    return _predictions(model, description, [user_path(image, "IMAGE") for image in paths], top, threshold)


def operating_points(folder: Path) -> tuple[Operating, ...]:
    """Accuracy against mean operations of an exported network with several exits, by threshold.

    Raises:
        CheckpointError: the folder does not hold an exported network, or its description is damaged.
    """
    try:
        return tuple(Operating(**point) for point in describe(folder).get("anytime", ()))
    except TypeError as error:
        raise CheckpointError(f"{folder / 'arch.json'} is damaged ({error}); export the network again") from error


def _predictions(
    model: Deployable, description: dict[str, object], images: Sequence[Path], top: int, threshold: float | None
) -> Iterator[tuple[Path, list[tuple[str, float]]]]:
    inputs, classes = description["input"], description["classes"]
    assert isinstance(inputs, dict)
    assert isinstance(classes, list)
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
        shares = _answer(model, resize(scale(central(batch, inputs["center"])), inputs["resolution"]), threshold)
        best = shares.argsort(descending=True)[:top].tolist()
        yield path, [(classes[label], float(shares[label])) for label in best]
    if bad:
        raise DataError("; ".join(bad))


@torch.no_grad()
def _answer(model: Deployable, images: Tensor, threshold: float | None) -> Tensor:
    """Probabilities of the first image's classes."""
    logits: Tensor = model(images) if threshold is None else model.anytime(images, threshold=threshold)[0]
    return logits.softmax(1)[0]
