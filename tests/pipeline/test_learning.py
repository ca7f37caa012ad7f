"""Stages that learned nothing say so."""

from __future__ import annotations

import math

import pytest

from nat2.pipeline.learning import nothing_predicted, nothing_trained
from nat2.runs.accuracy import Accuracy

GUESSING, GOOD = Accuracy(0.34, 100, 1 / 3), Accuracy(0.8, 100, 1 / 3)


def test_a_super_network_that_guesses_is_reported() -> None:
    assert nothing_trained(0.7, 3, (GOOD, GUESSING)) == ""
    assert nothing_trained(None, 3, (GUESSING, GOOD)) == ""
    assert "neither its largest nor its smallest network beats chance" in nothing_trained(0.7, 3, (GUESSING, GUESSING))
    assert "neither its largest" in nothing_trained(None, 3, (GUESSING, GUESSING))
    told = nothing_trained(math.log(3), 3, (GOOD, GOOD))  # by luck, on a few images
    assert told.startswith("the super-network has learned nothing: its loss of 1.10 is that of guessing, ln(3) = 1.10")
    assert "more steps" in told


@pytest.mark.parametrize(
    ("taus", "reported"),
    [((), False), ((None,), False), ((0.5, -0.1), False), ((0.05, None), True), ((-0.3, 0.2), True)],
)
def test_a_predictor_that_orders_at_random_is_reported(taus: tuple[float | None, ...], reported: bool) -> None:
    told = nothing_predicted(taus, 24)
    assert bool(told) == reported
    assert not reported or "24 validation images" in told
