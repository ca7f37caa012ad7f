"""Anytime inference: the first exit that is confident enough answers, and nothing behind it is computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nat2.errors import ConfigError

_POINTS = 24  # thresholds on a curve, evenly spaced over the share of images that earlier exits answer
NEVER = 1.01
"""A threshold above any confidence."""


@dataclass(frozen=True)
class OperatingPoint:
    """Cost and accuracy of a network with several exits at one threshold."""

    threshold: float
    """The confidence, 0..1, from which an exit before the last answers; above 1 none does."""
    macs: float
    """Multiply-accumulates per image, mean over the test images."""
    val_macs: float
    """The same over the validation images, with weights not trained on them."""
    val_accuracy: float
    test_accuracy: float


def running_answers(logits: Tensor, weights: Tensor) -> Tensor:
    """Joint answers of the exits up to each one: the weighted mean of their logits.

    Args:
        logits: Shape (exits, N, classes).
        weights: Of the outputs, shape (exits,).

    Returns:
        Shape (exits, N, classes); the last is the joint answer of all exits.
    """
    weighted = (logits * weights.to(logits)[:, None, None]).cumsum(0)
    return weighted / weights.to(logits).cumsum(0)[:, None, None]


def confidence(answers: Tensor) -> Tensor:
    """Largest probability of each answer (..., classes), 0..1."""
    return answers.softmax(-1).amax(-1)


@dataclass(frozen=True)
class ExitLogits:
    """Logits of a network for labelled images, per exit."""

    logits: Tensor
    """Shape (exits, N, classes)."""
    labels: Tensor
    """Shape (N,)."""

    def at(self, threshold: float, weights: Tensor, macs: Sequence[float]) -> tuple[float, float]:
        """Accuracy and mean operations at a threshold; `macs` are those up to each exit."""
        answers = running_answers(self.logits, weights)
        sure = confidence(answers) >= threshold
        sure[-1] = True
        first = sure.int().argmax(0)  # index of the first True
        predicted = answers.argmax(-1).gather(0, first[None])[0]
        right = float((predicted == self.labels).double().mean())
        return right, float(torch.tensor(macs, dtype=torch.float64)[first.cpu()].mean())


def curve(val: ExitLogits, test: ExitLogits, weights: Tensor, macs: Sequence[float]) -> tuple[OperatingPoint, ...]:
    """Accuracy against mean operations by threshold, cheapest first; at the last point only the last exit answers.

    Args:
        val: On validation images, with weights not trained on them; the thresholds are chosen on these.
        test: On test images.
        weights: Of the outputs.
        macs: Multiply-accumulates up to each exit.
    """
    sure = confidence(running_answers(val.logits, weights))[:-1].flatten()
    levels = torch.linspace(0, 1, _POINTS, dtype=torch.float64)
    thresholds = [*sorted({*torch.quantile(sure.double().cpu(), levels).tolist(), 0.0}), NEVER]
    points = []
    for threshold in thresholds:
        val_accuracy, val_macs = val.at(threshold, weights, macs)
        test_accuracy, test_macs = test.at(threshold, weights, macs)
        points.append(OperatingPoint(threshold, test_macs, val_macs, val_accuracy, test_accuracy))
    distinct = {(point.val_macs, point.macs): point for point in points}
    return tuple(distinct.values())


def threshold_for(points: Sequence[OperatingPoint], macs: float) -> float:
    """The most accurate threshold with at most `macs` operations per image in the mean.

    Both are measured on validation images.

    Raises:
        ConfigError: even the first exit takes more, or there is no curve.
    """
    within = [point for point in points if point.val_macs <= macs]
    if not within:
        least = f"; the least is {min(point.val_macs for point in points):,.0f}" if points else ""
        raise ConfigError(f"no threshold has {macs:,.0f} MACs in the mean{least}")
    return max(within, key=lambda point: (point.val_accuracy, -point.val_macs)).threshold
