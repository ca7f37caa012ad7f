"""The inner problem: a genetic algorithm on predicted error and exact objectives, by pymoo."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import NDArray
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.algorithms.moo.nsga3 import NSGA3
from pymoo.algorithms.soo.nonconvex.ga import GA
from pymoo.core.algorithm import Algorithm
from pymoo.core.callback import Callback
from pymoo.core.problem import Problem
from pymoo.core.repair import Repair
from pymoo.operators.crossover.pntx import TwoPointCrossover
from pymoo.operators.mutation.pm import PolynomialMutation
from pymoo.optimize import minimize
from pymoo.util.ref_dirs import get_reference_directions

from nat2.nas.settings import Diversity
from nat2.space.searchable import A, Searchable
from nat2.space.space import Genomes

Objectives = NDArray[np.float64]
"""Values to minimise, shape (n, objectives)."""


class _Inner(Problem):  # type: ignore[misc]
    def __init__(
        self,
        space: Searchable[A],
        evaluate: Callable[[Genomes], Objectives],
        n_objectives: int,
        violated: Callable[[Genomes], Objectives] | None,
    ) -> None:
        lower, upper = space.lower, space.upper
        bounds = int(violated is not None)
        super().__init__(n_var=len(lower), n_obj=n_objectives, n_ieq_constr=bounds, xl=lower, xu=upper, vtype=int)
        self._evaluate_genomes = evaluate
        self._violated = violated

    def _evaluate(self, x: Objectives, out: dict[str, Objectives], *args: object, **kwargs: object) -> None:
        genomes = np.asarray(x, dtype=np.int64)
        out["F"] = self._evaluate_genomes(genomes)
        if self._violated is not None:
            out["G"] = self._violated(genomes)[:, None]


class _Canonical(Repair):  # type: ignore[misc]
    """Rounds mutated genes and makes genomes canonical, so that pymoo recognises duplicates."""

    def __init__(self, space: Searchable[A]) -> None:
        super().__init__()
        self._canonical = space.canonical

    def _do(self, problem: Problem, x: Objectives, **kwargs: object) -> Genomes:
        return self._canonical(np.around(x).astype(np.int64))


class _Patience(Callback):  # type: ignore[misc]
    """Ends an evolution whose front stands still."""

    def __init__(self, patience: int) -> None:
        super().__init__()
        self._patience, self._still = patience, 0
        self._front: set[tuple[float, ...]] = set()

    def notify(self, algorithm: Algorithm) -> None:
        """Compare the front with that of the generation before."""
        front = {tuple(row) for row in np.atleast_2d(algorithm.opt.get("F")).tolist()}
        self._still = self._still + 1 if front == self._front else 0
        self._front = front
        if 0 < self._patience <= self._still:
            algorithm.termination.terminate()


@cache
def reference_directions(n_objectives: int, count: int) -> NDArray[np.float64]:
    """Evenly spread directions by Riesz energy, for more than two objectives; at least one for each.

    The optimisation starts from the axes and random directions: pymoo's own start takes gigabytes whatever the count.
    """
    random = np.random.default_rng(42).dirichlet(np.ones(n_objectives), max(0, count - n_objectives))
    start = np.concatenate([np.eye(n_objectives), random])
    directions: NDArray[np.float64] = get_reference_directions("energy", n_objectives, len(start), X=start, seed=42)
    return directions


def evolve(
    space: Searchable[A],
    evaluate: Callable[[Genomes], Objectives],
    *,
    n_objectives: int,
    population: int,
    generations: int,
    start: Genomes,
    seed: int,
    violated: Callable[[Genomes], Objectives] | None = None,
    patience: int = 0,
    diversity: Diversity = "directions",
) -> Genomes:
    """Minimise cheap objectives over a space; return the last population, canonical and without duplicates.

    One objective is minimised by a genetic algorithm, two by NSGA-II, more by NSGA-III (NAT, auxiliary problem), or by
    NSGA-II too.

    Args:
        space: The search space.
        evaluate: Canonical genomes to objectives, shape (n, objectives).
        n_objectives: Number of objectives.
        population: Networks in a generation.
        generations: Number of generations, the first being `start`.
        start: Canonical genomes to begin with, shape (n, genes).
        seed: Decides all random choices.
        violated: Canonical genomes to how much they violate bounds, shape (n,), 0 for nothing; of two networks the one
            that violates less is better, whatever its objectives.
        patience: Stop after this many generations in a row that did not change the front; 0: never.
        diversity: Of more than two objectives: along reference directions, or by crowding distance.
    """
    operators = {
        "pop_size": population,
        "sampling": start,
        "crossover": TwoPointCrossover(prob=0.9),
        "mutation": PolynomialMutation(eta=1.0),
        "repair": _Canonical(space),
        "eliminate_duplicates": True,
    }
    if n_objectives == 1:
        algorithm = GA(**operators)
    elif n_objectives == 2 or diversity == "crowding":
        algorithm = NSGA2(**operators)
    else:
        algorithm = NSGA3(reference_directions(n_objectives, population), **operators)
    problem = _Inner(space, evaluate, n_objectives, violated)
    result = minimize(
        problem, algorithm, ("n_gen", generations), seed=seed % 2**32, verbose=False, callback=_Patience(patience)
    )
    genomes = np.asarray(result.pop.get("X"), dtype=np.int64)
    return np.unique(genomes, axis=0)
