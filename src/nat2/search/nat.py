"""NAT2's loop: predict, evolve, select, evaluate, replace, adapt, evaluate again."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from nat2.search.archive import Evaluation, Generation, Origin
from nat2.search.predictors import quality
from nat2.search.propose import choose, fit, propose
from nat2.search.select import hypervolume, survive
from nat2.search.task import Search
from nat2.seeds import derive, numpy_generator
from nat2.space.arch import Arch


def search(task: Search) -> list[Evaluation]:
    """Run the search, or continue it, and return the last archive (NAT2, algorithm).

    Everything that a generation decides follows from the archive before it and the seed, and no evaluation on disk
    is made again, so an interrupted search ends like an uninterrupted one.
    """
    finished = task.archive.generations()
    for generation in finished:
        task.tick(int(generation.facts["evaluations"]))
        task.report(generation)
    if not finished:
        finished.append(_initialise(task))
    for number in range(finished[-1].number + 1, task.settings.generations + 1):
        finished.append(_generation(task, number, finished[-1]))
    last = finished[-1]
    return _known(task, last.members, task.version(last.number))


def _initialise(task: Search) -> Generation:
    """Generation 0: sample, evaluate, keep the survivors, and always the smallest and the largest network."""
    began = time.monotonic()
    space, settings = task.space, task.settings
    ends = [space.smallest, space.largest]
    drawn = space.sample_distinct(
        settings.archive * settings.oversample - len(ends),
        numpy_generator(task.seed, "initialise"),
        sampling=settings.sampling,
        exclude=ends,
    )
    sampled = _evaluate(task, drawn, 0, 0, "initial")
    extremes = _evaluate(task, ends, 0, 0, "initial")
    kept = survive(task.values(sampled), settings.archive - len(ends), seed=derive(task.seed, "survive", 0))
    members = [sampled[index] for index in kept] + extremes
    reference = 1.01 * task.values(members).max(0)
    task.archive.note("reference", " ".join(map(repr, reference.tolist())))
    return _close(task, 0, members, {"evaluations": len(sampled) + len(extremes), "seconds": time.monotonic() - began})


def _generation(task: Search, number: int, before: Generation) -> Generation:
    """Predict, evolve, choose, evaluate, replace; then adapt and evaluate the archive again."""
    began = time.monotonic()
    weights = task.version(number - 1)
    members = _known(task, before.members, weights)
    predict = fit(task, members, number)
    chosen = choose(task, members, propose(task, members, predict, number), predict)
    candidates = _evaluate(task, [task.space.decode(genome) for genome in chosen], number, weights, "candidate")
    measured = np.array([candidate.error for candidate in candidates])
    facts: dict[str, Any] = {"candidates": len(candidates), "evaluations": len(candidates)}
    facts |= quality(predict(chosen), measured)._asdict() if candidates else {}
    members = _replace(task, members + candidates, number)
    facts["search_seconds"] = time.monotonic() - began
    if task.adapt is not None:
        good = survive(task.values(members), task.settings.top, seed=derive(task.seed, "good", number))
        task.adapt(number, task.space.encode_all([members[index].arch for index in good]))
        facts["adapt_seconds"] = time.monotonic() - began - facts["search_seconds"]
        archs = [member.arch for member in members]
        members = _evaluate(task, archs, number, task.version(number), "re-evaluation")
        facts["evaluations"] += len(members)
    return _close(task, number, members, facts | {"seconds": time.monotonic() - began})


def _replace(task: Search, members: list[Evaluation], number: int) -> list[Evaluation]:
    """The archive with its new members: all of them, or as many survivors as it is to hold."""
    if task.settings.update == "append":
        return members
    kept = survive(task.values(members), task.settings.archive, seed=derive(task.seed, "survive", number))
    return [members[index] for index in kept]


def _evaluate(task: Search, archs: Sequence[Arch], generation: int, weights: int, origin: Origin) -> list[Evaluation]:
    """Evaluations with a version of the weights: from the archive if they are there, else made and kept there."""
    results = []
    for arch in archs:
        found = task.archive.find(arch, weights=weights)
        if found is None:
            began = time.monotonic()
            params, macs, _ = task.costs(task.space.encode(arch)[None])[0].tolist()
            found = Evaluation(arch, task.measure(arch), params, macs)
            task.archive.add(
                found, weights=weights, generation=generation, origin=origin, seconds=time.monotonic() - began
            )
        task.tick(1)
        results.append(found)
    return results


def _known(task: Search, archs: Sequence[Arch], weights: int) -> list[Evaluation]:
    """The archive's evaluations, all of which were made when the last generation was closed."""
    return [found for arch in archs if (found := task.archive.find(arch, weights=weights)) is not None]


def _close(task: Search, number: int, members: Sequence[Evaluation], facts: dict[str, Any]) -> Generation:
    reference = np.array([float(value) for value in (task.archive.noted("reference") or "").split()])
    volume = hypervolume(task.values(members), reference)
    generation = Generation(number, tuple(member.arch for member in members), volume, facts)
    task.archive.close_generation(generation)
    task.report(generation)
    return generation
