"""How far an accuracy can be trusted."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nat2.runs.accuracy import Accuracy, chance_of, standard_error


@pytest.mark.parametrize(
    ("counts", "expected"),
    [((5, 5), 0.5), ((9, 1), 0.9), ((0, 7, 0), 1.0), ((1, 2, 3, 4), 0.4), ((), None), ((0,), None)],
)
def test_chance_is_the_share_of_the_largest_class(counts: tuple[int, ...], expected: float | None) -> None:
    assert chance_of(counts) == expected


def test_the_standard_error_is_the_binomial_one() -> None:
    assert standard_error(0.9, 400) == pytest.approx(0.015)
    assert standard_error(0.5, 4) == pytest.approx(0.25)
    assert standard_error(1 / 359, 359) == pytest.approx(math.sqrt(358) / 359**1.5)


@pytest.mark.parametrize("images", [1, 2, 10, 359, 100_000])
def test_all_right_or_all_wrong_is_uncertain_too(images: int) -> None:
    error = standard_error(1.0, images)
    assert error == standard_error(0.0, images) == standard_error(1 - 1e-12, images)
    assert error == pytest.approx(math.sqrt((images + 0.5) * 0.5) / (images + 1) ** 1.5)
    if images > 1:
        assert 0 < error < standard_error(1 / images, images)


@given(st.integers(1, 10_000), st.floats(0, 1))
def test_more_images_make_it_smaller(images: int, share: float) -> None:
    right = round(share * images)
    error = standard_error(right / images, images)
    assert 0 < error <= 0.5
    assert standard_error(right / images, 4 * images) < error
    assert error == pytest.approx(standard_error(1 - right / images, images))


@pytest.mark.parametrize(("share", "images"), [(1.1, 10), (-0.1, 10), (0.5, 0), (math.nan, 10)])
def test_what_is_no_accuracy_is_refused(share: float, images: int) -> None:
    with pytest.raises(ValueError, match="a share"):
        standard_error(share, images)


@pytest.mark.parametrize(
    ("share", "counts", "beats"),
    [
        (0.52, (50, 50), False),  # 0.050 above and below
        (0.551, (50, 50), True),
        (0.549, (50, 50), False),
        (0.9, (90, 10), False),  # far above 1 / classes, and yet what naming the largest class reaches
        (0.935, (90, 10), True),
        (1.0, (2, 1), True),
        (1.0, (1,), False),  # with one class nothing can be shown
        (0.3, (10, 10), False),
    ],
)
def test_chance_is_beaten_by_more_than_the_standard_error(share: float, counts: tuple[int, ...], beats: bool) -> None:
    assert Accuracy.over(share, counts).beats_chance is beats


def test_what_is_unknown_is_not_told() -> None:
    unknown = Accuracy.over(0.2, ())
    assert (unknown.standard_error, unknown.beats_chance, unknown.percent) == (None, True, "20.0")


@pytest.mark.parametrize(
    ("share", "images", "told"),
    [(0.9777, 359, "97.8 ± 0.8"), (1.0, 359, "100.0 ± 0.2"), (0.5, 4, "50.0 ± 25.0"), (0.9, 1_000_000, "90.00 ± 0.03")],
)
def test_accuracies_are_told_with_their_standard_error(share: float, images: int, told: str) -> None:
    assert Accuracy(share, images).percent == told
