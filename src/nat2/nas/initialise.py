"""The initial archive: which networks are drawn, and which of them are kept (NAT2, initialisation, pre-processing)."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from itertools import islice

import numpy as np

from nat2.nas.archive import Evaluation
from nat2.nas.batch import Batch
from nat2.nas.decide import decided
from nat2.nas.feasible import check_budget
from nat2.nas.measure import check_failures, succeeded
from nat2.nas.task import ENOUGH, Task
from nat2.progress import duration
from nat2.seeds import derive, numpy_generator
from nat2.space.searchable import A
from nat2.space.space import Genomes

_ROUNDS = 100
_AT_A_TIME = 4  # networks that are proposed for the initial archive
_FEWEST = 4  # known networks that a proposal can be made of
_MOST_BATCHES = 2  # per network of the archive


def initial_archive(task: Task[A], *, wait: bool = False) -> Generator[Batch[A], None, list[Evaluation[A]]]:
    """Draw networks and keep the survivors; the smallest and the largest one are always among them.

    Failed evaluations are replaced, and results that are known from elsewhere take the place of drawn networks.

    Args:
        task: What the search works with.
        wait: Wait in the end for all that is still out.

    Yields:
        What to evaluate next. What is still out when the next batch is asked for counts as if it had succeeded.

    Raises:
        RunError: most evaluations failed.
    """
    settings, ends = task.settings, _ends(task)
    given = _given(task, ends)
    count = settings.drawn if settings.guided else settings.rungs[0][0]
    first = max(0, count - len(ends) - len(given))
    source = draws(task, first, exclude=[*ends, *(each.arch for each in given)])
    asked, parts = list(islice(source, first)), list[str]()
    if len(settings.rungs) == 1:
        asked += ends  # in one batch with the others
    for place, (count, share) in enumerate(settings.rungs):
        began = time.monotonic()
        wanted = asked if place == 0 else asked[: count - len(ends)]
        asked = yield from _evaluated(task, wanted, share, source if place == 0 else iter(()))
        evaluated = succeeded(_found(task, asked, share))
        parts.append(f"{len(evaluated)} on {_part(share)} in {duration(time.monotonic() - began)}")
        if place + 1 < len(settings.rungs):
            asked = [each.arch for each in _best(task, evaluated, settings.rungs[place + 1][0] - len(ends), place)]
    if len(settings.rungs) > 1:
        asked += yield from _evaluated(task, ends, 1.0, source, check=not evaluated)
    if settings.guided:
        yield from _proposed(task)
        parts.append(f"{settings.archive - len(asked)} proposed by a predictor")
    while task.archive.pending() and len(succeeded(task.archive.of_generation(0, weights=0))) < ENOUGH:
        asked += (more := list(islice(source, 1)))  # more workers than networks to begin with
        yield _batch(more)
    while wait and task.archive.pending():
        yield _batch(())
    cost = sum(count * share for count, share in settings.rungs)
    task.progress.say(
        f"initial archive of {settings.archive} networks: evaluated {', then '.join(parts)}; as costly as "
        f"{cost:,.0f} on all images"
    )
    if len(settings.rungs) == 1:  # results that arrived unasked too
        known = succeeded(task.archive.of_generation(0, weights=0))
    else:
        known = _given(task, ends) + succeeded(_found(task, asked))
    last = succeeded(_found(task, ends))
    evaluated = [each for each in known if each.arch not in ends]
    return [*_best(task, evaluated, settings.archive - len(last), len(settings.rungs)), *last]


def _proposed(task: Task[A]) -> Generator[Batch[A], None, None]:
    """Fill the archive with networks that a predictor proposes, a few at a time; failed ones are replaced."""
    for number in range(1, _MOST_BATCHES * task.settings.archive):
        known = succeeded(task.archive.of_generation(0, weights=0))
        missing = task.settings.archive - len(known) - len(task.archive.pending())
        if missing < 1:
            return
        if len(known) < _FEWEST and task.archive.pending():
            return
        genomes = decided(task, known, 0, f"0, part {number}", min(_AT_A_TIME, missing)).genomes
        if not len(genomes):
            return
        yield _batch(task.decode_all(genomes))
        check_failures(task, task.archive.of_generation(0, weights=0))


def _ends(task: Task[A]) -> list[A]:
    """The smallest and the largest architecture, as far as they are valid."""
    ends = task.space.canonical(np.stack([task.space.lower, task.space.upper]))
    return list(dict.fromkeys(task.decode_all(ends[task.valid(ends)])))


def _given(task: Task[A], ends: Sequence[A]) -> list[Evaluation[A]]:
    """Results that were known before they were asked for, without those of `ends`."""
    given = task.archive.of_generation(0, weights=0, origin="given")
    return [each for each in succeeded(given) if each.arch not in set(ends)]


def _found(task: Task[A], archs: Sequence[A], share: float = 1.0) -> list[Evaluation[A]]:
    return _batch(archs, share).found(task.archive)


def _batch(archs: Sequence[A], share: float = 1.0) -> Batch[A]:
    return Batch(archs=tuple(archs), weights=0, generation=0, origin="initial", share=share)


def _evaluated(
    task: Task[A], archs: Sequence[A], share: float, source: Iterator[A], *, check: bool = True
) -> Generator[Batch[A], None, list[A]]:
    """Have architectures evaluated, and others in place of those that failed; return all that were asked for."""
    asked, more = list(archs), list(archs)
    while more:
        yield _batch(more, share)
        found = _found(task, asked, share)
        if check:
            check_failures(task, found, asked=len(asked))
        lost = len(archs) - len(asked) + len(found) - len(succeeded(found))
        asked += (more := list(islice(source, max(0, lost))))
    return asked


def _best(task: Task[A], evaluated: Sequence[Evaluation[A]], count: int, place: int) -> list[Evaluation[A]]:
    seed = derive(task.seed, "survive", 0, place)
    kept = task.processes.once(lambda: task.survivors(evaluated, count, seed=seed))
    return [evaluated[number] for number in kept]


def _part(share: float) -> str:
    return "all images" if share == 1 else f"{100 * share:.0f} % of them"


def draws(task: Task[A], count: int, *, exclude: Sequence[A]) -> Iterator[A]:
    """Draw distinct networks that keep the exact bounds, as far as there are any, then those that break them.

    Args:
        task: What the search works with.
        count: How many will be needed at first.
        exclude: What is not drawn.

    Yields:
        At least `count`, and then as many more as are asked for, unless the space has fewer.

    Raises:
        ConfigError: no network keeps the budget.
    """
    generator = numpy_generator(task.seed, "initialise")
    kept = dict.fromkeys(exclude)
    aside: dict[A, None] = {}
    seeds = check_budget(task.space, task.quantities, task.functions.exact, seed=task.seed)
    bounded = any(each.bounded for each in task.of_class("exact"))
    needed, given = count + len(exclude), len(kept)
    while True:
        for _ in range(_ROUNDS):
            size = max(count, 1000) if bounded else max(count, 1)
            genomes = task.space.sample(size, generator, sampling=task.settings.sampling)
            for genome, keeps, valid in zip(genomes, task.keeps_exact(genomes), task.valid(genomes), strict=True):
                if valid:
                    (kept if keeps else aside)[task.space.decode(genome)] = None
            if len(kept) >= needed:
                break
        if len(kept) < needed:  # a tight budget: mutants of the few that keep it, then those that break it
            mutants = task.space.canonical(_mutated(task, seeds, generator))
            near = np.concatenate([seeds, mutants[task.keeps_exact(mutants)]])
            kept |= dict.fromkeys(task.decode_all(near))
            kept |= aside
        new = list(kept)[given:]
        yield from new
        if not new:
            return
        given = len(kept)
        needed = given + 1


def draw(task: Task[A], count: int, *, exclude: Sequence[A]) -> list[A]:
    """The first `count` of `draws`; fewer if there are no more."""
    return list(islice(draws(task, count, exclude=exclude), count))


def _mutated(task: Task[A], genomes: Genomes, generator: np.random.Generator) -> Genomes:
    """Ten thousand mutants, with one gene in ten redrawn."""
    parents = genomes[generator.integers(len(genomes), size=10_000)]
    fresh = generator.integers(task.space.lower, task.space.upper + 1, size=parents.shape)
    return np.where(generator.random(parents.shape) < 0.1, fresh, parents)
