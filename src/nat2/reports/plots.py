"""The Pareto plot as a picture."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nat2.files import write_bytes
from nat2.nas.archive import Evaluation
from nat2.reports.results import Result
from nat2.space import Arch

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_pareto(path: Path, archive: Sequence[Evaluation[Arch]], results: Sequence[Result], *, cost: str) -> None:
    """Draw accuracy against a cost (``params`` or ``macs``): the archive behind the returned networks."""
    figure = _new_figure()
    axes = figure.add_subplot()
    axes.scatter(
        [each[cost] for each in archive],
        [100 * (1 - each["error"]) for each in archive],
        s=12,
        color="#9aa5b1",
        label="archive (validation images, before fine-tuning)",
    )
    ordered = sorted(results, key=lambda result: getattr(result, cost))
    axes.plot(
        [getattr(result, cost) for result in ordered],
        [100 * result.test_accuracy for result in ordered],
        "o",
        color="#0b6e4f",
        label="returned (test images, fine-tuned)",
    )
    for result in ordered:
        axes.annotate(
            result.id,
            (getattr(result, cost), 100 * result.test_accuracy),
            xytext=(1, 5),
            textcoords="offset points",
            rotation=40,
            fontsize=7,
        )
    axes.set_xscale("log")
    axes.margins(0.08, 0.16)
    axes.set_xlabel({"params": "parameters", "macs": "multiply-accumulates for one image"}[cost])
    axes.set_ylabel("accuracy in %")
    axes.grid(visible=True, which="both", color="#e4e8ec", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.legend(loc="lower right", frameon=False, fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    write_bytes(path, buffer.getvalue())


def _new_figure() -> Figure:
    """An empty figure; Matplotlib writes its list of fonts to the home directory unless it is given another place."""
    with tempfile.TemporaryDirectory() as folder:
        given = os.environ.setdefault("MPLCONFIGDIR", folder)
        try:
            from matplotlib.figure import Figure
        finally:
            if given == folder:
                del os.environ["MPLCONFIGDIR"]
    return Figure(figsize=(7.5, 5), dpi=150, layout="constrained")
