"""What is minimised."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from nat2.errors import ConfigError


@dataclass(frozen=True)
class Objective:
    """One thing to minimise."""

    name: str
    cost: Literal["exact", "predicted"]
    """``exact``: known in closed form for every network; ``predicted``: measured by evaluating, else predicted."""


OBJECTIVES = {
    "error": Objective("error", "predicted"),
    "params": Objective("params", "exact"),
    "macs": Objective("macs", "exact"),
}


def parse_objectives(text: str) -> tuple[Objective, ...]:
    """Read a comma-separated list, e.g. ``error,params``; the error always comes first.

    Raises:
        ConfigError: an objective is unknown, named twice, or the error is missing.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in OBJECTIVES:
            raise ConfigError(f"--objectives must be among {', '.join(OBJECTIVES)}, separated by commas; got {name!r}")
    if len(set(names)) != len(names):
        raise ConfigError(f"--objectives must name each objective once; got {text!r}")
    if "error" not in names:
        raise ConfigError(f"--objectives must include error, e.g. error,params; got {text!r}")
    names.sort(key=lambda name: name != "error")
    return tuple(OBJECTIVES[name] for name in names)
