"""What a search works with: space, objectives, settings, and the functions that know the networks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Generic

import numpy as np
from numpy.typing import NDArray

from nat2.errors import ConfigError
from nat2.nas import front
from nat2.nas.archive import Archive, Evaluation
from nat2.nas.evolve import Objectives
from nat2.nas.feasible import exact, exact_violation
from nat2.nas.functions import Evaluate, SearchFunctions
from nat2.nas.objectives import Objective
from nat2.nas.predictors import check_predictor
from nat2.nas.select import hypervolume, survive
from nat2.nas.settings import SearchSettings
from nat2.processes import ALONE, Processes
from nat2.progress import SILENT, Reporter
from nat2.space.searchable import A, Searchable
from nat2.space.space import Genomes

ENOUGH = 8  # networks whose worst values are representative


@dataclass(frozen=True)
class Task(Generic[A]):
    """What the loop works with."""

    space: Searchable[A]
    functions: SearchFunctions[A]
    objectives: tuple[Objective, ...]
    """What is optimised."""
    recorded: tuple[Objective, ...]
    """What is only recorded, and kept within its bounds."""
    settings: SearchSettings
    archive: Archive[A]
    seed: int
    processes: Processes = ALONE
    """Those that share the work; all of them make the same search."""
    progress: Reporter = SILENT
    """Where evaluations that are made or found are reported, as steps of the unit ``evaluations``."""

    @property
    def quantities(self) -> tuple[Objective, ...]:
        """Everything that is recorded of a network."""
        return self.objectives + self.recorded

    def of_class(self, *classes: str) -> tuple[Objective, ...]:
        """The quantities of some cost classes."""
        return tuple(each for each in self.quantities if each.cost in classes)

    @property
    def modelled(self) -> tuple[Objective, ...]:
        """What has to be predicted between evaluations, because it is optimised or bounded."""
        needed = self.objectives + tuple(each for each in self.recorded if each.bounded)
        return tuple(each for each in needed if each.cost != "exact")

    @property
    def leading(self) -> Objective:
        """The first objective that has to be predicted: the error, in a search of networks."""
        return next(each for each in self.objectives if each.cost != "exact")

    @property
    def bounded(self) -> bool:
        """Whether the search has a budget."""
        return any(each.bounded for each in self.quantities)

    def values(self, evaluations: Sequence[Evaluation[A]]) -> Objectives:
        """The objectives of evaluations, less being better, shape (n, objectives)."""
        return front.minimised(evaluations, self.objectives)

    def violations(self, evaluations: Sequence[Evaluation[A]]) -> NDArray[np.float64]:
        """How much evaluations violate the budget, shape (n,); 0 for nothing."""
        return front.violations(evaluations, self.quantities)

    def front(self, evaluations: Sequence[Evaluation[A]]) -> list[int]:
        """Indices of the non-dominated evaluations within the budget."""
        return front.front(evaluations, self.objectives, self.quantities)

    def survivors(self, evaluations: Sequence[Evaluation[A]], count: int, *, seed: int) -> list[int]:
        """Indices of as many evaluations as survive (NAT2, archive update), ascending."""
        kept = survive(self.values(evaluations), count, violated=self.violations(evaluations), seed=seed)
        return [int(index) for index in kept]

    def minimised(self, table: Mapping[str, NDArray[np.float64]]) -> Objectives:
        """The objectives, less being better, of columns by name; shape (n, objectives)."""
        return np.stack([each.minimised(table[each.name]) for each in self.objectives], axis=1)

    def exact(self, genomes: Genomes) -> dict[str, NDArray[np.float64]]:
        """Exact quantities of canonical genomes, by name."""
        names = [each.name for each in self.of_class("exact")]
        return dict(zip(names, self.exact_values(genomes).T, strict=True))

    def exact_values(self, genomes: Genomes) -> NDArray[np.float64]:
        """Exact quantities of canonical genomes, shape (n, exact quantities)."""
        return exact(self.of_class("exact"), self.functions.exact, genomes)

    def keeps_exact(self, genomes: Genomes) -> NDArray[np.bool_]:
        """Which genomes keep the bounds on exact quantities, shape (n,); invalid ones do not."""
        keeps: NDArray[np.bool_] = exact_violation(self.of_class("exact"), self.exact_values(genomes)) <= 0
        return keeps

    def valid(self, genomes: Genomes) -> NDArray[np.bool_]:
        """Which genomes have finite exact quantities, shape (n,)."""
        return np.asarray(np.isfinite(self.exact_values(genomes)).all(axis=1), dtype=np.bool_)

    def encode_all(self, archs: Sequence[A]) -> Genomes:
        """Canonical genomes, shape (n, genes)."""
        genomes = np.array([self.space.encode(arch) for arch in archs], dtype=np.int64)
        return genomes.reshape(len(archs), len(self.space.lower))

    def decode_all(self, genomes: Genomes) -> list[A]:
        """Architectures of genomes."""
        return [self.space.decode(genome) for genome in genomes]

    def record(self, write: Callable[[], None]) -> None:
        """Write to the archive of every process: first to the one on disk, and only if that succeeded to the copies."""
        self.processes.once(write)
        if not self.processes.first:
            write()

    def version(self, generation: int) -> int:
        """The version of the weights after a generation's adaptation."""
        return generation if self.functions.adapt is not None else 0

    def box(self, members: Sequence[Evaluation[A]]) -> tuple[list[float], list[float]]:
        """Origin and reference of the hypervolume, from the initial archive (MSuNAS: 1.01 of the worst values).

        If few of them keep the budget, those that do not count too. The origin is 0 where less is better and nothing is
        below it, else as far from the best as that from the worst.
        """
        values, violated = self.values(members), self.violations(members)
        if (violated <= 0).sum() >= ENOUGH:
            values = values[violated <= 0]
        best, worst = values.min(0), values.max(0)
        natural = np.array([each.direction == "min" for each in self.objectives]) & (best >= 0)
        origin = np.where(natural, 0.0, best - (worst - best))
        return origin.tolist(), (worst + 0.01 * (worst - origin)).tolist()

    def hypervolume(self, members: Sequence[Evaluation[A]], box: tuple[list[float], list[float]]) -> float:
        """The hypervolume of the members within the budget."""
        values = self.values(members)[self.violations(members) <= 0]
        return hypervolume(values, np.array(box[1]), np.array(box[0]))


