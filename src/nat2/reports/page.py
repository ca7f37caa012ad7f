"""report.html: one self-contained page that works without a network."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import plotly.offline

from nat2.files import write_text
from nat2.nas.archive import Evaluation, Generation
from nat2.progress import duration
from nat2.reports.results import Result, picks
from nat2.space.arch import Arch


def write_page(
    path: Path,
    *,
    title: str,
    facts: Sequence[tuple[str, str]],
    archive: Sequence[Evaluation[Arch]],
    results: Sequence[Result],
    generations: Sequence[Generation],
    seconds: Mapping[str, float],
    config: str,
) -> None:
    """Write the page.

    Args:
        path: Where to.
        title: Name of the data.
        facts: What the run was about, in the order shown.
        archive: The last archive.
        results: The returned networks.
        generations: All of them.
        seconds: By stage.
        config: The whole configuration as YAML.
    """
    ordered = sorted(results, key=lambda result: (result.params, result.macs))
    page = files("nat2.reports").joinpath("page.html").read_text(encoding="utf-8")
    content = {
        "TITLE": html.escape(title),
        "FACTS": "".join(f"<dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd>" for k, v in facts),
        "PICKS": "".join(_pick(need, result) for need, result in picks(results).items()),
        "ROWS": "".join(_row(result) for result in ordered),
        "STAGES": "".join(
            f"<tr><td>{html.escape(name)}</td><td class='n'>{duration(value)}</td></tr>"
            for name, value in seconds.items()
        ),
        "CONFIG": html.escape(config),
        "DATA": _script_json(_plot_data(archive, ordered, generations)),
        "PLOTLY": plotly.offline.get_plotlyjs(),
    }
    write_text(path, re.sub(r"<!--([A-Z]+)-->", lambda match: content[match[1]], page))


def _plot_data(
    archive: Sequence[Evaluation[Arch]], results: Sequence[Result], generations: Sequence[Generation]
) -> dict[str, Any]:
    return {
        "archive": [
            {"arch": e.arch.key, "accuracy": 100 * (1 - e["error"]), "params": e["params"], "macs": e["macs"]}
            for e in archive
        ],
        "results": [
            {
                "id": r.id,
                "arch": r.arch,
                "accuracy": 100 * r.test_accuracy,
                "validation": 100 * r.val_accuracy,
                "params": r.params,
                "macs": r.macs,
            }
            for r in results
        ],
        "generations": [
            {"number": g.number, "hypervolume": g.hypervolume, "tau": g.facts.get("tau")} for g in generations
        ],
    }


def _script_json(data: Any) -> str:
    """JSON that cannot end the script element it stands in."""
    return json.dumps(data).replace("<", "\\u003c")


def _pick(need: str, result: Result) -> str:
    return (
        f"<div class='pick'><b>{need}</b><code>networks/{result.id}</code>"
        f"<span>{100 * result.test_accuracy:.1f} % on the test images, {result.params:,} parameters, "
        f"{result.macs:,} MACs</span></div>"
    )


def _row(result: Result) -> str:
    arch = Arch.from_key(result.arch)
    stages = " &nbsp; ".join(" ".join(map(str, stage)) for stage in arch.stages)
    numbers = (
        f"{result.params:,}",
        f"{result.macs:,}",
        f"{100 * result.calibrated_val_accuracy:.1f}",
        f"{100 * result.val_accuracy:.1f}",
        f"{100 * result.test_accuracy:.1f}",
    )
    cells = "".join(f"<td class='n'>{number}</td>" for number in numbers)
    return (
        f"<tr><td><code>{result.id}</code></td><td class='n'>{arch.resolution}</td>{cells}"
        f"<td class='arch'>{stages}</td></tr>"
    )
