"""What a run is about, in words."""

from __future__ import annotations

from dataclasses import replace

from nat2.nas.objectives import OBJECTIVES
from nat2.runs.facts import images_fact, search_facts
from nat2.space import Macro, SearchSpace, cost


def test_images_are_counted_by_split() -> None:
    images = {"train": 1079, "val": 359, "test": 1}
    told = "1,079 training, 359 validation and 1 test images ({}) of 10 classes"
    assert images_fact(images, classes=10, channels=1) == ("images", told.format("grey"))
    assert images_fact(images, classes=10, channels=3) == ("images", told.format("colour"))


def test_the_space_reaches_from_the_smallest_narrow_to_the_largest_wide_network() -> None:
    macros = [Macro(classes=4, width=width, early_exits=False) for width in (0.25, 0.5)]
    space = SearchSpace.of(macros, (24, 32))
    ends = cost(macros[0], space.smallest).params, cost(macros[1], space.largest).params
    objectives = (OBJECTIVES["error"], replace(OBJECTIVES["params"], high=200_000))
    facts = search_facts(macros, space, objectives, (replace(OBJECTIVES["latency"], high=3),))
    assert facts == [
        (
            "search space",
            f"{space.size:.1e} networks: SE_D of width 0.25 and 0.5, from {ends[0]:,} to {ends[1]:,} parameters, "
            "at 24, 32 pixels",
        ),
        ("objectives", "error, params"),
        ("budget", "params <= 200,000, latency <= 3 ms"),
    ]
    assert [name for name, _ in search_facts(macros, space, objectives[:1], ())] == ["search space", "objectives"]