def check(
    objectives: Sequence[Objective],
    recorded: Sequence[Objective],
    settings: SearchSettings,
    functions: SearchFunctions[A],
) -> None:
    """Check that the arguments agree.

    Raises:
        ConfigError: naming the objective or the setting.
    """
    names = [each.name for each in (*objectives, *recorded)]
    if not any(each.cost == "predicted" for each in objectives):
        raise ConfigError(
            f"at least one objective must be of cost class predicted, which evaluating gives; got {', '.join(names)}"
            if names
            else "a search needs at least one objective"
        )
    if len(set(names)) < len(names):
        raise ConfigError(f"objectives must have different names; got {', '.join(names)}")
    for each in (*objectives, *recorded):
        for cost, given in (("exact", functions.exact), ("measured", functions.measured)):
            if (each.cost == cost) != (each.name in given):
                rule = f"needs a function in `{cost}`" if each.cost == cost else f"takes no function in `{cost}`"
                raise ConfigError(f"the objective {each.name} is {each.cost}, so it {rule} of SearchFunctions")
    check_predictor(settings.predictor)
    if settings.rungs[0][1] < 1 and not _takes_share(functions.evaluate):
        raise ConfigError(
            "successive halving evaluates on part of the images, so the evaluation must take `share`; choose "
            "`preprocess` none or oversample"
        )


def _takes_share(evaluate: Evaluate[A]) -> bool:
    try:
        parameters = signature(evaluate).parameters.values()
    except ValueError:  # it does not say
        return True
    return any(each.name == "share" or each.kind is each.VAR_KEYWORD for each in parameters)
