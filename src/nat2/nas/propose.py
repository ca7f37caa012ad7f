"""From the archive to the networks worth evaluating: fit predictors, evolve on them, choose a subset."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Generic

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from nat2.nas.archive import Evaluation
from nat2.nas.evolve import evolve
from nat2.nas.expect import expected
from nat2.nas.generation import Proposal, Quality
from nat2.nas.objectives import violation
from nat2.nas.predictors import Values, fit_ensemble, quality
from nat2.nas.select import first_fronts, gaining_subset, spread_subset, survive
from nat2.nas.task import Task
from nat2.nas.unseen import widen
from nat2.seeds import derive, numpy_generator
from nat2.space.searchable import A
from nat2.space.space import Genomes

Table = dict[str, NDArray[np.float64]]
"""Values of networks by name of the quantity, each of shape (n,)."""
_INVALID = 1e30  # of an invalid network: worse than any other


class Model(Generic[A]):
    """The surrogate of a generation: exact quantities as they are, predictions of all others."""

    def __init__(self, task: Task[A], members: Sequence[Evaluation[A]], number: int | str) -> None:
        """Fit a predictor to the archive for each quantity that needs one."""
        self._task = task
        genomes = task.encode_all([member.arch for member in members])
        self._centre, self._spread, self._logs = np.zeros(0), np.ones(0), np.zeros(0, dtype=bool)
        if task.settings.features == "structure":
            values = task.exact_values(genomes)
            self._logs = values.min(axis=0) > 0
            costs = self._logarithms(values)
            self._centre, self._spread = costs.mean(axis=0), np.maximum(costs.std(axis=0), 1e-9)
        self._seen = self._features(genomes)
        self._ensembles = {
            each.name: fit_ensemble(
                task.settings.predictor,
                self._seen,
                np.array([member[each.name] for member in members], dtype=np.float64),
                seed=derive(task.seed, "predictor", number, each.name),
            )
            for each in task.modelled
        }
        self.choices = {name: ensemble.name for name, ensemble in self._ensembles.items()}
        self.doubts = {name: ensemble.rmse for name, ensemble in self._ensembles.items()}

    def expected(self, members: Sequence[Evaluation[A]]) -> Sequence[Evaluation[A]]:
        """The evaluations that the model was fitted to, with the values to expect instead of noisy ones."""
        columns = {}
        for each in self._task.modelled:
            if each.noise:
                measured = np.array([member[each.name] for member in members], dtype=np.float64)
                ensemble = self._ensembles[each.name]
                left_out = ensemble.left_out
                # The standard error of a share is that of the true one: a lucky value would seem too certain.
                errors = each.standard_errors(np.clip(left_out, measured.min(), measured.max()))
                columns[each.name] = expected(measured, ensemble.predict(self._seen), left_out, errors)
        if not columns:
            return members
        rows = [{name: float(column[n]) for name, column in columns.items()} for n in range(len(members))]
        return [replace(member, values={**member.values, **row}) for member, row in zip(members, rows, strict=True)]

    def __call__(self, genomes: Genomes) -> Table:
        """Canonical genomes, shape (n, genes), to their exact and predicted quantities; infinite for invalid ones."""
        exact = self._task.exact(genomes)
        valid = np.isfinite(list(exact.values())).all(axis=0) if exact else np.ones(len(genomes), dtype=bool)
        if valid.all():
            return exact | self._predicted(genomes)
        predicted = self._predicted(genomes[valid]) if valid.any() else dict.fromkeys(self._ensembles, np.zeros(0))
        table = {name: np.full(len(genomes), np.inf) for name in (*exact, *predicted)}
        for name, column in ({name: values[valid] for name, values in exact.items()} | predicted).items():
            table[name][valid] = column
        return table

    def _predicted(self, genomes: Genomes) -> Table:
        features = self._features(genomes)
        return {name: ensemble.predict(features) for name, ensemble in self._ensembles.items()}

    def _features(self, genomes: Genomes) -> Values:
        """Inputs of the predictors; ``structure`` includes the logarithms of exact quantities and their squares."""
        features = self._task.space.features(genomes, self._task.settings.features)
        if not len(self._centre):
            return features
        values = self._task.exact_values(genomes)
        costs = (self._logarithms(values) - self._centre) / self._spread
        return np.concatenate([features, costs, costs**2], axis=1)

    def _logarithms(self, costs: Values) -> Values:
        return np.where(self._logs, np.log(np.where(costs > 0, costs, 1e-9)), costs)


def propose(
    task: Task[A],
    members: Sequence[Evaluation[A]],
    model: Model[A],
    number: int | str,
    *,
    visited: list[Genomes] | None = None,
) -> Genomes:
    """The last population of the inner evolution: networks that the model predicts to be good.

    All networks that the evolution looked at are appended to `visited`.
    """
    settings = task.settings
    front = task.front(members)[: settings.population] if settings.start == "front" else []
    generator = numpy_generator(task.seed, "evolve", number)
    start = [
        task.encode_all([members[n].arch for n in front]),
        task.space.sample(settings.population - len(front), generator, sampling=settings.sampling),
    ]

    def objectives(genomes: Genomes) -> NDArray[np.float64]:
        if visited is not None:
            visited.append(genomes)
        values = task.minimised(model(genomes))
        return np.where(np.isfinite(values).all(axis=1, keepdims=True), values, _INVALID)

    return evolve(
        task.space,
        objectives,
        n_objectives=len(task.objectives),
        population=settings.population,
        generations=settings.inner_generations,
        start=np.concatenate(start),
        seed=derive(task.seed, "evolve", number),
        patience=settings.patience,
        diversity=settings.diversity,
        violated=(lambda genomes: np.minimum(violations(task, model(genomes)), _INVALID)) if task.bounded else None,
    )


def foremost(task: Task[A], genomes: Genomes, model: Model[A], count: int) -> Genomes:
    """Valid ones among canonical genomes, predicted front after front, until there are at least `count`.

    Those that are predicted to break the budget are only among them if fewer than `count` keep it. A population holds a
    small part of a front of more than two objectives; what an evolution visited holds much more of it.
    """
    genomes = np.unique(genomes, axis=0)
    genomes = genomes[task.valid(genomes)]
    table = model(genomes)
    if task.bounded:
        violated = violations(task, table)
        kept = np.flatnonzero(violated <= 0)
        if len(kept) < count:
            return genomes[np.sort(np.argsort(violated, kind="stable")[:count])]
        genomes, table = genomes[kept], {name: column[kept] for name, column in table.items()}
    return genomes[first_fronts(task.minimised(table), count)]


def violations(task: Task[A], table: Table) -> NDArray[np.float64]:
    """By how much networks violate the budget according to the model, shape (n,)."""
    bounded = [each for each in task.quantities if each.bounded]
    return violation(bounded, np.stack([table[each.name] for each in bounded], axis=1))


def choose(
    task: Task[A], members: Sequence[Evaluation[A]], pool: Genomes, model: Model[A], count: int | None = None
) -> Genomes:
    """The candidates to evaluate: those that gain most, or fill the front's gaps; the lowest of one objective."""
    count = task.settings.candidates if count is None else count
    if len(pool) <= count:
        return pool
    table = model(pool)
    if task.bounded:
        violated = violations(task, table)
        kept = violated <= 0
        if kept.sum() <= count:
            return pool[np.sort(np.argsort(violated, kind="stable")[:count])]
        pool, table = pool[kept], {name: column[kept] for name, column in table.items()}
    predicted = task.minimised(table)
    if len(task.objectives) == 1:
        return pool[survive(predicted, count)]
    first = [members[n] for n in task.front(members)]
    if task.violations(first).any():  # a front that breaks the budget must not displace networks that keep it
        first = []
    front = task.values(first)
    if task.settings.selection == "spread":
        leading = task.objectives.index(task.leading)
        return pool[spread_subset(np.delete(predicted, leading, axis=1), np.delete(front, leading, axis=1), count)]
    doubts = np.array([model.doubts.get(each.name, 0.0) for each in task.objectives])
    return pool[gaining_subset(predicted - task.settings.optimism * doubts, front, count)]


