"""What the benchmarks share: rows with a target, fair ratios, a printed table and a JSON file."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Row:
    """One measured number; without a target it is there to be read."""

    name: str
    value: float
    target: float | None = None
    better: Literal["lower", "higher"] = "lower"
    unit: str = ""
    met: bool | None = field(init=False)

    def __post_init__(self) -> None:
        """Compare with the target."""
        met = None
        if self.target is not None:
            met = self.value <= self.target if self.better == "lower" else self.value >= self.target
        object.__setattr__(self, "met", met)


def parser(description: str) -> argparse.ArgumentParser:
    """A parser with the options of every benchmark."""
    result = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    result.add_argument("--json", type=Path, metavar="FILE", help="write the rows to this file too")
    return result


def show(title: str, rows: Sequence[Row], file: Path | None) -> None:
    """Print the rows as a table, and write them if a file is given."""
    table = Table(title=title, box=None, header_style="bold", title_justify="left")
    for heading, justify in (("", "left"), ("value", "right"), ("target", "right"), ("met", "left")):
        table.add_column(heading, justify=justify)  # type: ignore[arg-type]
    for row in rows:
        sign = "<=" if row.better == "lower" else ">="
        target = "" if row.target is None else f"{sign} {_number(row.target)}"
        met = "" if row.met is None else ("yes" if row.met else "NO")
        table.add_row(row.name, f"{_number(row.value)} {row.unit}".strip(), target, met)
    Console(width=max(100, Console().width)).print(table)
    if file is not None:
        file.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def seconds_of(function: Callable[[], object]) -> float:
    """How long a call takes."""
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def ratio(
    ours: Callable[[], object],
    theirs: Callable[[], object],
    *,
    repeats: int = 5,
    seconds: float = 4.0,
    timed: Callable[[Callable[[], object]], float] = seconds_of,
) -> tuple[float, float]:
    """Median of the ratios of the times of two functions, run alternately, and the median seconds of the first.

    Args:
        ours: Whose time is the numerator.
        theirs: Whose time is the denominator.
        repeats: Pairs to measure at least; up to 101 while `seconds` are not over.
        seconds: How long to go on with quick functions.
        timed: Calls a function and gives its seconds.
    """
    ours(), theirs()
    pairs: list[tuple[float, float]] = []
    end = time.perf_counter() + seconds
    while len(pairs) < repeats or (time.perf_counter() < end and len(pairs) < 101):
        if len(pairs) % 2 == 0:
            first, second = timed(ours), timed(theirs)
        else:
            second, first = timed(theirs), timed(ours)
        pairs.append((first / second, first))
    return statistics.median(pair[0] for pair in pairs), statistics.median(pair[1] for pair in pairs)
