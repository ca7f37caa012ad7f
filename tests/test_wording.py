"""Counts agree with their nouns."""

from __future__ import annotations

import pytest

from nat2.wording import counted, first_few, one_line, shortened, shown


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


@pytest.mark.parametrize(
    ("names", "told", "open_ended"),
    [
        ("ab", "a, b", "a, b"),
        ("abc", "a, b, c", "a, b, c"),
        ("abcde", "a, b, c and 2 more", "a, b, c, ..."),
        ("", "", ""),
    ],
)
def test_long_lists_are_cut(names: str, told: str, open_ended: str) -> None:
    assert shown(iter(names), 3) == told
    assert first_few(list(names), 3) == open_ended
    assert first_few(list(names), 3, separator="; ") == open_ended.replace(",", ";")


def test_lines_keep_their_ends_when_they_are_cut() -> None:
    assert shortened("short\n" + "a" * 600 + "b" * 600) == "short\n" + "a" * 500 + " ... " + "b" * 500
    assert shortened("a" * 1000) == "a" * 1000


def test_an_error_is_told_in_a_line() -> None:
    assert one_line(ValueError("no\n  such \tthing")) == "no such thing"
    assert one_line(ValueError("x" * 300), most=200) == "x" * 200
    assert one_line(SilentError()) == "SilentError"


class SilentError(Exception):
    """Says nothing."""
