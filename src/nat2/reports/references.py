"""Networks to compare a run with, published or hand-made, from a CSV file."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nat2.errors import ConfigError

COSTS = ("params", "macs", "memory", "latency")


@dataclass(frozen=True)
class Reference:
    """One network of the user's choice."""

    name: str
    accuracy: float
    """0..1, on images of the user's choice."""
    costs: Mapping[str, float]
    """Those that are known, of ``params``, ``macs``, ``memory`` (bytes) and ``latency`` (ms)."""


def read_references(path: Path) -> tuple[Reference, ...]:
    """Read a CSV file with the columns name, accuracy, and any of params, macs, memory (bytes) and latency (ms).

    Accuracies are all shares (0..1) or all percentages (above 1, at most 100). Cells of costs may be empty.

    Raises:
        ConfigError: the file cannot be read or is not of this form.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file, skipinitialspace=True, strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"the references {path} cannot be read ({reason}); name a CSV file") from error
    columns = list(rows[0]) if rows else []
    if not {"name", "accuracy"} <= set(columns) or not set(columns) <= {"name", "accuracy", *COSTS}:
        shown = ", ".join(str(each or "an unnamed column") for each in columns) or "no rows"
        raise ConfigError(
            f"references must have the columns name, accuracy, and any of {', '.join(COSTS)}; {path} has {shown}"
        )
    accuracies = [_number(path, line, "accuracy", row["accuracy"], 100) for line, row in enumerate(rows, 2)]
    percent = [each > 1 for each in accuracies]
    if any(percent) and not all(percent):
        raise ConfigError(
            f"the accuracies in {path} must be all shares (0..1) or all percentages (above 1, at most 100); got "
            f"{min(accuracies):g} and {max(accuracies):g}"
        )
    return tuple(
        Reference(
            (row["name"] or "").strip() or f"reference {line - 1}",
            accuracy / 100 if any(percent) else accuracy,
            {
                name: _number(path, line, name, row[name])
                for name in COSTS
                if name in columns and (row[name] or "").strip()
            },
        )
        for line, (row, accuracy) in enumerate(zip(rows, accuracies, strict=True), 2)
    )


def _number(path: Path, line: int, column: str, text: str | None, most: float = math.inf) -> float:
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not 0 <= value <= most or math.isinf(value):
        rule = f"a number from 0 to {most:g}" if most < math.inf else "a number of at least 0, like 5.4e6"
        raise ConfigError(f"{column} must be {rule}; got {text!r} in line {line} of {path}")
    return value
