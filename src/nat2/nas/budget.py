"""Budgets as people write them: ``params<=200k,latency<=3ms``."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace

from nat2.errors import ConfigError
from nat2.nas.objectives import OBJECTIVES, Objective, Unit
from nat2.space.boards import SHARE, SMALL, board_named
from nat2.validation import parts_of

_BOUND = re.compile(r"([A-Za-z_]\w*)\s*(<=|>=|<|>|=)\s*(-?[0-9][0-9_.]*(?:[eE][+-]?[0-9]+)?|\.[0-9]+)\s*([A-Za-zµ%]*)")
_COUNT = re.compile(r"([0-9][0-9_]*(?:\.[0-9]+)?(?:[eE]\+?[0-9]{1,2})?) ?([kKMGB]?)")
_FACTORS: dict[Unit, dict[str, float]] = {
    "": {"": 1, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "B": 1e9},
    "share": {"": 1, "%": 0.01},
    "bytes": {"": 1, "B": 1, "k": 1e3, "kB": 1e3, "KB": 1e3, "M": 1e6, "MB": 1e6, "KiB": 2**10, "MiB": 2**20},
    "ms": {"": 1, "ms": 1, "s": 1e3, "us": 1e-3, "µs": 1e-3},
}


def parse_budget(text: str, known: Sequence[Objective] = (), *, named: str = "--budget") -> tuple[Objective, ...]:
    """Read bounds separated by commas, e.g. ``params<=200k,latency<=3ms``; each objective is returned with its bounds.

    Counts take k, M and G, bytes B, kB, MB, KiB and MiB, times us, ms (without a unit too) and s, shares %.

    Args:
        text: The bounds.
        known: Objectives beside the built-in ones.
        named: What the text was given as, for messages.

    Raises:
        ConfigError: a bound is malformed, or names an unknown objective.
    """
    names = OBJECTIVES | {each.name: each for each in known}
    bounded: dict[str, Objective] = {}
    for part in parts_of(text):
        match = _BOUND.fullmatch(part)
        if match is None or match[2] == "=":
            raise ConfigError(
                f"{named} takes bounds like params<=200k or latency<=3ms, separated by commas and without commas in "
                f"the numbers; got {part!r}"
            )
        name, sign, number, suffix = match.groups()
        if name not in names:
            raise ConfigError(f"{named} can bound {', '.join(names)}; got {name!r}")
        factors = _FACTORS[names[name].unit]
        try:
            value = float(number) * factors[suffix]
        except (KeyError, ValueError):
            units = ", ".join(unit for unit in factors if unit)
            raise ConfigError(f"{named} takes a number for {name}, if need be with {units}; got {part!r}") from None
        if not math.isfinite(value):
            raise ConfigError(f"{named} takes finite numbers; got {part!r}")
        before = bounded.get(name, names[name])
        if sign[0] == "<":
            bounded[name] = replace(before, high=min(value, before.high))
        else:
            bounded[name] = replace(before, low=max(value, before.low))
    return tuple(bounded.values())


def board_bounds(device: str, *, target: str = "") -> tuple[Objective, ...]:
    """The bounds that a microcontroller board sets: half of its flash and half of its RAM.

    Args:
        device: Name of the board, or nothing.
        target: Where the networks will run; ``microcontroller`` without a board sets the bounds of a small one.

    Raises:
        ConfigError: there is no board of this name.
    """
    if device:
        board = board_named(device)
        sizes = {"flash": SHARE * board.flash, "ram": SHARE * board.ram}
    else:
        sizes = dict[str, float](SMALL) if target == "microcontroller" else {}
    return tuple(replace(OBJECTIVES[name], high=size) for name, size in sizes.items())


def parse_count(name: str, value: int | str) -> int:
    """A count as a whole number, or as people write it: ``50k``, ``1.5M``, ``50_000``.

    Args:
        name: What is counted, for the error.
        value: A number, or a text with k, M or G.

    Raises:
        ConfigError: it is no count above 0.
    """
    match = _COUNT.fullmatch(value.strip()) if isinstance(value, str) else None
    count = float(match[1].replace("_", "")) * _FACTORS[""][match[2]] if match else value
    if isinstance(count, bool | str) or not 1 <= count < math.inf or count != int(count):
        raise ConfigError(f"`{name}` must be a whole number above 0, such as 50000 or 50k; got {value!r}")
    return int(count)


def format_value(value: float, unit: Unit = "") -> str:
    """A value as people write it: ``12,345``, ``3.20 ms``, ``4.1 %``, ``96.0 kB``."""
    if unit == "share":
        return f"{100 * value:.1f} %"
    if unit == "ms":
        return f"{value:.3g} ms"
    if unit == "bytes":
        return f"{value / 1e3:,.1f} kB" if value < 1e6 else f"{value / 1e6:,.1f} MB"
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def format_bound(bound: Objective) -> str:
    """A bound as people write it: ``params <= 200,000``."""
    limits = (("<=", bound.high), (">=", bound.low))
    return ", ".join(f"{bound.name} {sign} {format_value(v, bound.unit)}" for sign, v in limits if math.isfinite(v))
