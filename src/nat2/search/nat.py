"""NAT2's loop: predict, evolve, select, evaluate, replace, adapt, evaluate again."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from nat2.search.archive import Evaluation, Generation, Origin
from nat2.search.predictors import Values, quality
from nat2.search.propose import choose, fit, propose
from nat2.search.select import hypervolume, survive
from nat2.search.task import Search
from nat2.seeds import derive, numpy_generator
from nat2.space.arch import Arch
from nat2.space.space import Genomes


def search(task: Search) -> list[Evaluation]:
    """Run the search, or continue it, and return the last archive (NAT2, algorithm).

    Everything that a generation decides follows from the archive before it and the seed, and no evaluation on disk
    is made again, so an interrupted search ends like an uninterrupted one.
    """
    finished = task.archive.generations()
    for generation in finished:
        task.tick(int(generation.facts["evaluations"]))
        if task.adapt is not None and "good" in generation.facts:  # made again if its checkpoint was lost
            task.adapt(generation.number, np.array(generation.facts["good"]))
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
    kept = _survivors(task, sampled, settings.archive - len(ends), "survive", 0)
    members = [sampled[index] for index in kept] + extremes
    reference = 1.01 * task.values(members).max(0)
    task.record(partial(task.archive.note, "reference", " ".join(map(repr, reference.tolist()))))
    return _close(task, 0, members, {"evaluations": len(sampled) + len(extremes), "seconds": time.monotonic() - began})


def _generation(task: Search, number: int, before: Generation) -> Generation:
    """Predict, evolve, choose, evaluate, replace; then adapt and evaluate the archive again."""
    began = time.monotonic()
    weights = task.version(number - 1)
    members = _known(task, before.members, weights)
    chosen, predicted = _candidates(task, members, number)
    candidates = _evaluate(task, [task.space.decode(genome) for genome in chosen], number, weights, "candidate")
    measured = np.array([candidate.error for candidate in candidates])
    facts: dict[str, Any] = {"candidates": len(candidates), "evaluations": len(candidates)}
    facts |= quality(predicted, measured)._asdict() if candidates else {}
    members = _replace(task, members + candidates, number)
    facts["search_seconds"] = time.monotonic() - began
    if task.adapt is not None:
        good = _survivors(task, members, task.settings.top, "good", number)
        genomes = task.space.encode_all([members[index].arch for index in good])
        facts["good"] = genomes.tolist()
        task.adapt(number, genomes)
        facts["adapt_seconds"] = time.monotonic() - began - facts["search_seconds"]
        archs = [member.arch for member in members]
        members = _evaluate(task, archs, number, task.version(number), "re-evaluation")
        facts["evaluations"] += len(members)
    return _close(task, number, members, facts | {"seconds": time.monotonic() - began})


def _candidates(task: Search, members: list[Evaluation], number: int) -> tuple[Genomes, Values]:
    """The candidates of a generation, and their predicted errors.

    Decided once and noted: neither another process nor a later one, which may run on a machine that rounds
    differently, is to decide otherwise.
    """
    key = f"candidates of generation {number}"
    noted = task.archive.noted(key)
    if noted is None:
        chosen, predicted = task.processes.once(lambda: _predict_and_choose(task, members, number))
        noted = json.dumps([chosen.tolist(), predicted.tolist()])
        task.record(partial(task.archive.note, key, noted))
    genomes, errors = json.loads(noted)
    return np.array(genomes, dtype=np.int64).reshape(len(genomes), -1), np.array(errors)


def _predict_and_choose(task: Search, members: list[Evaluation], number: int) -> tuple[Genomes, Values]:
    """The candidates of a generation, and their predicted errors."""
    predict = fit(task, members, number)
    chosen = choose(task, members, propose(task, members, predict, number), predict)
    return chosen, predict(chosen)


def _replace(task: Search, members: list[Evaluation], number: int) -> list[Evaluation]:
    """The archive with its new members: all of them, or as many survivors as it is to hold."""
    if task.settings.update == "append":
        return members
    kept = _survivors(task, members, task.settings.archive, "survive", number)
    return [members[index] for index in kept]


def _survivors(task: Search, members: list[Evaluation], count: int, purpose: str, number: int) -> list[int]:
    """Numbers of the members that survive, the same in all processes."""
    seed = derive(task.seed, purpose, number)
    return task.processes.once(lambda: [int(index) for index in survive(task.values(members), count, seed=seed)])


def _evaluate(task: Search, archs: Sequence[Arch], generation: int, weights: int, origin: Origin) -> list[Evaluation]:
    """Evaluations with a version of the weights: from the archive if they are there, else made and kept there."""
    known = {arch: task.archive.find(arch, weights=weights) for arch in archs}
    missing = [arch for arch, found in known.items() if found is None]
    task.tick(len(known) - len(missing))
    costs = task.costs(task.space.encode_all(missing)).tolist() if missing else []
    macs_of = [macs for _, macs, _ in costs]
    measured = task.processes.spread(task.measure, missing, costs=macs_of)
    for (arch, error, seconds), (params, macs, _) in zip(measured, costs, strict=True):
        made = known[arch] = Evaluation(arch, error, params, macs)
        add = partial(task.archive.add, weights=weights, generation=generation, origin=origin)
        task.record(partial(add, made, seconds=seconds))
        task.tick(1)
    return [found for arch in archs if (found := known[arch]) is not None]


def _known(task: Search, archs: Sequence[Arch], weights: int) -> list[Evaluation]:
    """The archive's evaluations, all of which were made when the last generation was closed."""
    return [found for arch in archs if (found := task.archive.find(arch, weights=weights)) is not None]


def _close(task: Search, number: int, members: Sequence[Evaluation], facts: dict[str, Any]) -> Generation:
    reference = np.array([float(value) for value in (task.archive.noted("reference") or "").split()])
    volume = hypervolume(task.values(members), reference)
    generation = Generation(number, tuple(member.arch for member in members), volume, facts)
    task.record(partial(task.archive.close_generation, generation))
    task.report(generation)
    return generation
