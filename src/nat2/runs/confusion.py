"""Which classes a network takes for which, and how accurate it is on each."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import confusion_matrix

from nat2.runs.accuracy import Accuracy


@dataclass(frozen=True)
class Confusion:
    """A confusion matrix."""

    counts: NDArray[np.int64]
    """Number of images by true class (rows) and predicted class (columns), shape (classes, classes)."""

    @staticmethod
    def of(labels: ArrayLike, predicted: ArrayLike, classes: int) -> Confusion:
        """Count the answers.

        Args:
            labels: True class indices, shape (n,).
            predicted: Predicted class indices, shape (n,).
            classes: Number of classes.
        """
        return Confusion(confusion_matrix(labels, predicted, labels=np.arange(classes)))

    @cached_property
    def images(self) -> list[int]:
        """Number of images of each class."""
        return [int(count) for count in self.counts.sum(1)]

    @property
    def mistakes(self) -> int:
        """Number of misclassified images."""
        return int(self.counts.sum() - self.counts.trace())

    @property
    def accuracy(self) -> Accuracy:
        """The share of all images that are classified correctly."""
        return Accuracy.over(float(self.counts.trace() / self.counts.sum()), self.images)

    @property
    def balanced(self) -> Accuracy:
        """Balanced accuracy: the mean of the accuracies of the classes that have images (macro-averaged recall).

        Its standard error is that of a mean of independent accuracies; chance is one in the number of classes.
        """
        each = [accuracy for label in range(len(self.counts)) if (accuracy := self.recall(label)) is not None]
        errors = np.array([accuracy.standard_error for accuracy in each], dtype=np.float64)
        return Accuracy(
            float(np.mean([accuracy.share for accuracy in each])),
            sum(self.images),
            1 / len(each),
            float(np.sqrt((errors**2).sum())) / len(each),
        )

    def recall(self, label: int) -> Accuracy | None:
        """The accuracy on the images of a class; None if there are none."""
        return _share(self.counts[label, label], self.counts[label].sum())

    def precision(self, label: int) -> Accuracy | None:
        """The share of correct answers among those that name a class; None if there are none."""
        return _share(self.counts[label, label], self.counts[:, label].sum())

    def most_taken_for(self, label: int) -> tuple[int, int] | None:
        """The class that images of a class are most often taken for, and how many are; None if none is mistaken."""
        wrong = self.counts[label].copy()
        wrong[label] = 0
        other = int(wrong.argmax())
        return (other, int(wrong[other])) if wrong[other] else None

    def pairs(self, most: int) -> list[tuple[int, int, int]]:
        """True class, predicted class and number of images of the most frequent mistakes, at most `most`."""
        wrong = self.counts - np.diag(self.counts.diagonal())
        order = np.argsort(-wrong, axis=None, kind="stable")[:most]
        rows, columns = np.unravel_index(order, wrong.shape)
        return [(int(i), int(j), int(wrong[i, j])) for i, j in zip(rows, columns, strict=True) if wrong[i, j]]


def _share(right: np.int64, images: np.int64) -> Accuracy | None:
    return Accuracy(float(right / images), int(images)) if images else None
