"""What is said before any work begins."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from nat2.data.dataset import read_dataset
from nat2.pipeline.prepare import balance_facts, told_classes


@pytest.mark.parametrize("count", [3, 20, 200])
def test_classes_are_listed_with_their_images(count: int) -> None:
    digits = read_dataset("digits", side=8)
    names = tuple(f"class {number:03d}" for number in range(count))
    labels = torch.cat([torch.arange(count), torch.arange(count), torch.tensor([1, 1, 2])])
    split = dataclasses.replace(digits.train, labels=labels)
    empty = dataclasses.replace(digits.val, labels=labels[:0])
    told = told_classes(dataclasses.replace(digits, classes=names, train=split, val=empty, test=empty))
    assert told.startswith("class 000 2, class 001 4, class 002 3")
    if count == 200:
        assert told.endswith("class 015 2, 182 more, class 198 2, class 199 2; fewest: class 000 2, most: class 001 4")
        assert len(told) < 400
    else:
        assert told.count(", ") == count - 1


def test_images_of_all_splits_are_counted_and_long_names_cut() -> None:
    digits = read_dataset("digits", side=8)
    told = told_classes(dataclasses.replace(digits, classes=("a" * 200, *digits.classes[1:])))
    assert told.startswith("a" * 40 + "... 178, 1 182, 2 177, ")


@pytest.mark.parametrize(
    ("counts", "balance", "expected"),
    [
        ((10, 10, 29), False, ""),
        ((10, 10, 30), False, "--balance draws every class equally often"),
        ((10, 10, 30), True, "training draws the images of every class equally often"),
        ((10, 10, 10), True, "training draws the images of every class equally often"),
    ],
)
def test_how_classes_are_drawn_is_told_where_it_matters(counts: tuple[int, ...], balance: bool, expected: str) -> None:
    digits = read_dataset("digits", side=8)
    labels = torch.arange(3).repeat_interleave(torch.tensor(counts))
    split = dataclasses.replace(digits.train, labels=labels)
    told = balance_facts(dataclasses.replace(digits, classes=("a", "b", "c"), train=split), balance=balance)
    assert len(told) == bool(expected)
    assert not expected or expected in told[0][1]