def candidates(
    task: Task[A],
    members: Sequence[Evaluation[A]],
    number: int | str,
    known: Callable[[A], bool],
    *,
    count: int | None = None,
) -> tuple[Genomes, Table, Proposal]:
    """New networks to evaluate, their predictions, and how they were found.

    If the last population of the inner evolution has too few new ones, the others come from its earlier generations and
    from the neighbourhood of the front, and in the end from anywhere in the space: there are fewer than asked for only
    if all networks that keep the exact bounds are known.

    Args:
        task: What the search works with.
        members: The archive.
        number: Of the generation; decides all random choices.
        known: Whether an architecture has been evaluated already.
        count: How many; by default `candidates` of the settings.
    """
    settings = task.settings
    count = settings.candidates if count is None else count
    clock = [time.monotonic()]
    with threadpool_limits(1, "blas"):  # for matrices this small threads cost more than they save
        model = Model(task, members, number)
        members = model.expected(members)  # what was only lucky must not keep better networks from being proposed
        clock.append(time.monotonic())
        visited: list[Genomes] = []
        pool = propose(task, members, model, number, visited=visited)
        clock.append(time.monotonic())
        pool = pool[task.valid(pool)]
        new = _new(task, pool, known)
        feasible = float((violations(task, model(pool)) <= 0).mean()) if task.bounded and len(pool) else 1.0
        unseen = pool[new]
        if len(task.objectives) > 2 and settings.diversity == "crowding":
            unseen = foremost(task, np.concatenate([pool, *visited]), model, settings.population + len(members))
            unseen = unseen[_new(task, unseen, known)]
        if len(unseen) < count:
            unseen = widen(task, members, np.concatenate([pool, *visited]), number, known, count)
        chosen = choose(task, members, unseen, model, count)
        predicted = model(chosen) if len(chosen) else {}
        clock.append(time.monotonic())
    first = task.leading.name
    predict_seconds, evolve_seconds, select_seconds = np.diff(clock).tolist()
    proposal = Proposal(
        predictor=model.choices[first],
        predictors=model.choices,
        bounded=task.bounded,
        feasible=feasible,
        duplicate=float(1 - new.mean()) if len(new) else 1.0,
        predict_seconds=predict_seconds,
        evolve_seconds=evolve_seconds,
        select_seconds=select_seconds,
    )
    return chosen, predicted, proposal


