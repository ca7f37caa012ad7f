"""Candidates that are decided once and stored, so that a search that is continued decides the same."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from nat2.errors import CheckpointError
from nat2.nas.archive import Evaluation
from nat2.nas.generation import Proposal
from nat2.nas.propose import Table, candidates, training_set
from nat2.nas.task import Task
from nat2.space.searchable import A
from nat2.space.space import Genomes


class Proposed(NamedTuple):
    """Candidates, and how they came about."""

    genomes: Genomes
    table: Table
    """What is predicted of them."""
    proposal: Proposal
    """How they were found."""


def decided(task: Task[A], members: list[Evaluation[A]], weights: int, name: str, count: int | None = None) -> Proposed:
    """The candidates of a name, e.g. of the number of their generation.

    Decided once and stored: no other process, and no later one on a machine that rounds differently, may decide
    otherwise.

    Raises:
        CheckpointError: the archive is damaged.
    """
    key = f"candidates of generation {name}"
    noted = task.archive.noted(key)
    if noted is None:

        def decide() -> str:
            known, seen = training_set(task, members, weights), task.archive.seen(weights)
            genomes, table, proposal = candidates(
                task, known, name, lambda arch: task.space.key(arch) in seen, count=count
            )
            columns = {name: column.tolist() for name, column in table.items()}
            return json.dumps([genomes.tolist(), columns, asdict(proposal)])

        noted = task.processes.once(decide)
        task.record(partial(task.archive.note, key, noted))
    genomes, table, proposal = read_note(task, noted)
    columns = {name: np.array(column) for name, column in table.items()}
    shaped = np.array(genomes, dtype=np.int64).reshape(len(genomes), len(task.space.lower))
    return Proposed(shaped, columns, Proposal(**proposal))


def read_note(task: Task[A], noted: str) -> Any:
    """What was noted in the archive as JSON.

    Raises:
        CheckpointError: it is damaged.
    """
    try:
        return json.loads(noted)
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{task.archive.path} is damaged ({error}); {task.archive.restart}") from error
