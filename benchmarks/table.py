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
    Console(soft_wrap=True).print(table)
    if file is not None:
        file.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def ratio(ours: Callable[[], object], theirs: Callable[[], object], *, repeats: int = 7) -> tuple[float, float]:
    """Median of the ratios of the times of two functions, run alternately, and the median seconds of the first."""
    ours(), theirs()
    pairs = []
    for repeat in range(repeats):
        seconds = {}
        for function in (ours, theirs) if repeat % 2 == 0 else (theirs, ours):
            began = time.perf_counter()
            function()
            seconds[function] = time.perf_counter() - began
        pairs.append((seconds[ours] / seconds[theirs], seconds[ours]))
    return statistics.median(pair[0] for pair in pairs), statistics.median(pair[1] for pair in pairs)
