"""Measured times, written with the digits that their spread supports."""

from __future__ import annotations

import math

from nat2.deploy.latency import Latency


def decimals(value: float, spread: float, most: int = 3) -> int:
    """Number of decimals for a measured value; negative numbers round to tens, hundreds and so on.

    The last digit kept has the position of the spread's first digit. At least one digit of the value is kept.

    Args:
        value: The median.
        spread: Distance between the quartiles; 0 supports as many digits as are allowed.
        most: Largest number of significant digits.
    """
    if not value or not math.isfinite(value):
        return 2
    first = -math.floor(math.log10(abs(value)))
    wanted = -math.floor(math.log10(spread)) if spread > 0 and math.isfinite(spread) else first + most
    return min(max(wanted, first), first + most - 1)


def rounded(value: float, spread: float) -> float:
    """A measured value, rounded to what its spread supports."""
    return round(value, decimals(value, spread))


def milliseconds(value: float, latency: Latency, *, most: int = 3) -> str:
    """A latency's median or quartile, to the digits that its spread supports: ``0.032``, ``130``."""
    places = decimals(latency.median, latency.spread, most)
    return f"{round(value, places):,.{max(0, places)}f}"
