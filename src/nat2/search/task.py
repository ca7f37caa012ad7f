"""What a search works with: space, objectives, settings, and how a network is measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from nat2.parallel import ALONE, Processes
from nat2.search.archive import Archive, Evaluation, Generation
from nat2.search.evolve import Objectives
from nat2.search.objectives import Objective
from nat2.settings import SearchSettings
from nat2.space.arch import Arch
from nat2.space.cost import CostTable
from nat2.space.space import Genomes, SearchSpace


@dataclass(frozen=True)
class Search:
    """What the loop works with."""

    space: SearchSpace
    costs: CostTable
    objectives: tuple[Objective, ...]
    settings: SearchSettings
    archive: Archive
    measure: Callable[[Arch], float]
    """Error (0..1) of an architecture on the validation images, with the current weights."""
    adapt: Callable[[int, Genomes], None] | None
    """Brings the weights to the version of a generation, given good genomes; None if they are fixed."""
    seed: int
    processes: Processes = ALONE
    """Those that share the work; all of them make the same search."""
    tick: Callable[[int], None] = lambda count: None
    report: Callable[[Generation], None] = lambda generation: None

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the objectives."""
        return tuple(objective.name for objective in self.objectives)

    def values(self, evaluations: Sequence[Evaluation]) -> Objectives:
        """The objectives of evaluations, shape (n, objectives)."""
        return np.array([each.values(self.names) for each in evaluations])

    def record(self, write: Callable[[], None]) -> None:
        """Write to the archive of every process: first to the one on disk, and only if that went well to the copies."""
        self.processes.once(write)
        if not self.processes.first:
            write()

    def version(self, generation: int) -> int:
        """The version of the weights behind a generation's adaptation."""
        return generation if self.adapt is not None else 0
