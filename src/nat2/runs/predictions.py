"""What a finished network answered on validation and test images, and the mistakes of which it was most confident."""

from __future__ import annotations

import base64
import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from nat2.data.dataset import Split
from nat2.files import write_csv, write_json
from nat2.runs.confusion import Confusion

PREDICTIONS, MISTAKES = "predictions.csv", "mistakes.json"
_WORST = 12  # mistakes of each split that are kept with their image
_SIDE = 64  # pixels of a thumbnail at most, which bounds its bytes


@dataclass(frozen=True)
class Predictions:
    """The answers of a network on the images of a split."""

    names: Sequence[str]
    """What each image is called in its source."""
    labels: NDArray[np.int64]
    """True class indices, shape (n,)."""
    predicted: NDArray[np.int64]
    """Predicted class indices, shape (n,)."""
    confidence: NDArray[np.float64]
    """Probability of the predicted class, 0..1, shape (n,)."""

    @staticmethod
    def of(logits: Tensor, split: Split) -> Predictions:
        """The answers that logits of shape (n, classes) stand for."""
        confidence, predicted = logits.double().softmax(1).max(1)
        labels = split.labels.cpu().numpy()
        return Predictions(split.names, labels, predicted.cpu().numpy(), confidence.cpu().numpy())

    def confusion(self, classes: int) -> Confusion:
        """Which classes are taken for which."""
        return Confusion.of(self.labels, self.predicted, classes)

    def worst(self) -> list[int]:
        """Indices of the mistakes of which the network was most confident, the worst first."""
        wrong = np.flatnonzero(self.labels != self.predicted)
        return [int(index) for index in wrong[np.argsort(-self.confidence[wrong], kind="stable")][:_WORST]]


@dataclass(frozen=True)
class Mistake:
    """A misclassified image."""

    image: str
    """What it is called in its source."""
    true: str
    """Its class."""
    predicted: str
    """The class that the network named."""
    confidence: float
    """The probability that the network gave it, 0..1."""
    jpeg: str
    """The image at 64 x 64 pixels at most, as JPEG in base 64."""


@dataclass(frozen=True)
class Answers:
    """What is kept of a finished network's answers; both by split, ``val`` and ``test``.

    The validation images were answered when the network had been trained on training images alone, the test images by
    the network as it is exported.
    """

    predictions: Mapping[str, Predictions]
    worst: Mapping[str, Sequence[Mistake]]


def answers_on(splits: Mapping[str, tuple[Tensor, Split]], classes: Sequence[str]) -> Answers:
    """Collect the answers of a network.

    Args:
        splits: Logits of shape (n, classes) and the images, by split.
        classes: Names of the classes.
    """
    predictions = {name: Predictions.of(logits, split) for name, (logits, split) in splits.items()}
    return Answers(
        predictions,
        {name: _worst(predictions[name], split, classes) for name, (_, split) in splits.items()},
    )


def _worst(predictions: Predictions, split: Split, classes: Sequence[str]) -> list[Mistake]:
    chosen = predictions.worst()
    images = split.pixels[torch.tensor(chosen)] if chosen else ()
    return [
        Mistake(
            predictions.names[index],
            classes[predictions.labels[index]],
            classes[predictions.predicted[index]],
            round(float(predictions.confidence[index]), 4),
            thumbnail(pixels),
        )
        for index, pixels in zip(chosen, images, strict=True)
    ]


def thumbnail(pixels: Tensor) -> str:
    """An 8-bit image of shape (1 or 3, side, side) at 64 x 64 pixels at most, as JPEG in base 64."""
    image = Image.fromarray(pixels.cpu().permute(1, 2, 0).squeeze(2).numpy())
    larger = _SIDE // image.width
    if larger > 1:  # so that a browser does not blur it
        image = image.resize((larger * image.width, larger * image.height), Image.Resampling.NEAREST)
    image.thumbnail((_SIDE, _SIDE))
    buffer = io.BytesIO()
    image.save(buffer, format="jpeg", quality=85)
    return base64.b64encode(buffer.getvalue()).decode()


def write_answers(folder: Path, answers: Answers, classes: Sequence[str]) -> None:
    """Write ``predictions.csv`` and ``mistakes.json`` into a network's folder."""
    write_csv(
        folder / PREDICTIONS,
        (
            {
                "split": split,
                "image": name,
                "class": classes[label],
                "predicted": classes[predicted],
                "confidence": f"{confidence:.4f}",
            }
            for split, each in answers.predictions.items()
            for name, label, predicted, confidence in zip(
                each.names, each.labels.tolist(), each.predicted.tolist(), each.confidence.tolist(), strict=True
            )
        ),
    )
    write_json(
        folder / MISTAKES, {split: [asdict(mistake) for mistake in worst] for split, worst in answers.worst.items()}
    )


def read_answers(folder: Path, classes: Sequence[str]) -> Answers | None:
    """Read what `write_answers` wrote; None if there is nothing, as in runs of earlier releases.

    Raises:
        OSError, ValueError, KeyError, TypeError: the files are damaged.
    """
    if not (folder / PREDICTIONS).exists():
        return None
    numbers = {_as_written(name): number for number, name in enumerate(classes)}
    with (folder / PREDICTIONS).open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    predictions = {
        split: Predictions(
            [row["image"] for row in chosen],
            np.array([numbers[row["class"]] for row in chosen], dtype=np.int64),
            np.array([numbers[row["predicted"]] for row in chosen], dtype=np.int64),
            np.array([float(row["confidence"]) for row in chosen]),
        )
        for split in ("val", "test")
        if (chosen := [row for row in rows if row["split"] == split])
    }
    stored = json.loads((folder / MISTAKES).read_text(encoding="utf-8"))
    worst = {split: [Mistake(**each) for each in stored[split]] for split in predictions}
    if set(predictions) != {"val", "test"}:
        raise ValueError(f"{PREDICTIONS} does not hold validation and test images")
    return Answers(predictions, worst)


def _as_written(name: str) -> str:
    """A class name as `write_csv` writes it: bytes of file names in other encodings are escaped."""
    return name.encode(errors="backslashreplace").decode()
