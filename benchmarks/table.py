"""What the benchmarks share: rows with a target, fair ratios, a printed table and a JSON file of results."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from nat2.environment import available_cores

PACKAGES = ("nat2", "torch", "numpy", "onnxruntime", "pymoo", "lightgbm")  # whose versions change what is measured


@dataclass(frozen=True)
class Row:
    """One measured number; without a target it is there to be read."""

    name: str
    """The same whenever the benchmark runs: by it, results are compared."""
    value: float
    target: float | None = None
    better: Literal["lower", "higher"] = "lower"
    unit: str = ""
    detail: str = ""
    """What else was measured, e.g. seconds behind a ratio; for reading only."""
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
    result.add_argument("--json", type=Path, metavar="FILE", help="also write the result to this file")
    return result


def show(title: str, rows: Sequence[Row], file: Path | None) -> None:
    """Print the rows as a table; if a file is given, write them with the machine and the versions they depend on."""
    table = Table(title=title, box=None, header_style="bold", title_justify="left")
    for heading, justify in (("", "left"), ("value", "right"), ("target", "right"), ("met", "left")):
        table.add_column(heading, justify=justify)  # type: ignore[arg-type]
    for row in rows:
        sign = "<=" if row.better == "lower" else ">="
        target = "" if row.target is None else f"{sign} {_number(row.target)}"
        met = "" if row.met is None else ("yes" if row.met else "NO")
        name = f"{row.name}; {row.detail}" if row.detail else row.name
        table.add_row(name, f"{_number(row.value)} {row.unit}".strip(), target, met)
    Console(width=max(100, Console().width)).print(table)
    if file is not None:
        write(title, rows, file)
        Console(stderr=True).print(
            f"wrote {file}; compare it with: python benchmarks/compare.py OLD {file}", style="dim"
        )


def write(title: str, rows: Sequence[Row], file: Path) -> None:
    """Write the rows with the machine and the versions they depend on."""
    result = {"title": title, **provenance(), "rows": [asdict(row) for row in rows]}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def provenance() -> dict[str, Any]:
    """What a result depends on: date, command line, machine, how busy it was, and versions."""
    import torch

    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["python", *sys.argv]),
        "load": round(os.getloadavg()[1], 1),  # of the last five minutes
        "machine": {
            "processor": _processor(),
            "cores": available_cores(),
            "threads": torch.get_num_threads(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            "platform": platform.platform(),
        },
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
    }


def _processor() -> str:
    """Its model; `platform.processor` leaves it empty on many Linux systems."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


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
