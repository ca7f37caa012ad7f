"""A run summarised in words: printed before it begins, and shown on its page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nat2.nas.budget import format_bound
from nat2.nas.objectives import Objective
from nat2.space import Macro, SearchSpace, cost

Fact = tuple[str, str]
"""A label, and the text next to it."""


def images_fact(images: Mapping[str, int], *, classes: int, channels: int) -> Fact:
    """How many images there are in each split, and of what kind."""
    kind = "grey" if channels == 1 else "colour"
    counts = f"{images['train']:,} training, {images['val']:,} validation and {images['test']:,} test"
    return "images", f"{counts} images ({kind}) of {classes} classes"


def search_facts(
    macros: Sequence[Macro], space: SearchSpace, objectives: Sequence[Objective], recorded: Sequence[Objective]
) -> list[Fact]:
    """What is searched, for what, and within which bounds.

    Args:
        macros: The macro-architecture of each width, narrowest first.
        space: The search space.
        objectives: What is optimised.
        recorded: What is recorded in addition.
    """
    smallest, largest = cost(macros[0], space.smallest), cost(macros[-1], space.largest)
    widths, sides = " and ".join(str(macro.width) for macro in macros), ", ".join(map(str, space.resolutions))
    bounds = [format_bound(each) for each in (*objectives, *recorded) if each.bounded]
    return [
        (
            "search space",
            f"{space.size:.1e} networks: {macros[0].family} of width {widths}, from {smallest.params:,} to "
            f"{largest.params:,} parameters, at {sides} pixels",
        ),
        ("objectives", ", ".join(each.name for each in objectives)),
        *([("budget", ", ".join(bounds))] if bounds else []),
    ]
