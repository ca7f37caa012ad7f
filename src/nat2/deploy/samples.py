"""Images by which files for a device are calibrated, trained and compared."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nat2.deploy.export import answer, open_session


@dataclass(frozen=True)
class TestImages:
    """Images by which files are compared, as an exported network takes them."""

    images: NDArray[np.float32]
    """Shape (N, R, R, channels), values 0..1."""
    labels: NDArray[np.int64]
    logits: NDArray[np.float64]
    """Of ``model.onnx``, shape (N, classes)."""

    __test__ = False

    @staticmethod
    def of(source: Path, batches: Iterable[Tensor], labels: Tensor) -> TestImages:
        """Classify test images with an exported network.

        Args:
            source: Its ``model.onnx``.
            batches: Images (N, channels, R, R) of values 0..1.
            labels: Their classes.
        """
        session, held = open_session(source), [batch.cpu() for batch in batches]
        logits = torch.cat([answer(session, batch) for batch in held]).double().numpy()
        images = torch.cat(held).permute(0, 2, 3, 1).contiguous().numpy()
        return TestImages(images, labels.cpu().numpy(), logits)

    def accuracy(self, logits: NDArray[np.float64] | None = None) -> float:
        """Share of the images that logits, by default those of ``model.onnx``, classify correctly."""
        chosen = self.logits if logits is None else logits
        return float((chosen.argmax(1) == self.labels).mean())

    def agreement(self, logits: NDArray[np.float64]) -> float:
        """Share of the images to which logits give the same class as ``model.onnx``."""
        return float((logits.argmax(1) == self.logits.argmax(1)).mean())

    def difference(self, logits: NDArray[np.float64]) -> float:
        """Largest difference of a logit from ``model.onnx``, relative to the largest logit if that is above 1."""
        return float(np.abs(logits - self.logits).max() / max(1.0, np.abs(self.logits).max()))


@dataclass(frozen=True)
class Samples:
    """Images of a run, as an exported network takes them."""

    calibration: Iterable[Tensor]
    """Training images (N, channels, R, R) of values 0..1, for the ranges of activations."""
    test: TestImages
    """By which files are measured."""
    training: Iterable[Tensor] = ()
    """Training images in batches, at least as many as there are steps."""
    steps: int = 0
    """Gradient steps in which the weights learn to make up for the rounding to 8 bits."""
