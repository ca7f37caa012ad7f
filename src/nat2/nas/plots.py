"""Plots of a search result: its front, and how it came about."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nat2.errors import ConfigError
from nat2.nas.archive import Evaluation
from nat2.nas.front import minimised, violations
from nat2.nas.objectives import Objective
from nat2.nas.select import hypervolume

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_GREY, _GREEN = "#9aa5b1", "#0b6e4f"


def plot_front(
    evaluated: Sequence[Evaluation[Any]], front: Sequence[Evaluation[Any]], x: Objective, y: Objective
) -> Figure:
    """All evaluations and the front, in two quantities."""
    figure, axes = _new_figure()
    axes.scatter([each[x.name] for each in evaluated], [each[y.name] for each in evaluated], s=12, color=_GREY)
    ordered = sorted(front, key=lambda each: each[x.name])
    axes.plot([each[x.name] for each in ordered], [each[y.name] for each in ordered], "o-", color=_GREEN, markersize=5)
    for quantity, label in ((x, axes.set_xlabel), (y, axes.set_ylabel)):
        label(f"{quantity.name} ({'less' if quantity.direction == 'min' else 'more'} is better)")
    return figure


def plot_history(
    evaluated: Sequence[Evaluation[Any]], objectives: Sequence[Objective], quantities: Sequence[Objective]
) -> Figure:
    """The best value so far, or the hypervolume of the front, against the number of evaluations.

    The hypervolume is a share of the box from the best to the worst values of all evaluations within the budget.
    """
    figure, axes = _new_figure()
    values, kept = minimised(evaluated, objectives), violations(evaluated, quantities) <= 0
    (first, *others) = objectives
    if others:
        progress, label = _hypervolumes(values, kept), "hypervolume of the front"
    else:
        best = np.minimum.accumulate(np.where(kept, values[:, 0], np.inf))
        progress, label = np.where(np.isfinite(best), first.minimised(best), np.nan), f"best {first.name}"
    axes.step(np.arange(1, len(progress) + 1), progress, where="post", color=_GREEN)
    axes.set_xlabel("evaluations")
    axes.set_ylabel(label)
    return figure


def _hypervolumes(values: NDArray[np.float64], kept: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Of the first row, the first two, and so on, of those within the budget."""
    if not kept.any():
        return np.zeros(len(values))
    best, worst = values[kept].min(axis=0), values[kept].max(axis=0)
    front, volume, volumes = np.empty((0, values.shape[1])), 0.0, np.zeros(len(values))
    for number, row in enumerate(values):
        if kept[number] and not (front <= row).all(axis=1).any():
            front = np.concatenate([front[~(row <= front).all(axis=1)], row[None]])
            volume = hypervolume(front, worst + 0.01 * (worst - best), best)
        volumes[number] = volume
    return volumes


def quantity_of(quantities: Sequence[Objective], name: str) -> Objective:
    """The quantity of a name.

    Raises:
        ConfigError: there is none.
    """
    found = {each.name: each for each in quantities}
    if name not in found:
        raise ConfigError(f"{name!r} was not recorded in this search; there are {', '.join(found)}")
    return found[name]


def _new_figure() -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 5), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    axes.grid(visible=True, color="#e4e8ec", linewidth=0.6)
    axes.set_axisbelow(True)
    return figure, axes
