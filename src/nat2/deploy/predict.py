"""Classify image files with an exported network."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nat2.data.decode import read_square
from nat2.data.depth import SIXTEEN_BITS, DeepImage, Pixels, ValueRange
from nat2.data.formats import way_out, why_unreadable
from nat2.data.transform import central, resize, scale
from nat2.data.walk import Folder
from nat2.deploy.anytime import OperatingPoint, threshold_for
from nat2.deploy.deployable import Deployable, load
from nat2.deploy.description import check_network, describe
from nat2.environment import available_cores
from nat2.errors import CheckpointError, ConfigError, DataError
from nat2.files import JsonObject
from nat2.validation import user_path

BATCH = 64
_AHEAD = 2  # batches decoded in advance


@dataclass(frozen=True)
class Prediction:
    """The prediction for one image."""

    image: Path
    answers: tuple[tuple[str, float], ...] = ()
    """The most probable classes and their probabilities (0..1), most probable first."""
    error: str = ""
    """Why the image cannot be read; empty if it could be."""


@dataclass(frozen=True)
class Classifier:
    """An exported network with the options of a prediction."""

    model: Deployable
    classes: tuple[str, ...]
    inputs: JsonObject
    """The content of ``preprocessing.json``."""
    top: int = 3
    """Number of classes per answer."""
    threshold: float | None = None
    """Confidence from which the first of several exits answers; None if all answer jointly."""

    @staticmethod
    def of(
        network: Path | str, *, top: int = 3, threshold: float | None = None, mean_macs: float | None = None
    ) -> Classifier:
        """Load a network; same arguments and errors as `predict`."""
        if top < 1:
            raise ConfigError(f"--top must be at least 1; got {top}")
        folder = user_path(network, "NETWORK")
        check_network(folder, command="nat2 predict {} IMAGE")
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
        return Classifier(model, tuple(description["classes"]), description["input"], top, threshold)

    def classify(self, images: Sequence[Path], *, batch_size: int = BATCH) -> Iterator[Prediction]:
        """Classify image files in order, with a few batches in memory at a time.

        Args:
            images: Paths.
            batch_size: Images per batch.

        Raises:
            ConfigError: `batch_size` is below 1.
        """
        if batch_size < 1:
            raise ConfigError(f"--batch must be at least 1; got {batch_size}")
        return self._classified(images, batch_size)

    def _classified(self, images: Sequence[Path], batch_size: int) -> Iterator[Prediction]:
        prepared = _ahead(self._prepared, images, count=_AHEAD * batch_size)
        for first in range(0, len(images), batch_size):
            paths = images[first : first + batch_size]
            inputs = [next(prepared) for _ in paths]
            readable = [each for each in inputs if not isinstance(each, str)]
            shares = iter(self._shares(torch.cat(readable)) if readable else ())
            for path, each in zip(paths, inputs, strict=True):
                if isinstance(each, str):
                    yield Prediction(path, error=each)
                else:
                    yield Prediction(path, self._answers(next(shares)))

    def _prepared(self, path: Path) -> Tensor | str:
        """The network's input for an image, shape (1, channels, R, R), or why it cannot be read."""
        try:
            if path.exists() and not path.is_file():  # a pipe would be waited for
                raise ValueError("a folder or a device")
            pixels = read_as_trained(path, self.inputs, grey=self.model.mean.shape[1] == 1)
        except Exception as error:  # Pillow raises almost anything on damaged files
            return why_unreadable(path, error)
        batch = torch.from_numpy(pixels.transpose(2, 0, 1).copy())[None]
        return resize(scale(central(batch, self.inputs["center"])), self.inputs["resolution"])

    @torch.inference_mode()
    def _shares(self, images: Tensor) -> Tensor:
        """Probabilities (N, classes)."""
        model, threshold = self.model, self.threshold
        logits: Tensor = model(images) if threshold is None else model.anytime(images, threshold=threshold)[0]
        return logits.softmax(1)

    def _answers(self, shares: Tensor) -> tuple[tuple[str, float], ...]:
        best = shares.argsort(descending=True)[: self.top].tolist()
        return tuple((self.classes[label], float(shares[label])) for label in best)


