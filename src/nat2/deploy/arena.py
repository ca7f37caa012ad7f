"""Where each activation lies in the memory of a microcontroller.

TensorFlow Lite Micro lays activations out by size alone, which leaves gaps of up to a tenth. A file may bring a layout
of its own; the one here has no gaps in nearly all networks, so the memory needed is what lives at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from nat2.deploy.operators import OperatorGraph
from nat2.space.device import aligned

_TRIES = 200


class Lifetime(NamedTuple):
    """How much memory an activation takes, and from which operator to which."""

    size: int
    first: int
    last: int


def lifetimes(graph: OperatorGraph) -> dict[str, Lifetime]:
    """Of each activation by name; with 8 bits, in bytes."""
    first = dict.fromkeys(graph.maps, 0) | {each.output: n for n, each in enumerate(graph.operators)}
    last = first | {name: n for n, each in enumerate(graph.operators) for name in each.inputs}
    return {name: Lifetime(aligned(shape.values), first[name], last[name]) for name, shape in graph.maps.items()}


def most_at_once(given: Sequence[Lifetime]) -> int:
    """Bytes of the activations that live at once, where they are most; no layout takes less."""
    times = range(max(each.last for each in given) + 1)
    return max(sum(each.size for each in given if each.first <= time <= each.last) for time in times)


def layout(given: Sequence[Lifetime]) -> list[int]:
    """The offset of each activation, so that those that live at once do not overlap.

    Activations are placed one by one, each in the lowest gap. The order decides how well that works: by size is tried
    first, then by time, then random changes of the former, always the same ones, until nothing is wasted.
    """
    least, generator = most_at_once(given), np.random.default_rng(0)
    sizes = np.array([each.size for each in given], np.float64)
    spans = np.array([each.last - each.first for each in given], np.float64)
    keys = [-sizes, -sizes * (spans + 1), -spans, np.array([each.first for each in given], np.float64)]
    best: list[int] = []
    for number in range(_TRIES):
        key = keys[number] if number < len(keys) else -sizes * generator.lognormal(0.0, 1.0, len(given))
        offsets = _placed(given, np.argsort(key, kind="stable").tolist())
        if not best or top(given, offsets) < top(given, best):
            best = offsets
        if top(given, best) == least:
            break
    return best


def top(given: Sequence[Lifetime], offsets: Sequence[int]) -> int:
    """Bytes that a layout takes."""
    return max(offset + each.size for each, offset in zip(given, offsets, strict=True))


def _placed(given: Sequence[Lifetime], order: Sequence[int]) -> list[int]:
    offsets = [0] * len(given)
    placed: list[int] = []
    for number in order:
        each, offset = given[number], 0
        beside = [n for n in placed if given[n].first <= each.last and each.first <= given[n].last]
        for other in sorted(beside, key=offsets.__getitem__):
            if offsets[other] - offset >= each.size:
                break
            offset = max(offset, offsets[other] + given[other].size)
        offsets[number] = offset
        placed.append(number)
    return offsets
