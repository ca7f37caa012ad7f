"""What is known about a run before it begins."""

from __future__ import annotations

from dataclasses import dataclass

from nat2.nas.objectives import Objective
from nat2.runs.facts import Fact
from nat2.runs.timeplan import TimePlan
from nat2.space.boards import Board


@dataclass(frozen=True)
class Span:
    """The range of an objective over a search space."""

    objective: Objective
    least: float
    median: float
    """Of networks as the search draws them."""
    most: float


@dataclass(frozen=True)
class Profile:
    """What a run will involve."""

    facts: tuple[Fact, ...]
    """The images and the space, in words."""
    size: int
    """Networks in the space."""
    spans: tuple[Span, ...]
    bounds: tuple[Objective, ...]
    """The budget."""
    kept: float
    """Share of networks, as the search draws them, that keep the exact bounds."""
    seconds: dict[str, float]
    """Estimated, by stage."""
    plans: tuple[TimePlan, ...]
    """Of a run of default length, and of runs for a given time."""
    board: Board | None = None
    """The microcontroller board to search for, if there is one."""
