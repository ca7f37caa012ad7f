"""The initial archive: which networks are drawn, and which of them are kept (NAT2, initialisation, pre-processing)."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from nat2.nas.archive import Evaluation
from nat2.nas.feasible import check_budget
from nat2.nas.measure import check_failures, measure, succeeded
from nat2.nas.select import survive
from nat2.nas.task import Task
from nat2.progress import duration
from nat2.seeds import derive, numpy_generator
from nat2.space.searchable import A
from nat2.space.space import Genomes

_ROUNDS = 100


def initial_archive(task: Task[A]) -> list[Evaluation[A]]:
    """Draw and evaluate networks and keep the survivors; the smallest and the largest one are always among them."""
    space, settings = task.space, task.settings
    ends = list(dict.fromkeys([space.decode(space.lower), space.decode(space.upper)]))
    drawn = draw(task, settings.rungs[0][0] - len(ends), exclude=ends)
    parts = []
    for place, (count, share) in enumerate(settings.rungs):
        began = time.monotonic()
        evaluated = measure(task, drawn[: count - len(ends)], weights=0, generation=0, origin="initial", share=share)
        check_failures(task, evaluated)
        evaluated = succeeded(evaluated)
        parts.append(f"{len(evaluated)} on {_part(share)} in {duration(time.monotonic() - began)}")
        if place + 1 < len(settings.rungs):
            drawn = [each.arch for each in _best(task, evaluated, settings.rungs[place + 1][0] - len(ends), place)]
    extremes = measure(task, ends, weights=0, generation=0, origin="initial")
    if not evaluated:
        check_failures(task, extremes)
    cost = sum(count * share for count, share in settings.rungs)
    task.progress.say(
        f"initial archive of {settings.archive} networks: evaluated {', then '.join(parts)}; as costly as "
        f"{cost:,.0f} on all images"
    )
    return [*_best(task, evaluated, settings.archive - len(ends), len(settings.rungs)), *succeeded(extremes)]


def _best(task: Task[A], evaluated: Sequence[Evaluation[A]], count: int, place: int) -> list[Evaluation[A]]:
    seed = derive(task.seed, "survive", 0, place)
    kept = task.processes.once(
        lambda: [int(n) for n in survive(task.values(evaluated), count, violated=task.violations(evaluated), seed=seed)]
    )
    return [evaluated[number] for number in kept]


def _part(share: float) -> str:
    return "all images" if share == 1 else f"{100 * share:.0f} % of them"


def draw(task: Task[A], count: int, *, exclude: Sequence[A]) -> list[A]:
    """Draw different networks that keep the budget as far as it is exact; fewer than `count` if there are no more.

    Raises:
        ConfigError: no network keeps the budget.
    """
    generator = numpy_generator(task.seed, "initialise")
    kept = dict.fromkeys(exclude)
    aside: dict[A, None] = {}
    seeds = check_budget(task.space, task.quantities, task.functions.exact, seed=task.seed)
    bounded = any(each.bounded for each in task.of_class("exact"))
    for _ in range(_ROUNDS):
        genomes = task.space.sample(
            count if not bounded else max(count, 1000), generator, sampling=task.settings.sampling
        )
        keeps = task.keeps_exact(genomes)
        for genome, kept_budget in zip(genomes, keeps, strict=True):
            (kept if kept_budget else aside)[task.space.decode(genome)] = None
        if len(kept) >= count + len(exclude):
            break
    if len(kept) < count + len(exclude):  # a tight budget: mutants of the few that keep it, then those that break it
        mutants = task.space.canonical(_mutated(task, seeds, generator))
        near = np.concatenate([seeds, mutants[task.keeps_exact(mutants)]])
        kept |= dict.fromkeys(task.decode_all(near))
        kept |= aside
    drawn = [arch for arch in kept if arch not in set(exclude)]
    return drawn[:count]


def _mutated(task: Task[A], genomes: Genomes, generator: np.random.Generator) -> Genomes:
    """Ten thousand mutants, with one gene in ten redrawn."""
    parents = genomes[generator.integers(len(genomes), size=10_000)]
    fresh = generator.integers(task.space.lower, task.space.upper + 1, size=parents.shape)
    return np.where(generator.random(parents.shape) < 0.1, fresh, parents)