def predict(
    network: Path | str,
    images: Path | str | Sequence[Path | str],
    *,
    top: int = 3,
    threshold: float | None = None,
    mean_macs: float | None = None,
    batch_size: int = BATCH,
) -> Iterator[tuple[Path, list[tuple[str, float]]]]:
    """Yield each image with its most probable classes and their probabilities (0..1), most probable first.

    Args:
        network: Folder of an exported network.
        images: One or several image files and folders; each image is preprocessed as in training.
        top: Number of classes per image.
        threshold: Answer with the first exit of at least this confidence, 0..1; by default all exits answer jointly.
        mean_macs: The same, with the threshold that needs this many multiply-accumulates per image on average.
        batch_size: Images per batch; it affects the speed only.

    Raises:
        CheckpointError: the folder does not hold an exported network.
        ConfigError: `top` or `batch_size` is below 1, or the network does not support the options for exits.
        DataError: a folder holds no images; or images cannot be read, raised after all others are classified.
    """
    classifier = Classifier.of(network, top=top, threshold=threshold, mean_macs=mean_macs)
    paths, _ = find_images([images] if isinstance(images, Path | str) else images)
    return _readable(classifier.classify(paths, batch_size=batch_size))


def find_images(given: Iterable[Path | str]) -> tuple[list[Path], int]:
    """Image files given and those in folders, recursively and sorted; and the number of other files.

    Raises:
        DataError: a folder holds no images.
    """
    found: list[Path] = []
    others = 0
    for path in (user_path(each, "IMAGE") for each in given):
        if not path.is_dir():
            found.append(path)
            continue
        contents = Folder.at(path).contents
        if not contents.images:
            ways = f"; {way_out(contents.lost)}" if contents.lost else ""
            raise DataError(f"{path} holds no images that can be read{ways}")
        found += contents.images
        others += contents.lost.total() + contents.others.total()
    return found, others


def read_as_trained(path: Path, inputs: JsonObject, *, grey: bool) -> Pixels:
    """Read an image as the training images were stored, shape (side, side, channels).

    Args:
        path: The file.
        inputs: The content of ``preprocessing.json``.
        grey: Whether the network takes grey images.

    Raises:
        ValueError: it has floating-point values, but no training image had more than 8 bits.
        Exception: Pillow raises almost anything on damaged files.
    """
    span = inputs.get("range")
    image = read_square(
        path,
        inputs["side"],
        grey=grey,
        deep="range" in inputs,  # 0.1.0 trained on 16 bits reduced to 8 first, and on JPEGs at full size
        floats=span is not None,
        jpeg_gap=inputs.get("jpeg_gap", 0),
    )
    pixels = image.scaled(ValueRange(*span) if span else SIXTEEN_BITS) if isinstance(image, DeepImage) else image
    return np.broadcast_to(pixels, (*pixels.shape[:2], 1 if grey else 3))


def operating_points(folder: Path) -> tuple[OperatingPoint, ...]:
    """Accuracy against mean operations of an exported network with several exits, by threshold.

    Raises:
        CheckpointError: the folder does not hold an exported network, or its description is damaged.
    """
    try:
        return tuple(OperatingPoint(**point) for point in describe(folder).get("anytime", ()))
    except TypeError as error:
        raise CheckpointError(f"{folder / 'arch.json'} is damaged ({error}); export the network again") from error


def refusal(bad: Sequence[Prediction]) -> DataError:
    """The error that lists the images that cannot be read."""
    lines = [f"{each.image} cannot be read as an image ({each.error})" for each in bad]
    return DataError(lines[0] if len(bad) == 1 else "\n  ".join([f"{len(bad)} images cannot be read:", *lines]))


def _readable(predictions: Iterator[Prediction]) -> Iterator[tuple[Path, list[tuple[str, float]]]]:
    bad = []
    for each in predictions:
        if each.error:
            bad.append(each)
        else:
            yield each.image, list(each.answers)
    if bad:
        raise refusal(bad)


def _ahead(work: Callable[[Path], Tensor | str], images: Iterable[Path], *, count: int) -> Iterator[Tensor | str]:
    """Results of `work` in order; threads compute up to `count` of them in advance."""
    waiting: deque[Future[Tensor | str]] = deque()
    with ThreadPoolExecutor(available_cores()) as pool:
        try:
            for image in images:
                waiting.append(pool.submit(work, image))
                if len(waiting) > count:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
