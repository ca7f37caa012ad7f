"""NAT2's loop: predict, evolve, select, evaluate, replace, adapt, evaluate again."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from nat2.errors import CheckpointError, RunError
from nat2.nas.archive import Archive, Evaluation, Generation
from nat2.nas.feasible import check_budget
from nat2.nas.functions import Evaluate, SearchFunctions
from nat2.nas.initialise import initial_archive
from nat2.nas.measure import check_failures, measure, succeeded
from nat2.nas.objectives import Objective
from nat2.nas.propose import Table, candidates, prediction_quality, training_set
from nat2.nas.search_result import SearchResult
from nat2.nas.select import survive
from nat2.nas.settings import SearchSettings
from nat2.nas.task import Search, check
from nat2.processes import ALONE, Processes
from nat2.progress import FoundDone
from nat2.seeds import derive
from nat2.space.searchable import A, Searchable
from nat2.space.space import Genomes


def search(
    space: Searchable[A],
    evaluate: Evaluate[A] | SearchFunctions[A],
    objectives: Sequence[Objective],
    *,
    recorded: Sequence[Objective] = (),
    settings: SearchSettings | None = None,
    archive: Archive[A] | Path | str | None = None,
    seed: int = 0,
    processes: Processes = ALONE,
    tick: Callable[[int], None] = lambda count: None,
    report: Callable[[Generation], None] = lambda generation: None,
    say: Callable[[str], None] = lambda line: None,
) -> SearchResult[A]:
    """Search a space for the architectures that no other beats, or continue a search (NAT2, algorithm).

    Everything that a generation decides follows from the archive before it and the seed, and no evaluation in the
    archive is made again, so an interrupted search ends like an uninterrupted one.

    Args:
        space: What is searched: a `SearchSpace`, an `IntegerSpace`, or your own.
        evaluate: Takes an architecture; gives a value for each ``predicted`` objective by name, or the value of the
            only one. What it raises is recorded as the failure of that architecture. With successive halving it is also
            called with ``share``, above 0 and below 1: the part of the images to look at. `SearchFunctions` adds what
            computes ``exact`` and measures ``measured`` objectives, and what adapts the weights between generations.
        objectives: What is optimised, the first of cost class ``predicted``; bounds are kept.
        recorded: What is only recorded, or held within bounds.
        settings: Policies and sizes; ``SearchSettings.of("nat2")`` and ``of("nat")`` are the published ones.
        archive: Where evaluations are kept, and taken from; by default nowhere but in memory.
        seed: Decides every random choice.
        processes: Those that share the work; all of them make the same search.
        tick: Told how many evaluations have been made or found.
        report: Told every generation when it is over.
        say: Told what is worth a line beside that.

    Raises:
        ConfigError: the arguments contradict each other, or no architecture keeps the bounds on exact objectives.
        CheckpointError: the archive is damaged.
        RunError: the archive cannot be written, or most of the first evaluations fail.
    """
    settings = settings or SearchSettings()
    objectives, recorded = tuple(objectives), tuple(recorded)
    functions = SearchFunctions.of(evaluate)
    check(objectives, recorded, settings, functions)
    if isinstance(archive, Archive):
        kept = archive
    else:
        names = [each.name for each in (*objectives, *recorded)]
        kept = Archive(None if archive is None else Path(archive), names, key=space.key, parse=space.parse)
    task = Search(space, functions, objectives, recorded, settings, kept, seed, processes, tick, report, say)
    check_budget(space, task.quantities, functions.exact, seed=seed)
    try:
        _claim(task)
        return _run(task)
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{kept.path} is damaged ({error}); begin again with --fresh") from error
    finally:
        if kept is not archive:
            kept.close()


def _run(task: Search[A]) -> SearchResult[A]:
    finished = task.archive.generations()
    for generation in finished:
        task.tick(FoundDone(generation.facts["evaluations"]))
        if task.functions.adapt is not None and "good" in generation.facts:  # made again if its checkpoint was lost
            task.functions.adapt(generation.number, np.array(generation.facts["good"]))
        task.report(generation)
    if not finished:
        finished.append(_initialise(task))
    for number in range(finished[-1].number + 1, task.settings.generations + 1):
        finished.append(_generation(task, number, finished[-1]))
    return SearchResult.of(task, finished)


def _claim(task: Search[A]) -> None:
    """Note what is searched for, or check that the archive is of the same search."""
    wanted = {
        "seed": task.seed,
        "adapts": task.functions.adapt is not None,
        "space": [task.space.lower.tolist(), task.space.upper.tolist()],
        **{each.name: [each.direction, each.cost, each.low, each.high] for each in task.quantities},
    }
    noted = task.archive.noted("search")
    if noted is None:
        task.record(partial(task.archive.note, "search", json.dumps(wanted)))
        return
    there = json.loads(noted)
    different = [name for name in {**wanted, **there} if wanted.get(name) != there.get(name)]
    if different:
        raise RunError(
            f"{task.archive.path} holds another search: {', '.join(different)} differ; continue with the same space, "
            "objectives, bounds and seed, or name another archive"
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
    chosen, predicted, facts = _candidates(task, training_set(task, members, weights), number, weights)
    clock.append(time.monotonic())
    archs = task.decode_all(chosen)
    evaluated = measure(task, archs, weights=weights, generation=number, origin="candidate")
    facts |= {"candidates": len(evaluated), "evaluations": len(evaluated)} | prediction_quality(
        task, evaluated, predicted
    )
    members = _replace(task, members + succeeded(evaluated), number)
    clock.append(time.monotonic())
    if task.functions.adapt is not None:
        good = _survivors(task, members, task.settings.top, "good", number)
        genomes = task.encode_all([members[index].arch for index in good])
        facts["good"] = genomes.tolist()
        task.functions.adapt(number, genomes)
        clock.append(time.monotonic())
        archs = [member.arch for member in members]
        again = measure(task, archs, weights=task.version(number), generation=number, origin="re-evaluation")
        check_failures(task, again)
        evaluated, members = evaluated + again, succeeded(again)
        facts["evaluations"] += len(again)
        clock.append(time.monotonic())
    facts["failed"] = sum(bool(evaluation.failure) for evaluation in evaluated)
    parts = zip(("evaluate", "adapt", "again"), np.diff(clock)[1:], strict=False)
    facts |= {f"{part}_seconds": float(seconds) for part, seconds in parts}
    return _close(task, number, members, facts | {"seconds": clock[-1] - clock[0]})


def _candidates(
    task: Search[A], known: list[Evaluation[A]], number: int, weights: int
) -> tuple[Genomes, Table, dict[str, Any]]:
    """The candidates of a generation, what was predicted of them, and how they were found.

    Decided once and noted: neither another process nor a later one, which may run on a machine that rounds
    differently, is to decide otherwise.
    """
    key = f"candidates of generation {number}"
    noted = task.archive.noted(key)
    if noted is None:

        def evaluated(arch: A) -> bool:
            return task.archive.find(arch, weights=weights) is not None or task.archive.failed(arch)

        def decide() -> str:
            genomes, table, facts = candidates(task, known, number, evaluated)
            return json.dumps([genomes.tolist(), {name: column.tolist() for name, column in table.items()}, facts])

        noted = task.processes.once(decide)
        task.record(partial(task.archive.note, key, noted))
    genomes, table, facts = json.loads(noted)
    columns = {name: np.array(column) for name, column in table.items()}
    return np.array(genomes, dtype=np.int64).reshape(len(genomes), len(task.space.lower)), columns, facts


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
    """The archive's evaluations, all of which were made when the last generation was closed.

    Raises:
        CheckpointError: some are missing.
    """
    found = [each for arch in archs if (each := task.archive.find(arch, weights=weights)) is not None]
    if len(found) < len(archs):
        raise CheckpointError(f"{task.archive.path} is damaged: evaluations of its last generation are missing")
    return found


def _close(task: Search[A], number: int, members: Sequence[Evaluation[A]], facts: dict[str, Any]) -> Generation:
    box = json.loads(task.archive.noted("box") or "[[], []]")
    generation = Generation(number, tuple(member.arch for member in members), task.hypervolume(members, box), facts)
    task.record(partial(task.archive.close_generation, generation))
    task.report(generation)
    return generation
