"""Counts agree with their nouns."""

from __future__ import annotations

import pytest

from nat2.wording import counted


@pytest.mark.parametrize(
    ("count", "noun", "expected"),
    [
        (0, "image", "0 images"),
        (1, "image", "1 image"),
        (1797, "image", "1,797 images"),
        (1, "class", "1 class"),
        (2, "class", "2 classes"),
    ],
)
def test_counts_agree_with_their_nouns(count: int, noun: str, expected: str) -> None:
    assert counted(count, noun) == expected
