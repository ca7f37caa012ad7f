"""New networks when the inner evolution finds only known ones: wider and wider, until the space is exhausted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from nat2.nas.archive import Evaluation
from nat2.nas.task import Task
from nat2.seeds import numpy_generator
from nat2.space.searchable import A, Searchable
from nat2.space.space import Genomes

_DRAWN = 1000  # random networks at a time
_PARENTS = 50  # whose neighbours are looked at together


def widen(
    task: Task[A],
    members: Sequence[Evaluation[A]],
    visited: Genomes,
    number: int | str,
    known: Callable[[A], bool],
    count: int,
) -> Genomes:
    """Networks that are not known and keep the exact bounds.

    They are looked for among those that the inner evolution visited and the neighbours of the front; if these are too
    few, among random ones, and then step by step among the neighbours of all that were seen.

    Args:
        task: What the search works with.
        members: The archive.
        visited: Canonical genomes that the inner evolution looked at.
        number: Of the generation; decides the random ones.
        known: Whether an architecture has been evaluated already.
        count: How many are needed.

    Returns:
        Canonical genomes without duplicates, in lexicographic order; fewer than `count` only if there are no more.
    """
    front = task.encode_all([members[index].arch for index in task.front(members)])
    places = [visited, front, neighbours(task.space, front)]
    unseen = _unseen(task, np.concatenate(places), known)
    if len(unseen) < count:
        drawn = task.space.sample(_DRAWN, numpy_generator(task.seed, "widen", number), sampling="uniform")
        places.append(drawn)
        unseen = _unseen(task, np.concatenate(places), known)
    for reached in _spreading(task.space, np.unique(np.concatenate(places), axis=0)):
        if len(unseen) >= count:
            break
        unseen = np.unique(np.concatenate([unseen, _unseen(task, reached, known)]), axis=0)
    return unseen


def _unseen(task: Task[A], genomes: Genomes, known: Callable[[A], bool]) -> Genomes:
    genomes = np.unique(genomes, axis=0)
    genomes = genomes[task.keeps_exact(genomes)]
    new = np.array([not known(task.space.decode(genome)) for genome in genomes], dtype=bool)
    unseen: Genomes = genomes[new]
    return unseen


def neighbours(space: Searchable[A], genomes: Genomes) -> Genomes:
    """All canonical genomes that differ in one gene from one of some, shape (n, genes)."""
    changed = [genomes]
    for gene, (low, high) in enumerate(zip(space.lower, space.upper, strict=True)):
        for value in range(int(low), int(high) + 1):
            other = genomes.copy()
            other[:, gene] = value
            changed.append(other)
    return np.unique(space.canonical(np.concatenate(changed)), axis=0)


def _spreading(space: Searchable[A], genomes: Genomes) -> Iterator[Genomes]:
    """Neighbours of some genomes, neighbours of those, and so on, each genome once."""
    reached = {tuple(genome) for genome in genomes.tolist()}
    waiting = sorted(reached)
    while waiting:
        parents, waiting = waiting[:_PARENTS], waiting[_PARENTS:]
        near = neighbours(space, np.array(parents, dtype=np.int64))
        new = [genome for genome in map(tuple, near.tolist()) if genome not in reached]
        if new:
            yield np.array(new, dtype=np.int64)
        reached.update(new)
        waiting += new
