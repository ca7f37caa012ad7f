"""From the archive to the networks worth measuring: fit a predictor, evolve on it, choose a spread."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from nat2.search.archive import Evaluation
from nat2.search.evolve import Objectives, evolve
from nat2.search.predictors import Values, fit_ensemble
from nat2.search.select import non_dominated, spread_subset, survive
from nat2.search.task import Search
from nat2.seeds import derive, numpy_generator
from nat2.space.cost import Cost
from nat2.space.space import Genomes

GenomePredictor = Callable[[Genomes], Values]
"""Predicts the error of canonical genomes."""


def fit(task: Search, members: Sequence[Evaluation], number: int) -> GenomePredictor:
    """Learn the error from the archive; the result takes canonical genomes, shape (n, genes)."""
    genomes = task.space.encode_all([member.arch for member in members])
    features = task.space.features(genomes, task.settings.features)
    errors = np.array([member.error for member in members])
    predict = fit_ensemble(features, errors, seed=derive(task.seed, "predictor", number))
    return lambda queries: predict(task.space.features(queries, task.settings.features))


def _predicted(task: Search, predict: GenomePredictor, genomes: Genomes) -> Objectives:
    """The objectives of genomes: the error predicted, the others exact."""
    costs = dict(zip(Cost._fields, task.costs(genomes).T, strict=True))
    columns = [predict(genomes) if each.cost == "predicted" else costs[each.name] for each in task.objectives]
    return np.column_stack(columns).astype(np.float64)


def propose(task: Search, members: Sequence[Evaluation], predict: GenomePredictor, number: int) -> Genomes:
    """New networks that evolution finds good by prediction."""
    settings = task.settings
    generator = numpy_generator(task.seed, "evolve", number)
    front = non_dominated(task.values(members))[: settings.population]
    start = np.concatenate(
        [
            task.space.encode_all([members[index].arch for index in front]),
            task.space.sample(settings.population - len(front), generator, sampling=settings.sampling),
        ]
    )
    pool = evolve(
        task.space,
        lambda genomes: _predicted(task, predict, genomes),
        n_objectives=len(task.objectives),
        population=settings.population,
        generations=settings.inner_generations,
        start=start,
        seed=derive(task.seed, "evolve", number),
    )
    known = {member.arch for member in members}
    return pool[[task.space.decode(genome) not in known for genome in pool]]


def choose(task: Search, members: Sequence[Evaluation], pool: Genomes, predict: GenomePredictor) -> Genomes:
    """The candidates to evaluate: spread along the front, or the best predicted if the error is all that counts."""
    count = task.settings.candidates
    if len(pool) <= count:
        return pool
    predicted = _predicted(task, predict, pool)
    if len(task.objectives) == 1:
        return pool[survive(predicted, count)]
    values = task.values(members)
    return pool[spread_subset(predicted[:, 1:], values[non_dominated(values)][:, 1:], count)]
