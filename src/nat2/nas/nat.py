"""NAT2's loop: predict, evolve, select, evaluate, replace, adapt, evaluate again."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np

from nat2.errors import ConfigError
from nat2.nas.archive import Archive, Evaluation, Generation
from nat2.nas.feasible import check_budget
from nat2.nas.found import Found
from nat2.nas.initialise import initial_archive
from nat2.nas.measure import measure, succeeded
from nat2.nas.objectives import Objective
from nat2.nas.predictors import check_predictor, quality
from nat2.nas.propose import Table, candidates
from nat2.nas.select import survive
from nat2.nas.task import Evaluate, Search
from nat2.parallel import ALONE, Processes
from nat2.seeds import derive
from nat2.settings import SearchSettings
from nat2.space.searchable import A, Searchable
from nat2.space.space import Genomes


def search(
    space: Searchable[A],
    evaluate: Evaluate[A],
    objectives: Sequence[Objective],
    *,
    also: Sequence[Objective] = (),
    settings: SearchSettings | None = None,
    archive: Archive[A] | Path | str | None = None,
    adapt: Callable[[int, Genomes], None] | None = None,
    seed: int = 0,
    processes: Processes = ALONE,
    tick: Callable[[int], None] = lambda count: None,
    report: Callable[[Generation], None] = lambda generation: None,
    say: Callable[[str], None] = lambda line: None,
) -> Found[A]:
    """Search a space for the architectures that no other beats, or continue a search (NAT2, algorithm).

    Everything that a generation decides follows from the archive before it and the seed, and no evaluation in the
    archive is made again, so an interrupted search ends like an uninterrupted one.

    Args:
        space: What is searched: a `SearchSpace`, an `IntegerSpace`, or your own.
        evaluate: Takes an architecture; gives a value for each ``predicted`` objective by name, or the value of the
            only one. What it raises is recorded as the failure of that architecture. With successive halving it is also
            called with ``share``, above 0 and below 1: the part of the images to look at.
        objectives: What is optimised, the first of cost class ``predicted``; bounds are kept.
        also: What is only recorded, or held within bounds.
        settings: Policies and sizes; ``SearchSettings.of("nat2")`` and ``of("nat")`` are the published ones.
        archive: Where evaluations are kept, and taken from; by default nowhere but in memory.
        adapt: Takes the number of a generation and the genomes of good architectures, shape (n, genes), and changes
            what `evaluate` works with; then all architectures of the archive are evaluated again.
        seed: Decides every random choice.
        processes: Those that share the work; all of them make the same search.
        tick: Told how many evaluations have been made or found.
        report: Told every generation when it is over.
        say: Told what is worth a line beside that.

    Raises:
        ConfigError: the arguments contradict each other, or no architecture keeps the bounds on exact objectives.
        RunError: the archive cannot be written, or most of the first evaluations fail.
    """
    settings = settings or SearchSettings()
    objectives, also = tuple(objectives), tuple(also)
    _check(objectives, also, settings, evaluate)
    if isinstance(archive, Archive):
        kept = archive
    else:
        names = [each.name for each in (*objectives, *also)]
        kept = Archive(None if archive is None else Path(archive), names, key=space.key, parse=space.parse)
    task = Search(space, evaluate, objectives, also, settings, kept, adapt, seed, processes, tick, report, say)
    check_budget(space, task.quantities, seed=seed)
    finished = kept.generations()
    for generation in finished:
        tick(int(generation.facts["evaluations"]))
        if adapt is not None and "good" in generation.facts:  # made again if its checkpoint was lost
            adapt(generation.number, np.array(generation.facts["good"]))
        report(generation)
    if not finished:
        finished.append(_initialise(task))
    for number in range(finished[-1].number + 1, settings.generations + 1):
        finished.append(_generation(task, number, finished[-1]))
    return Found.of(task, finished)


def _check(
    objectives: Sequence[Objective], also: Sequence[Objective], settings: SearchSettings, evaluate: Evaluate[A]
) -> None:
    names = [each.name for each in (*objectives, *also)]
    if not objectives or objectives[0].cost != "predicted":
        raise ConfigError(f"the first objective must be of cost class predicted; got {names[:1]}")
    if len(set(names)) < len(names):
        raise ConfigError(f"objectives must have different names; got {', '.join(names)}")
    for each in (*objectives, *also):
        if (each.measure is None) != (each.cost == "predicted"):
            rule = "is given by evaluating and takes no" if each.cost == "predicted" else "needs a"
            raise ConfigError(f"the objective {each.name} is {each.cost}, so it {rule} `measure`")
    check_predictor(settings.predictor)
    partial_images = settings.rungs[0][1] < 1
    if partial_images and "share" not in signature(evaluate).parameters:
        raise ConfigError(
            "successive halving evaluates on part of the images, so the evaluation must take `share`; choose "
            "`preprocess` none or oversample"
        )


def _initialise(task: Search[A]) -> Generation:
    """Generation 0."""
    began = time.monotonic()
    members = initial_archive(task)
    task.record(partial(task.archive.note, "box", json.dumps(task.box(members))))
    made = task.archive.evaluations()
    facts = {"evaluations": len(made), "failed": sum(bool(evaluation.failure) for evaluation, _ in made)}
    return _close(task, 0, members, {**facts, "seconds": time.monotonic() - began})


def _generation(task: Search[A], number: int, before: Generation) -> Generation:
    """Predict, evolve, choose, evaluate, replace; then adapt and evaluate the archive again."""
    clock = [time.monotonic()]
    weights = task.version(number - 1)
    members = _known(task, before.members, weights)
    chosen, predicted, facts = _candidates(task, _learned(task, members, weights), number, weights)
    clock.append(time.monotonic())
    archs = task.decode_all(chosen)
    evaluated = measure(task, archs, weights=weights, generation=number, origin="candidate")
    facts |= {"candidates": len(evaluated), "evaluations": len(evaluated)} | _quality(task, evaluated, predicted)
    members = _replace(task, members + succeeded(evaluated), number)
    clock.append(time.monotonic())
    if task.adapt is not None:
        good = _survivors(task, members, task.settings.top, "good", number)
        genomes = task.encode_all([members[index].arch for index in good])
        facts["good"] = genomes.tolist()
        task.adapt(number, genomes)
        clock.append(time.monotonic())
        archs = [member.arch for member in members]
        again = measure(task, archs, weights=task.version(number), generation=number, origin="re-evaluation")
        evaluated, members = evaluated + again, succeeded(again)
        facts["evaluations"] += len(again)
        clock.append(time.monotonic())
    facts["failed"] = sum(bool(evaluation.failure) for evaluation in evaluated)
    parts = zip(("evaluate", "adapt", "again"), np.diff(clock)[1:], strict=False)
    facts |= {f"{part}_seconds": float(seconds) for part, seconds in parts}
    return _close(task, number, members, facts | {"seconds": clock[-1] - clock[0]})


def _candidates(
    task: Search[A], learned: list[Evaluation[A]], number: int, weights: int
) -> tuple[Genomes, Table, dict[str, Any]]:
    """The candidates of a generation, what was predicted of them, and how they were found.

    Decided once and noted: neither another process nor a later one, which may run on a machine that rounds
    differently, is to decide otherwise.
    """
    key = f"candidates of generation {number}"
    noted = task.archive.noted(key)
    if noted is None:

        def evaluated(arch: A) -> bool:
            return task.archive.find(arch, weights=weights) is not None

        def decide() -> str:
            genomes, table, facts = candidates(task, learned, number, evaluated)
            return json.dumps([genomes.tolist(), {name: column.tolist() for name, column in table.items()}, facts])

        noted = task.processes.once(decide)
        task.record(partial(task.archive.note, key, noted))
    genomes, table, facts = json.loads(noted)
    columns = {name: np.array(column) for name, column in table.items()}
    return np.array(genomes, dtype=np.int64).reshape(len(genomes), len(task.space.lower)), columns, facts


def _learned(task: Search[A], members: list[Evaluation[A]], weights: int) -> list[Evaluation[A]]:
    """The archive, and the best of what else was evaluated with the same weights, for the predictor to learn from."""
    room = task.settings.learn_from - len(members)
    there = {member.arch for member in members}
    if room <= 0:
        return members
    others = [each for each in task.archive.known(weights) if each.arch not in there]
    if len(others) > room:
        kept = survive(task.values(others), room, violated=task.violations(others), seed=derive(task.seed, "learn"))
        others = [others[index] for index in kept]
    return members + others


def _quality(task: Search[A], evaluated: Sequence[Evaluation[A]], predicted: Table) -> dict[str, Any]:
    """How well the new candidates were predicted: of the first objective, and of the others by name."""
    made = [number for number, evaluation in enumerate(evaluated) if not evaluation.failure]
    facts: dict[str, Any] = {}
    for place, each in enumerate(task.modelled if made else ()):
        measured = np.array([evaluated[number][each.name] for number in made], dtype=np.float64)
        found = quality(predicted[each.name][made], measured)._asdict()
        facts |= found if place == 0 else {f"{each.name}_{name}": value for name, value in found.items()}
    return facts


def _replace(task: Search[A], members: list[Evaluation[A]], number: int) -> list[Evaluation[A]]:
    """The archive with its new members: all of them, or as many survivors as it is to hold."""
    if task.settings.update == "append":
        return members
    kept = _survivors(task, members, task.settings.archive, "survive", number)
    return [members[index] for index in kept]


def _survivors(task: Search[A], members: list[Evaluation[A]], count: int, purpose: str, number: int) -> list[int]:
    """Numbers of the members that survive, the same in all processes."""
    seed, values, violated = derive(task.seed, purpose, number), task.values(members), task.violations(members)
    return task.processes.once(lambda: [int(n) for n in survive(values, count, violated=violated, seed=seed)])


def _known(task: Search[A], archs: Sequence[A], weights: int) -> list[Evaluation[A]]:
    """The archive's evaluations, all of which were made when the last generation was closed."""
    return [found for arch in archs if (found := task.archive.find(arch, weights=weights)) is not None]


def _close(task: Search[A], number: int, members: Sequence[Evaluation[A]], facts: dict[str, Any]) -> Generation:
    box = json.loads(task.archive.noted("box") or "[[], []]")
    generation = Generation(number, tuple(member.arch for member in members), task.hypervolume(members, box), facts)
    task.record(partial(task.archive.close_generation, generation))
    task.report(generation)
    return generation
