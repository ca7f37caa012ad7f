"""Compare the result of a benchmark with a kept one, row by row.

python benchmarks/depthwise.py --json depthwise.json
python benchmarks/compare.py benchmarks/results/depthwise.json depthwise.json

Exits with 1 if a row no longer meets its target, is missing, or is worse by more than the tolerance. Rows without a
target are compared as well: many are seconds, which mean something only on the machine of the kept result, so
`--targets-only` leaves them out.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Change:
    """One row of two results."""

    name: str
    old: float | None
    new: float | None
    verdict: str
    failed: bool = False

    @property
    def percent(self) -> float:
        """How much larger the new value is, in percent of the old; NaN if there is nothing to divide by."""
        if self.old is None or self.new is None or not self.old:
            return math.nan
        return 100 * (self.new - self.old) / abs(self.old)


def read_result(file: Path) -> dict[str, Any]:
    """The result in a file.

    Raises:
        ValueError: The file is not the result of a benchmark.
        OSError: The file cannot be read.
    """
    try:
        result = json.loads(file.read_text(encoding="utf-8"))
        for row in result["rows"]:
            float(row["value"]), row["name"], row["met"], row["better"]
        _ = result["machine"]["processor"], result["versions"].items()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{file} is not the result of a benchmark, written with --json ({error!r})") from error
    return dict(result)


def changes(
    old: Mapping[str, Any], new: Mapping[str, Any], *, tolerance: float, targets_only: bool = False
) -> list[Change]:
    """Compare the rows of two results by name.

    Args:
        old: The kept result.
        new: The one to judge.
        tolerance: Share of the old value by which the new one may be worse, e.g. 0.1.
        targets_only: Leave out rows that have a target in neither result.
    """
    before, after = ({row["name"]: row for row in result["rows"]} for result in (old, new))
    found = [_change(name, before.get(name), after.get(name), tolerance) for name in dict.fromkeys([*before, *after])]
    if not targets_only:
        return found
    targets = {name for rows in (before, after) for name, row in rows.items() if row["met"] is not None}
    return [change for change in found if change.name in targets]


def _change(name: str, old: Mapping[str, Any] | None, new: Mapping[str, Any] | None, tolerance: float) -> Change:
    if new is None:
        return Change(name, None if old is None else old["value"], None, "missing", failed=True)
    if new["met"] is False and (old is None or old["met"] is not False):
        return Change(name, None if old is None else old["value"], new["value"], "target missed", failed=True)
    if old is None:
        return Change(name, None, new["value"], "new")
    worse = new["value"] - old["value"] if new["better"] == "lower" else old["value"] - new["value"]
    allowed = tolerance * abs(old["value"]) * (1 + 1e-9)  # exactly the tolerance is allowed
    if not worse <= allowed:  # NaN is worse
        return Change(name, old["value"], new["value"], "worse", failed=True)
    return Change(name, old["value"], new["value"], "better" if -worse > allowed else "same")


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    """What else sets two results apart: machines that differ or were busy, and versions."""
    for part in ("machine", "versions"):
        for name in dict.fromkeys([*old[part], *new[part]]):
            was, now = old[part].get(name), new[part].get(name)
            if was != now:
                yield f"not the same: {name}: {was} -> {now}"
    for which, result in (("old", old), ("new", new)):
        load, cores = result.get("load"), result["machine"].get("cores")
        if load is not None and cores is not None and load > 1.5 * cores:
            yield f"the {which} result was measured on a busy machine: load {load} on {cores} cores"


def main() -> None:
    arguments = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    arguments.add_argument("old", type=Path, metavar="OLD", help="the kept result")
    arguments.add_argument("new", type=Path, metavar="NEW", help="the new one, written by a benchmark's --json")
    arguments.add_argument(
        "--tolerance", type=float, default=0.1, help="share by which rows may be worse, 0.1 by default"
    )
    arguments.add_argument("--targets-only", action="store_true", help="compare only rows that have a target")
    given = arguments.parse_args()
    if not 0 <= given.tolerance < math.inf:
        arguments.error(f"--tolerance must be a share of at least 0, e.g. 0.1; got {given.tolerance}")
    try:
        old, new = read_result(given.old), read_result(given.new)
    except (OSError, ValueError) as error:
        arguments.error(str(error))
    found = changes(old, new, tolerance=given.tolerance, targets_only=given.targets_only)
    table = Table(title=str(new.get("title", "")), box=None, header_style="bold", title_justify="left")
    for heading in ("", "old", "new", "change"):
        table.add_column(heading, justify="right" if heading else "left")
    table.add_column("verdict")
    for change in found:
        table.add_row(
            change.name,
            "" if change.old is None else f"{change.old:.4g}",
            "" if change.new is None else f"{change.new:.4g}",
            "" if math.isnan(change.percent) else f"{change.percent:+.0f} %",
            change.verdict,
            style="bold red" if change.failed else None,
        )
    console = Console(width=max(100, Console().width))
    console.print(table)
    for line in differences(old, new):
        console.print(line, style="yellow", highlight=False)
    sys.exit(any(change.failed for change in found))


if __name__ == "__main__":
    main()
