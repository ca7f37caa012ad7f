"""NAT2's loop: predict, evolve, select, evaluate, replace, adapt, evaluate again."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Generator, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from nat2.errors import CheckpointError, RunError
from nat2.nas.archive import Archive, Evaluation
from nat2.nas.batch import Batch
from nat2.nas.decide import decided, read_note
from nat2.nas.feasible import check_budget
from nat2.nas.functions import Evaluate, SearchFunctions
from nat2.nas.generation import Generation, GenerationFacts
from nat2.nas.initialise import initial_archive
from nat2.nas.measure import check_failures, measure, succeeded
from nat2.nas.objectives import Objective
from nat2.nas.propose import prediction_quality
from nat2.nas.search_result import SearchResult
from nat2.nas.settings import SearchSettings
from nat2.nas.task import Task, check
from nat2.progress import SILENT, FoundDone, Reporter
from nat2.seeds import derive
from nat2.space.searchable import A, Searchable

_HOPELESS = 10  # failures per candidate of a generation after which no more are replaced
_FEW = 3  # failures without any success after which none is


def search(
    space: Searchable[A],
    evaluate: Evaluate[A] | SearchFunctions[A],
    objectives: Sequence[Objective],
    *,
    recorded: Sequence[Objective] = (),
    settings: SearchSettings | None = None,
    archive: Archive[A] | Path | str | None = None,
    seed: int = 0,
    progress: Reporter = SILENT,
) -> SearchResult[A]:
    """Search a space for the architectures that no other beats, or continue a search (NAT2, algorithm).

    Everything that a generation decides follows from the archive before it and the seed, and no evaluation in the
    archive is made again, so an interrupted search ends like an uninterrupted one.

    Args:
        space: What is searched: a `SearchSpace`, an `IntegerSpace`, or your own.
        evaluate: Takes an architecture; gives a value for each ``predicted`` objective by name, or the value of the
            only one. What it raises is recorded as the failure of that architecture. With successive halving it is also
            called with ``share``, above 0 and below 1: the part of the images to look at. `SearchFunctions` adds the
            functions of ``exact`` and ``measured`` objectives, and the one that adapts the weights between generations.
        objectives: What is optimised, the first of cost class ``predicted``; bounds are kept.
        recorded: What is only recorded or kept within bounds.
        settings: Policies and sizes; ``SearchSettings.of("nat2")`` and ``of("nat")`` are the published ones.
        archive: Where evaluations are stored and looked up; in memory by default.
        seed: Decides every random choice.
        progress: Where evaluations and generations are reported, e.g. a `nat2.progress.Progress`.

    Raises:
        ConfigError: the arguments contradict each other, or no architecture keeps the bounds on exact objectives.
        CheckpointError: the archive is damaged.
        RunError: the archive cannot be written, or most of the first evaluations fail.
    """
    settings, functions = settings or SearchSettings(), SearchFunctions.of(evaluate)
    objectives, recorded = tuple(objectives), tuple(recorded)
    check(objectives, recorded, settings, functions)  # before there is a file
    if isinstance(archive, Archive):
        kept = archive
    else:
        names = [each.name for each in (*objectives, *recorded)]
        kept = Archive(None if archive is None else Path(archive), names, key=space.key, parse=space.parse)
    task = Task(space, functions, objectives, recorded, settings, kept, seed, progress=progress)
    progress.stage("search", evaluations=settings.evaluations(adapts=functions.adapt is not None))
    try:
        finished = []
        for generation in run_search(task):
            progress.say(generation.summary(settings.generations))
            finished.append(generation)
        return SearchResult.of(task, finished)
    finally:
        if kept is not archive:
            kept.close()


def run_search(task: Task[A]) -> Iterator[Generation[A]]:
    """The generations of a search, each when it is over and in the archive; those already in the archive come first.

    The search runs as far as the iterator is consumed, and can be continued later. It ends early if the space is
    exhausted.

    Raises:
        ConfigError: the arguments contradict each other, or no architecture keeps the bounds on exact objectives.
        CheckpointError: the archive is damaged.
        RunError: the archive cannot be written, or most of the first evaluations fail.
    """
    for step in steps(task, task.settings.generations):
        if isinstance(step, Batch):
            measure(task, step)
        else:
            yield step


def steps(task: Task[A], last_number: float = math.inf) -> Iterator[Batch[A] | Generation[A]]:
    """What a search does next: have a batch evaluated, or report a generation that is over.

    The results of a batch are looked up in the archive when the next step is asked for. What is still out then is not
    waited for: it counts as known, and belongs to the generation in which it arrives. So the same search runs in step
    with its evaluations (`run_search`) and ahead of them (`nat2.Search`).

    Args:
        task: What the search works with.
        last_number: Of the last generation, which waits for everything that is out.

    Yields:
        A batch without architectures means that more results are needed first.

    Raises:
        ConfigError, CheckpointError, RunError: as `run_search`.
    """
    begin(task)
    last: Generation[A] | None = None
    for last in task.archive.generations():
        task.progress.step(FoundDone(last.facts.evaluations), unit="evaluations")
        if task.functions.adapt is not None and last.facts.good is not None:  # repeated if its checkpoint was lost
            task.functions.adapt(last.number, np.array(last.facts.good))
        yield last
    if last is None:
        last = yield from _initialise(task, last_number)
        yield last
    while last.number < last_number:
        following = yield from _generation(task, last.number + 1, last, last_number)
        if following is None:
            return
        last = following
        yield last


def begin(task: Task[A]) -> None:
    """Check that a search can be made, and that it is the one in the archive.

    Raises:
        ConfigError, CheckpointError, RunError: as `run_search`.
    """
    check(task.objectives, task.recorded, task.settings, task.functions)
    check_budget(task.space, task.quantities, task.functions.exact, seed=task.seed)
    _claim(task)


def _claim(task: Task[A]) -> None:
    """Record what is searched for, or check that the archive belongs to the same search."""
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
    there = read_note(task, noted)
    different = [name for name in {**wanted, **there} if wanted.get(name) != there.get(name)]
    if different:
        raise RunError(
            f"{task.archive.path} holds another search: {', '.join(different)} differ; continue with the same space, "
            "objectives, bounds and seed, or name another archive"
        )


def _initialise(task: Task[A], last_number: float) -> Generator[Batch[A], None, Generation[A]]:
    """Generation 0."""
    began = time.monotonic()
    members = yield from initial_archive(task, wait=last_number == 0)
    task.record(partial(task.archive.note, "box", json.dumps(task.box(members))))
    made = task.archive.evaluations()
    failed = sum(bool(evaluation.failure) for evaluation, _ in made)
    facts = GenerationFacts(evaluations=len(made), failed=failed, seconds=time.monotonic() - began)
    return _close(task, 0, members, facts)


def _generation(
    task: Task[A], number: int, before: Generation[A], last_number: float
) -> Generator[Batch[A], None, Generation[A] | None]:
    """Predict, evolve, choose, evaluate, replace; then adapt and re-evaluate the archive. None: nothing is left."""
    clock = [time.monotonic()]
    weights = task.version(number - 1)
    members = _known(task, before.members, weights)
    proposed = decided(task, members, weights, f"{number}")
    clock.append(time.monotonic())
    archs = task.decode_all(proposed.genomes)
    exhausted = not archs and task.functions.adapt is None
    if exhausted:
        _note_exhausted(task)
        if not task.archive.pending() and not task.archive.of_generation(number, weights=weights):
            return None
    yield from _candidates_evaluated(task, archs, members, number, weights)
    while task.archive.pending() and (exhausted or number == last_number):
        yield Batch(archs=(), weights=weights, generation=number, origin="candidate")
    evaluated = task.archive.of_generation(number, weights=weights)
    quality = prediction_quality(task, archs, evaluated, proposed.table)
    members = _replace(task, members + succeeded(evaluated), number)
    clock.append(time.monotonic())
    genomes, again = None, list[Evaluation[A]]()
    if task.functions.adapt is not None:
        good = _survivors(task, members, task.settings.top, "good", number)
        genomes = task.encode_all([members[index].arch for index in good])
        task.functions.adapt(number, genomes)
        clock.append(time.monotonic())
        batch = Batch(
            archs=tuple(member.arch for member in members), weights=task.version(number), generation=number,
            origin="re-evaluation",
        )  # fmt: skip
        yield batch
        again = batch.found(task.archive)
        check_failures(task, again)
        members = succeeded(again)
        clock.append(time.monotonic())
    # With fixed weights the last two parts do not exist.
    _, evaluate_seconds, adapt_seconds, again_seconds, *_ = [*np.diff(clock).tolist(), 0.0, 0.0]
    facts = GenerationFacts(
        evaluations=len(evaluated) + len(again),
        failed=sum(bool(evaluation.failure) for evaluation in evaluated + again),
        seconds=clock[-1] - clock[0],
        candidates=len(evaluated),
        proposal=proposed.proposal,
        quality=quality.pop(task.leading.name, None),
        quality_of=quality,
        good=None if genomes is None else genomes.tolist(),
        evaluate_seconds=evaluate_seconds,
        adapt_seconds=adapt_seconds,
        again_seconds=again_seconds,
    )
    return _close(task, number, members, facts)


def _candidates_evaluated(
    task: Task[A], archs: list[A], members: list[Evaluation[A]], number: int, weights: int
) -> Generator[Batch[A], None, None]:
    """Have the candidates of a generation evaluated, and others in place of those that failed."""
    asked, more, replacement = len(archs), archs, 0
    while more:
        yield Batch(archs=tuple(more), weights=weights, generation=number, origin="candidate")
        evaluated = task.archive.of_generation(number, weights=weights)
        failed = sum(bool(each.failure) for each in evaluated)
        lost = len(archs) - asked + failed
        hopeless = failed >= _HOPELESS * len(archs) or (failed == len(evaluated) and failed >= _FEW)
        if lost <= 0 or hopeless:
            return
        replacement += 1
        known = members + succeeded(evaluated)
        more = task.decode_all(decided(task, known, weights, f"{number}, replacement {replacement}", lost).genomes)
        asked += len(more)


def _note_exhausted(task: Task[A]) -> None:
    rule = " that keep the budget" if any(each.bounded for each in task.of_class("exact")) else ""
    reason = f"the space is exhausted: all architectures{rule} have been evaluated"
    if task.archive.noted("exhausted") is None:
        task.record(partial(task.archive.note, "exhausted", reason))
        task.progress.say(reason)


def _replace(task: Task[A], members: list[Evaluation[A]], number: int) -> list[Evaluation[A]]:
    """The archive with its new members: all of them, or as many survivors as fit."""
    if task.settings.update == "append":
        return members
    kept = _survivors(task, members, task.settings.archive, "survive", number)
    return [members[index] for index in kept]


def _survivors(task: Task[A], members: list[Evaluation[A]], count: int, purpose: str, number: int) -> list[int]:
    """Numbers of the members that survive, the same in all processes."""
    return task.processes.once(lambda: task.survivors(members, count, seed=derive(task.seed, purpose, number)))


def _known(task: Task[A], archs: Sequence[A], weights: int) -> list[Evaluation[A]]:
    """The archive's evaluations, all of which were made when the last generation was closed.

    Raises:
        CheckpointError: some are missing.
    """
    found = [each for arch in archs if (each := task.archive.find(arch, weights=weights)) is not None]
    if len(found) < len(archs):
        raise CheckpointError(f"{task.archive.path} is damaged: evaluations of its last generation are missing")
    return found


def _close(task: Task[A], number: int, members: Sequence[Evaluation[A]], facts: GenerationFacts) -> Generation[A]:
    box = read_note(task, task.archive.noted("box") or "[[], []]")
    generation = Generation(number, tuple(member.arch for member in members), task.hypervolume(members, box), facts)
    task.record(partial(task.archive.close_generation, generation))
    return generation
