"""Tables in Markdown, and plots of curves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from worlds import Values

COLOURS = {
    "default": "#0b6e4f", "nat2": "#c8553d", "nat2 small": "#e6a23c", "nat": "#3d6bb3", "NSGA-II": "#7a5195",
    "random": "#8a949e", "TPE": "#5aa9a3", "GPSampler": "#2b2b2b",
}  # fmt: skip


def markdown(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a Markdown table for the documentation."""
    lines = [headings, ["---", *["---:"] * (len(headings) - 1)], *rows]
    print("\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n")


def figure(columns: int, rows: int = 1, height: float = 4.2) -> tuple[Figure, NDArray[Any]]:
    """An empty figure, shape of the axes (rows, columns)."""
    drawn = Figure(figsize=(5.6 * columns, height * rows), dpi=150, layout="constrained")
    return drawn, drawn.subplots(rows, columns, squeeze=False)


def grid(axes: Axes, title: str, x: str, y: str) -> None:
    """Titles, labels with units, and a grid."""
    axes.set_title(title, fontsize=11)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(visible=True, which="major", color="#e4e8ec", linewidth=0.8)
    axes.set_axisbelow(True)


def draw_curves(axes: Axes, found: dict[str, list[Values]], first: int) -> None:
    """Median and quartiles of curves, from a number of evaluations on."""
    for name, several in found.items():
        length = min(map(len, several))
        low, middle, high = 100 * np.quantile([curve[:length] for curve in several], (0.25, 0.5, 0.75), axis=0)
        x = np.arange(1, length + 1)
        shown = x >= first
        axes.plot(x[shown], middle[shown], color=COLOURS[name], label=name, linewidth=1.8)
        axes.fill_between(x[shown], low[shown], high[shown], color=COLOURS[name], alpha=0.18, linewidth=0)
    axes.set_xscale("log")
    longest = max(len(curve) for several in found.values() for curve in several)
    ticks = [tick for tick in (20, 50, 100, 200, 400, 1000, 3000) if first <= tick <= longest]
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.minorticks_off()
