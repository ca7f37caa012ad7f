"""Search problems whose truth is known and free."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from nat2.nas.archive import Archive
from nat2.nas.functions import ExactCost, SearchFunctions
from nat2.nas.nat import run_search
from nat2.nas.objectives import Objective
from nat2.nas.search_result import SearchResult
from nat2.nas.settings import SearchSettings
from nat2.nas.task import Task
from nat2.processes import ALONE, Processes
from nat2.progress import SILENT, Reporter
from nat2.space import Arch, CostTable, Genomes, Macro, SearchSpace, cost

MACRO = Macro(classes=10)


SPACE = SearchSpace.of(MACRO, (48, 56, 64))


SETTINGS = SearchSettings(
    archive=24, preprocess="oversample", oversample=2, generations=4, candidates=6, top=10, population=32,
    inner_generations=8, predictor="lgb",
)  # fmt: skip


TABLE = CostTable(SPACE, {1.0: MACRO})


COSTS = {
    "params": Objective(name="params", cost="exact"),
    "macs": Objective(name="macs", cost="exact"),
}


EXACT: dict[str, ExactCost] = {
    "params": lambda genomes: TABLE(genomes)[:, 0],
    "macs": lambda genomes: TABLE(genomes)[:, 1],
}


class World:
    """Errors by formula, better with every adaptation; counts what was asked of it."""

    def __init__(self, *, stop_after: int | None = None, version: int = 0) -> None:
        self.version = version
        self.measured: list[tuple[Arch, int]] = []
        self.parts: list[tuple[Arch, float]] = []
        self.good: list[Genomes] = []
        self._stop_after = stop_after

    def measure(self, arch: Arch, *, share: float = 1.0) -> float:
        self._count()
        if share < 1:
            self.parts.append((arch, share))
            return self.error(arch) + 1e-3 * (sum(arch.depths) % 3)
        self.measured.append((arch, self.version))
        return self.error(arch)

    def error(self, arch: Arch) -> float:
        params, macs, _ = cost(MACRO, arch)
        kernels = np.mean([layer.kernel for stage in arch.stages for layer in stage])
        return float(np.clip(1.6 - 0.06 * np.log(params) - 0.03 * np.log(macs) - 0.01 * kernels, 0, 1)) / (
            1 + 0.05 * self.version
        )

    def adapt(self, generation: int, good: Genomes) -> None:
        self._count()
        self.good.append(good)
        self.version = generation

    def _count(self) -> None:
        if self._stop_after is not None:
            self._stop_after -= 1
            if self._stop_after < 0:
                raise KeyboardInterrupt


def look_for(
    world: World,
    archive: Archive[Arch],
    objectives: str = "error,params",
    *,
    adapts: bool = True,
    progress: Reporter = SILENT,
    processes: Processes = ALONE,
    recorded: tuple[Objective, ...] = (),
    **changes: object,
) -> SearchResult[Arch]:
    """Search the world; `archive` has columns for the error, parameters and MACs."""
    named = {"error": Objective(name="error")} | COSTS
    names = objectives.split(",")
    task = Task(
        SPACE,
        SearchFunctions(world.measure, EXACT, adapt=world.adapt if adapts else None),
        tuple(named[name] for name in names),
        recorded or tuple(cost for name, cost in COSTS.items() if name not in names),
        dataclasses.replace(SETTINGS, **changes),  # type: ignore[arg-type]
        archive,
        seed=0,
        processes=processes,
        progress=progress,
    )
    return SearchResult.of(task, list(run_search(task)))


def new_archive(path: Path) -> Archive[Arch]:
    return Archive(path, ("error", "params", "macs"))


def counting(arch: tuple[int, ...]) -> dict[str, float]:
    return {"loss": sum((gene - 3) ** 2 for gene in arch) / 100, "gain": float(sum(arch))}
