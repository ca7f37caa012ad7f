"""Choosing among networks whose objectives are known: who survives, what to evaluate, what to return."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pymoo.algorithms.moo.nsga3 import ReferenceDirectionSurvival
from pymoo.core.population import Population
from pymoo.core.problem import Problem
from pymoo.indicators.hv import HV
from pymoo.operators.survival.rank_and_crowding import RankAndCrowding
from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting

from nat2.nas.evolve import Objectives, reference_directions

_BEYOND = 1.1  # the reference point, relative to the range of the front: so that its ends count too
Indices = NDArray[np.int64]
Violated = NDArray[np.float64]
"""How much each row violates bounds, shape (n,); 0 for nothing."""


def non_dominated(objectives: Objectives) -> Indices:
    """Indices of the non-dominated rows; equal rows are all kept."""
    front = NonDominatedSorting().do(objectives, only_non_dominated_front=True)
    return np.sort(np.asarray(front, dtype=np.int64))


def first_fronts(objectives: Objectives, count: int) -> Indices:
    """Indices of the non-dominated rows, of those that only these dominate, and so on until there are `count`."""
    fronts = NonDominatedSorting().do(objectives, n_stop_if_ranked=count) if len(objectives) else [[]]
    return np.sort(np.concatenate(fronts).astype(np.int64))


def front_of(objectives: Objectives, violated: Violated) -> Indices:
    """Indices of the non-dominated rows among those that keep all bounds; if none does, of those that violate least."""
    kept = np.flatnonzero(violated <= violated.min())
    return kept[non_dominated(objectives[kept])]


def continued(objectives: Objectives, *, least: int, noise: float) -> Indices:
    """Indices of the rows to go on with after a measurement, ascending: those that no other beats.

    Where these are fewer than `least`, the next best are added that others do not beat by more than the noise.

    Args:
        objectives: The measured error first, shape (n, objectives).
        least: How many go on if the noise allows.
        noise: Standard error of an error.
    """
    error, costs = objectives[:, 0], objectives[:, 1:]
    cheaper = (costs[None] <= costs[:, None]).all(axis=2)
    behind = error - np.where(cheaper, error[None], np.inf).min(axis=1)
    kept = [int(row) for row in non_dominated(objectives)]
    others = [int(row) for row in np.argsort(behind, kind="stable") if row not in kept and behind[row] <= noise]
    return np.sort(np.array(kept + others[: max(0, least - len(kept))], dtype=np.int64))


def survive(objectives: Objectives, count: int, *, violated: Violated | None = None, seed: int = 42) -> Indices:
    """Indices of the `count` best rows by environmental selection, ascending (NAT2, archive update).

    One objective: the lowest. Two: non-dominated rank, the last front by crowding distance. More: non-dominated
    rank, the last front spread along reference directions. Rows that violate a bound survive only if there are not
    enough others, and then those that violate least.
    """
    if violated is not None and (violated > 0).any():
        kept = np.flatnonzero(violated <= 0)
        if len(kept) > count:
            return kept[survive(objectives[kept], count, seed=seed)]
        return np.sort(np.argsort(violated, kind="stable")[:count])
    n, n_objectives = objectives.shape
    if n <= count:
        return np.arange(n)
    if n_objectives == 1:
        return np.sort(np.argsort(objectives[:, 0], kind="stable")[:count])
    population = Population.new(X=np.arange(n)[:, None], F=objectives)
    problem = Problem(n_var=1, n_obj=n_objectives)
    survival = (
        RankAndCrowding()
        if n_objectives == 2
        else ReferenceDirectionSurvival(reference_directions(n_objectives, count))
    )
    survivors = survival.do(problem, population, n_survive=count, random_state=np.random.default_rng(seed))
    return np.sort(np.asarray(survivors.get("X"), dtype=np.int64)[:, 0])


def spread_subset(values: Objectives, front: Objectives, count: int) -> Indices:
    """Choose `count` candidates that fill the gaps of a front (MSuNAS, subset selection).

    The chosen minimise the largest, over the objectives, standard deviation of the gaps between neighbours in the
    sorted union of front and chosen: added one by one, then exchanged while that helps.

    Args:
        values: The candidates' objectives without the error, shape (n, objectives).
        front: Those of the archive's front, shape (m, objectives).
        count: How many to choose, at most n.

    Returns:
        Ascending indices into `values`.
    """
    both = np.concatenate([values, front])
    low = both.min(0)
    spans = both.max(0) - low
    scale = np.where(spans > 0, spans, 1.0)
    candidates, fixed = (values - low) / scale, (front - low) / scale
    chosen: list[int] = []
    while len(chosen) < min(count, len(values)):
        scores = _unevenness(np.concatenate([fixed, candidates[chosen]]), candidates)
        scores[chosen] = np.inf
        chosen.append(int(scores.argmin()))
    for _ in range(3):
        changed = False
        for place in range(len(chosen)):
            others = chosen[:place] + chosen[place + 1 :]
            scores = _unevenness(np.concatenate([fixed, candidates[others]]), candidates)
            scores[others] = np.inf
            best = int(scores.argmin())
            if scores[best] < scores[chosen[place]] - 1e-12:
                chosen[place], changed = best, True
        if not changed:
            break
    return np.sort(np.array(chosen, dtype=np.int64))


def gaining_subset(values: Objectives, front: Objectives, count: int) -> Indices:
    """Choose `count` candidates that together extend a front most: one by one, each adding the most hypervolume.

    Args:
        values: The candidates' objectives, shape (n, objectives).
        front: Those of the archive's front, shape (m, objectives).
        count: How many to choose, at most n.

    Returns:
        Ascending indices into `values`.
    """
    both = np.concatenate([values, front])
    low, high = both.min(0), both.max(0)
    span = np.where(high > low, high - low, 1.0)
    candidates, points = (values - low) / span, (front - low) / span
    measured = HV(ref_point=np.full(values.shape[1], _BEYOND))
    chosen: list[int] = []
    left = dict.fromkeys(range(len(values)), np.inf)
    for _ in range(min(count, len(values))):
        volume, best, most = float(measured(points)) if len(points) else 0.0, -1, -1.0
        # A candidate's gain never grows, so those that added too little before can be skipped.
        for index in sorted(left, key=lambda each: -left[each]):
            if left[index] <= most:
                break
            left[index] = float(measured(np.concatenate([points, candidates[[index]]]))) - volume
            if left[index] > most:
                best, most = index, left[index]
        chosen.append(best)
        del left[best]
        points = np.concatenate([points, candidates[[best]]])
    return np.sort(np.array(chosen, dtype=np.int64))


def _unevenness(points: Objectives, candidates: Objectives) -> NDArray[np.float64]:
    """For each candidate, the unevenness of `points` with it added."""
    n = len(candidates)
    union = np.concatenate([np.broadcast_to(points, (n, *points.shape)), candidates[:, None]], axis=1)
    gaps = np.diff(np.sort(union, axis=1), axis=1)
    deviation: NDArray[np.float64] = gaps.std(axis=1).max(axis=1)
    return deviation


def trade_offs(front: Objectives, *, neighbourhood: float = 0.125) -> NDArray[np.float64]:
    """The least that each row of a front loses per gain of a neighbour over it (NAT, high trade-off).

    ``mu_i = min over neighbours j of sum(max(0, F_j - F_i)) / sum(max(0, F_i - F_j))`` on the normalised front.
    Neighbours lie within `neighbourhood`, and there are at least two per objective.

    Args:
        front: Different rows, none of which beats another, shape (n, objectives).
        neighbourhood: Largest distance of a neighbour.
    """
    n, n_objectives = front.shape
    spans = front.max(0) - front.min(0)
    scaled = (front - front.min(0)) / np.where(spans > 0, spans, 1.0)
    difference = scaled[None] - scaled[:, None]
    loss, gain = np.maximum(0, difference).sum(2), np.maximum(0, -difference).sum(2)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(gain > 0, loss / gain, np.inf)
    distance = np.sqrt((difference**2).sum(2))
    np.fill_diagonal(distance, np.inf)
    nearest = np.sort(distance, axis=1)[:, min(2 * n_objectives, n - 1) - 1] if n > 1 else np.zeros(n)
    near = distance <= np.maximum(nearest, neighbourhood)[:, None]
    result: NDArray[np.float64] = np.where(near, ratio, np.inf).min(1)
    return result


def recommend(front: Objectives, count: int, *, noise: float = 0.0) -> Indices:
    """The rows to return of a front: the best in each objective, then those of the highest trade-off, ascending.

    Of equal rows only the first is returned.

    Args:
        front: Objectives, the error first, shape (n, objectives).
        count: How many rows to return, at most.
        noise: Standard error of the lowest error. The best in the error is the cheapest row within it: a network ten
            times as large that is better by one image of the validation set is not better.
    """
    _, different = np.unique(front, axis=0, return_index=True)
    rows = front[different]
    if len(rows) > count:
        spans = np.maximum(rows.max(0) - rows.min(0), 1e-12)
        cost = ((rows - rows.min(0)) / spans)[:, 1:].sum(1)
        within = rows[:, 0] <= rows[:, 0].min() + noise
        best = [int(np.lexsort((rows[:, 0], cost, ~within))[0]) if noise else int(rows[:, 0].argmin())]
        best += [int(np.lexsort((rows[:, 0], rows[:, column]))[0]) for column in range(1, rows.shape[1])]
        order = np.argsort(-trade_offs(rows), kind="stable")
        different = different[list(dict.fromkeys([*best, *map(int, order)]))[:count]]
    return np.sort(different)


def spread_out(front: Objectives, count: int, *, noise: float = 0.0) -> Indices:
    """The rows to return of a front so that there is one for every size, ascending.

    First the best in the error, then one after the other the row that is farthest from all chosen ones, the other end
    of the front to begin with. Objectives are scaled to their ranges, costs in logarithms: from 10,000 to 20,000
    parameters is as far as from 100,000 to 200,000. What the rows add to the hypervolume does not count, because a
    super-network's weights underrate small networks, which fine-tuning helps most. `recommend` prefers bends of the
    front, which lie close together among small networks.

    Args:
        front: Objectives, the error first, shape (n, objectives).
        count: How many rows to return, at most.
        noise: As for `recommend`.
    """
    _, different = np.unique(front, axis=0, return_index=True)
    rows = front[different].astype(np.float64)
    if len(rows) <= count:
        return np.sort(different)
    for column in range(1, rows.shape[1]):
        if rows[:, column].min() > 0:
            rows[:, column] = np.log(rows[:, column])
    spans = np.maximum(rows.max(0) - rows.min(0), 1e-12)
    scaled = (rows - rows.min(0)) / spans
    within = rows[:, 0] <= rows[:, 0].min() + noise
    chosen = [int(np.lexsort((rows[:, 0], scaled[:, 1:].sum(1), ~within))[0])]
    while len(chosen) < count:
        distances = np.linalg.norm(scaled[:, None] - scaled[None, chosen], axis=2).min(axis=1)
        chosen.append(int(distances.argmax()))
    return np.sort(different[chosen])


def hypervolume(
    objectives: Objectives, reference: NDArray[np.float64], origin: NDArray[np.float64] | None = None
) -> float:
    """Volume dominated below `reference`, as a share of the box from `origin` (0 by default) to it."""
    if not len(objectives):
        return 0.0
    origin = np.zeros(len(reference)) if origin is None else origin
    spans = reference - origin
    scale = np.where(spans > 0, spans, 1.0)  # an objective that is 0 everywhere spans no box
    return float(HV(ref_point=np.ones(len(reference)))((objectives - origin) / scale))
