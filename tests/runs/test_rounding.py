"""Times are written with the digits that their spread supports."""

from __future__ import annotations

import pytest

from nat2.deploy.latency import Latency
from nat2.runs.rounding import milliseconds, rounded


@pytest.mark.parametrize(
    ("median", "lower", "upper", "told"),
    [
        (0.03163, 0.0305, 0.0336, "0.032"),
        (0.03163, 0.0311, 0.0319, "0.0316"),
        (1.2345, 1.1, 1.4, "1.2"),
        (12.345, 12.34, 12.35, "12.3"),  # three digits at most
        (1234.5, 1100.0, 1400.0, "1,200"),
        (5.2, 1.0, 30.0, "5"),  # one digit at least
        (2.5, 2.5, 2.5, "2.50"),
        (0.0, 0.0, 0.0, "0.00"),
    ],
)
def test_digits_are_those_that_the_quartiles_support(median: float, lower: float, upper: float, told: str) -> None:
    assert milliseconds(median, Latency(median, lower, upper, 20)) == told
    assert float(told.replace(",", "")) == rounded(median, upper - lower)


def test_quartiles_are_written_like_the_median() -> None:
    latency = Latency(0.03163, 0.0305, 0.0336, 20)
    assert [milliseconds(value, latency) for value in (latency.lower, latency.upper)] == ["0.030", "0.034"]
    assert milliseconds(0.03163, Latency(0.03163, 0.0316, 0.0317, 20), most=2) == "0.032"