def _new(task: Task[A], genomes: Genomes, known: Callable[[A], bool]) -> NDArray[np.bool_]:
    return np.array([not known(task.space.decode(genome)) for genome in genomes], dtype=bool)


def to_expect(task: Task[A], members: Sequence[Evaluation[A]]) -> Sequence[Evaluation[A]]:
    """Evaluations with the values to expect if they were made again; as they are if nothing predicted is noisy."""
    if not members or not any(each.noise for each in task.modelled):
        return members
    with threadpool_limits(1, "blas"):
        return Model(task, members, "result").expected(members)


def training_set(task: Task[A], members: list[Evaluation[A]], weights: int) -> list[Evaluation[A]]:
    """What the predictor learns from: the archive, and the best other evaluations with the same weights."""
    room = task.settings.learn_from - len(members)
    there = {member.arch for member in members}
    if room <= 0:
        return members
    others = [each for each in task.archive.known(weights) if each.arch not in there]
    if len(others) > room:
        others = [others[index] for index in task.survivors(others, room, seed=derive(task.seed, "learn"))]
    return members + others


def prediction_quality(
    task: Task[A], archs: Sequence[A], evaluated: Sequence[Evaluation[A]], predicted: Table
) -> dict[str, Quality]:
    """How well candidates were predicted, by name of the quantity; empty if none could be evaluated.

    Args:
        task: What the search works with.
        archs: The candidates.
        evaluated: Evaluations; of other architectures too.
        predicted: What was predicted of the candidates.
    """
    made = {evaluation.arch: evaluation for evaluation in evaluated if not evaluation.failure}
    numbers = [number for number, arch in enumerate(archs) if arch in made]
    found = {}
    for each in task.modelled if numbers else ():
        measured = np.array([made[archs[number]][each.name] for number in numbers], dtype=np.float64)
        found[each.name] = quality(predicted[each.name][numbers], measured)
    return found
