"""Learning rates follow the batch."""

from __future__ import annotations

import pytest

from nat2.training.rate import REFERENCE_BATCH, rate_for


@pytest.mark.parametrize(("batch_size", "sgd", "adamw"), [(16, 0.25, 0.5), (64, 1.0, 1.0), (256, 4.0, 2.0)])
def test_rates_are_given_for_one_batch_size_and_follow_others(batch_size: int, sgd: float, adamw: float) -> None:
    assert REFERENCE_BATCH == 64
    assert rate_for(0.03, batch_size) == rate_for(0.03, batch_size, "sgd") == pytest.approx(0.03 * sgd)
    assert rate_for(0.03, batch_size, "adamw") == pytest.approx(0.03 * adamw)
