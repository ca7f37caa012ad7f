"""Confusion, and accuracies by class, against scikit-learn's definitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, balanced_accuracy_score, precision_recall_fscore_support

from nat2.runs.accuracy import imbalanced, standard_error
from nat2.runs.confusion import Confusion

ANSWERS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=60)


@given(ANSWERS)
def test_shares_are_scikit_learn_s(answers: list[tuple[int, int]]) -> None:
    labels, predicted = map(np.array, zip(*answers, strict=True))
    confusion = Confusion.of(labels, predicted, 5)
    precisions, recalls, _, support = precision_recall_fscore_support(
        labels, predicted, labels=range(5), zero_division=np.nan
    )
    assert confusion.images == support.tolist()
    assert confusion.accuracy.share == pytest.approx(accuracy_score(labels, predicted))
    assert confusion.mistakes == int((labels != predicted).sum())
    present = sorted(set(labels.tolist()))
    assert confusion.balanced.share == pytest.approx(recalls[present].mean())
    if len(present) > 1 and set(predicted.tolist()) <= set(present):  # the library warns of anything else
        assert confusion.balanced.share == pytest.approx(balanced_accuracy_score(labels, predicted))
    for label in range(5):
        recall, precision = confusion.recall(label), confusion.precision(label)
        assert (recall.share if recall else np.nan) == pytest.approx(recalls[label], nan_ok=True)
        assert (precision.share if precision else np.nan) == pytest.approx(precisions[label], nan_ok=True)


def test_balanced_accuracy_counts_classes_and_knows_its_error() -> None:
    """A network that always names the largest class is right on 90 % of the images and on half of the classes."""
    confusion = Confusion(np.array([[90, 0], [10, 0]]))
    assert confusion.accuracy.share == 0.9
    balanced = confusion.balanced
    assert (balanced.share, balanced.chance, balanced.beats_chance) == (0.5, 0.5, False)
    expected = np.hypot(standard_error(1.0, 90), standard_error(0.0, 10)) / 2
    assert balanced.standard_error == pytest.approx(expected)


def test_the_standard_error_of_balanced_accuracy_is_the_spread_over_test_sets() -> None:
    generator, rights = np.random.default_rng(0), (0.9, 0.6, 0.3)
    images = (400, 100, 25)
    shares = [np.mean([generator.binomial(n, p) / n for n, p in zip(images, rights, strict=True)]) for _ in range(4000)]
    counts = np.zeros((3, 3), dtype=np.int64)
    for label, (n, p) in enumerate(zip(images, rights, strict=True)):
        counts[label, label], counts[label, (label + 1) % 3] = round(n * p), n - round(n * p)
    assert Confusion(counts).balanced.standard_error == pytest.approx(np.std(shares), rel=0.05)


def test_the_most_frequent_mistakes_come_first() -> None:
    confusion = Confusion(np.array([[5, 3, 0], [1, 9, 7], [0, 0, 2]]))
    assert confusion.pairs(20) == [(1, 2, 7), (0, 1, 3), (1, 0, 1)]
    assert confusion.pairs(1) == [(1, 2, 7)]
    assert [confusion.most_taken_for(label) for label in range(3)] == [(1, 3), (2, 7), None]


@pytest.mark.parametrize(
    ("counts", "expected"),
    [((), False), ((5, 5), False), ((5, 9), False), ((5, 10), True), ((0, 3), True), ((100, 1, 100), True)],
)
def test_classes_are_imbalanced_from_twice_the_images_on(counts: tuple[int, ...], expected: bool) -> None:
    assert imbalanced(counts) == expected
