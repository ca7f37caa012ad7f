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
from nat2.runs.results import Result
from nat2.space import Arch

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_pareto(path: Path, archive: Sequence[Evaluation[Arch]], results: Sequence[Result], *, cost: str) -> None:
    """Draw accuracy against a cost (``params`` or ``macs``): the archive behind the returned networks.

    Points are accuracies on validation images, by which networks are chosen; a dash beside each is its accuracy on test
    images.
    """
    figure = _new_figure()
    axes = figure.add_subplot()
    axes.scatter(
        [each[cost] for each in archive],
        [100 * (1 - each["error"]) for each in archive],
        s=12,
        color="#9aa5b1",
        label="archive, before fine-tuning",
    )
    costs = [getattr(result, cost) for result in results]
    accuracies = [100 * result.val_accuracy for result in results]
    axes.errorbar(
        costs,
        accuracies,
        yerr=[100 * (result.validated.standard_error or 0.0) for result in results],
        fmt="o",
        color="#0b6e4f",
        elinewidth=1,
        label="returned, fine-tuned (± one standard error)",
    )
    axes.plot(
        costs,
        [100 * result.test_accuracy for result in results],
        "_",
        color="#a2490b",
        markersize=9,
        markeredgewidth=1.5,
        label="returned, on test images (not to choose by)",
    )
    for result, x, y in zip(results, costs, accuracies, strict=True):
        axes.annotate(result.id, (x, y), xytext=(1, 5), textcoords="offset points", rotation=40, fontsize=7)
    axes.set_xscale("log")
    axes.margins(0.08, 0.16)
    axes.set_xlabel({"params": "parameters", "macs": "multiply-accumulates for one image"}[cost])
    axes.set_ylabel("accuracy on validation images in %")
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
