"""How long networks take here."""

from __future__ import annotations

import pytest

from nat2.deploy.latency import measure_latency
from nat2.errors import ConfigError
from nat2.space import Macro, SearchSpace
from nat2.supernet import StaticNetwork

MACRO = Macro(classes=10, width=0.25, stem_stride=1)
SPACE = SearchSpace.of(MACRO, (12, 32))


def test_the_largest_network_takes_longer_than_the_smallest() -> None:
    taken = [measure_latency(StaticNetwork(MACRO, arch).eval()) for arch in (SPACE.smallest, SPACE.largest)]
    assert 2 * taken[0].median < taken[1].median
    for each in taken:
        assert 0 < each.lower <= each.median <= each.upper
        assert each.runs >= 20


def test_more_images_take_longer() -> None:
    network = StaticNetwork(MACRO, SPACE.largest).eval()
    one, many = (measure_latency(network, batch=batch).median for batch in (1, 16))
    assert many > 2 * one


@pytest.mark.parametrize("name", ["batch", "threads"])
def test_nothing_at_once_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"`{name}`"):
        measure_latency(StaticNetwork(MACRO, SPACE.smallest), **{name: 0})  # type: ignore[arg-type]
