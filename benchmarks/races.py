"""Search algorithms that race for the hypervolume of a world, each stopped when it has evaluated enough."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import worlds
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.core.problem import Problem
from pymoo.core.repair import Repair
from pymoo.operators.crossover.pntx import TwoPointCrossover
from pymoo.operators.mutation.pm import PolynomialMutation
from rich.progress import track
from threadpoolctl import threadpool_limits
from worlds import Box, Values, World

from nat2.files import write_atomic
from nat2.nas.archive import Archive
from nat2.nas.functions import SearchFunctions
from nat2.nas.nat import run_search
from nat2.nas.settings import SearchSettings
from nat2.nas.task import Task
from nat2.seeds import numpy_generator
from nat2.space import Genomes

T = TypeVar("T")
R = TypeVar("R")


class Recorder:
    """Gives what evaluating gives, and remembers the distinct networks in the order they were evaluated."""

    def __init__(self, world: World, seed: int) -> None:
        self.world, self._seed = world, seed
        self.seen: dict[tuple[int, ...], float] = {}

    def __call__(self, genomes: Genomes) -> Values:
        keys = [tuple(genome) for genome in genomes.tolist()]
        missing = list(dict.fromkeys(key for key in keys if key not in self.seen))
        if missing:
            errors = self.world.measured(np.array(missing), self._seed)
            self.seen |= dict(zip(missing, errors.tolist(), strict=True))
        return np.array([self.seen[key] for key in keys])

    @property
    def genomes(self) -> Genomes:
        return np.array(list(self.seen))


@dataclass(frozen=True)
class Nat:
    """Our search, whose sizes may change when it has made some evaluations."""

    phases: tuple[tuple[float, SearchSettings], ...]
    """Until how many evaluations, with which settings."""

    def __call__(self, recorder: Recorder, cost: str, seed: int, evaluations: int) -> None:
        space, objectives = recorder.world.space, recorder.world.objectives(cost)
        functions = SearchFunctions[Any](
            lambda arch: float(recorder(space.encode(arch)[None])[0]), exact=recorder.world.exact(cost)
        )
        archive: Archive[Any] = Archive(None, [each.name for each in objectives], key=space.key, parse=space.parse)
        for until, settings in self.phases:
            limit = min(until, evaluations)

            # Of a small space little is left to find in the end: no more generations than if each found all it may.
            made = max(0, len(archive.generations()) - 1)
            needed = math.ceil(max(0, limit - len(recorder.seen)) / settings.candidates)
            settings = replace(settings, generations=made + needed)
            for _ in run_search(Task(space, functions, objectives, (), settings, archive, seed)):
                if len(recorder.seen) >= limit:
                    break
            if len(recorder.seen) >= evaluations:
                return


class _Direct(Problem):  # type: ignore[misc]
    """The search problem itself, without a predictor."""

    def __init__(self, recorder: Recorder, cost: str) -> None:
        space, self._recorder, self._costs = recorder.world.space, recorder, recorder.world.exact(cost).values()
        super().__init__(n_var=len(space.lower), n_obj=1 + len(self._costs), xl=space.lower, xu=space.upper, vtype=int)

    def _evaluate(self, x: Any, out: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        genomes = np.asarray(x, dtype=np.int64)
        out["F"] = np.stack([self._recorder(genomes), *(cost(genomes) for cost in self._costs)], axis=1)


class _Rounding(Repair):  # type: ignore[misc]
    def __init__(self, space: Any) -> None:
        super().__init__()
        self._space = space

    def _do(self, problem: Any, x: Any, **kwargs: Any) -> Genomes:
        return self._space.canonical(np.around(x).astype(np.int64))  # type: ignore[no-any-return]


def nsga2(recorder: Recorder, cost: str, seed: int, evaluations: int) -> None:
    """NSGA-II of population 40 on evaluations alone, with the operators and the start of our inner evolution."""
    space = recorder.world.space
    ends = space.canonical(np.stack([space.lower, space.upper]))
    drawn = space.sample(38, numpy_generator(seed, "nsga2"))
    algorithm = NSGA2(
        pop_size=40, sampling=np.concatenate([drawn, ends]), crossover=TwoPointCrossover(prob=0.9),
        mutation=PolynomialMutation(eta=1.0), repair=_Rounding(space), eliminate_duplicates=True,
    )  # fmt: skip
    algorithm.setup(_Direct(recorder, cost), termination=("n_gen", evaluations), seed=seed, verbose=False)
    while len(recorder.seen) < evaluations and algorithm.has_next():
        algorithm.next()


def random_search(recorder: Recorder, cost: str, seed: int, evaluations: int) -> None:
    """Networks drawn as for an initial archive, none twice."""
    generator = numpy_generator(seed, "random")
    while len(recorder.seen) < evaluations:
        drawn = dict.fromkeys(map(tuple, recorder.world.space.sample(evaluations, generator).tolist()))
        new = [genome for genome in drawn if genome not in recorder.seen]
        recorder(np.array(new[: evaluations - len(recorder.seen)]))


def optuna_search(sampler: str) -> Callable[[Recorder, str, int, int], None]:
    """A sampler of Optuna, which sees the exact costs as further values of each evaluation."""

    def run(recorder: Recorder, cost: str, seed: int, evaluations: int) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        space, costs = recorder.world.space, recorder.world.exact(cost).values()
        study = optuna.create_study(
            directions=["minimize"] * (1 + len(costs)), sampler=getattr(optuna.samplers, sampler)(seed=seed)
        )
        for _ in range(20 * evaluations):  # what is proposed again counts once
            if len(recorder.seen) >= evaluations:
                return
            trial = study.ask()
            ends = enumerate(zip(space.lower.tolist(), space.upper.tolist(), strict=True))
            genome = [trial.suggest_int(f"gene {gene}", low, high) for gene, (low, high) in ends]
            genomes = space.canonical(np.array([genome]))
            study.tell(trial, [float(recorder(genomes)[0]), *(float(each(genomes)[0]) for each in costs)])

    return run


@dataclass(frozen=True)
class Contender:
    """A search algorithm, and how many evaluations it may make."""

    run: Callable[[Recorder, str, int, int], None]
    evaluations: int


def of(preset: Any, **changes: Any) -> Nat:
    """One of our presets in sizes that do not change."""
    return Nat(((math.inf, SearchSettings.of(preset, **changes)),))


def macro_contenders(evaluations: int) -> dict[str, Contender]:
    """Published policies in sizes that suit 6,561 networks; the others may go on for longer."""
    return {
        "default": Contender(of("default", archive=30, candidates=8), evaluations),
        "nat2": Contender(of("nat2", archive=40, oversample=3, candidates=8, top=20), evaluations),
        "nat": Contender(of("nat", archive=40, candidates=8), evaluations),
        "NSGA-II": Contender(nsga2, 3000),
        "random": Contender(random_search, 3**8),
    }


def ofa_contenders(evaluations: int) -> dict[str, Contender]:
    """``nat2`` as published draws 3,000 networks at first; ``nat2 small`` has its policies in small sizes."""

    def growing(preset: Any, sizes: Sequence[tuple[float, int]], **changes: Any) -> Nat:
        return Nat(tuple((until, SearchSettings.of(preset, candidates=size, **changes)) for until, size in sizes))

    runs: dict[str, Callable[[Recorder, str, int, int], None]] = {
        "default": growing("default", [(1000, 25), (math.inf, 50)], archive=60),
        "nat2": of("nat2"),
        "nat2 small": growing("nat2", [(1000, 25), (math.inf, 50)], archive=50, oversample=2),
        "nat": growing("nat", [(350, 8), (1000, 25), (math.inf, 50)]),
        "NSGA-II": nsga2,
        "random": random_search,
    }
    if evaluations < 3000:  # not enough for its first generation
        del runs["nat2"]
    return {name: Contender(run, evaluations) for name, run in runs.items()}


SLOW = ("GPSampler",)
"""Contenders that take minutes, on fewer seeds."""


def rivals(evaluations: int) -> dict[str, Contender]:
    """Our search as it is, and its rivals; those of Optuna where it is installed."""
    runs: dict[str, Callable[[Recorder, str, int, int], None]] = {
        "default": of("default"), "random": random_search, "NSGA-II": nsga2,
    }  # fmt: skip
    if find_spec("optuna") is not None:
        runs |= {"TPE": optuna_search("TPESampler"), "GPSampler": optuna_search("GPSampler")}
    return {name: Contender(run, evaluations) for name, run in runs.items()}


WORLDS = {
    "cells": (worlds.cells, rivals),
    "chain": (worlds.chain, rivals),
    "NAS-Bench-Macro": (worlds.nas_bench_macro, rivals),
    "Once-For-All": (worlds.ofa, rivals),
    "macro": (worlds.nas_bench_macro, macro_contenders),
    "ofa": (worlds.ofa, ofa_contenders),
}
"""Each with its contenders: the first four with their defaults, the others in sizes that suit the space."""


@dataclass(frozen=True)
class Race:
    """One search to make; whoever makes it reads the world for himself."""

    world: str
    data: Path
    cost: str
    name: str
    seed: int
    evaluations: int
    keep: Path | None = None
    """Folder for what came of it."""

    @property
    def contender(self) -> Contender:
        return WORLDS[self.world][1](self.evaluations)[self.name]


@dataclass(frozen=True)
class Course:
    """What came of a race."""

    values: Values
    """True error and costs of the networks in the order they were evaluated."""
    seconds: float
    """Processor time of the whole search."""


def raced(race: Race) -> Course:
    """Make a search, or read what it made before from the folder to keep it in."""
    kept = None if race.keep is None else race.keep / f"{race.world}-{race.cost}-{race.name}-{race.seed}.npz"
    if kept is not None and kept.exists():
        with np.load(kept) as there:
            if len(there["values"]) >= race.evaluations:
                return Course(there["values"], float(there["seconds"]))
    world = WORLDS[race.world][0](race.data)
    recorder = Recorder(world, race.seed)
    began = time.process_time()
    race.contender.run(recorder, race.cost, race.seed, race.contender.evaluations)
    course = Course(world.values(recorder.genomes, race.cost), time.process_time() - began)
    if kept is not None:
        write_atomic(kept, partial(_save, **vars(course)))
    return course


def box_of(world: str, cost: str, given: Any) -> Box:
    """Between which values a hypervolume is measured; kept like the races, because finding it takes a minute."""
    kept = None if given.keep is None else given.keep / f"{world}-{cost}-box.npz"
    if kept is not None and kept.exists():
        with np.load(kept) as there:
            return Box(there["origin"], there["reference"], there["front"])
    box = WORLDS[world][0](given.data).box(cost)
    if kept is not None:
        write_atomic(kept, partial(_save, **vars(box)))
    return box


def _save(path: Path, **arrays: Any) -> None:
    with path.open("wb") as file:
        np.savez(file, **arrays)


def one_thread() -> None:
    """One thread a process."""
    torch.set_num_threads(1)
    threadpool_limits(1)


def spread(work: Callable[[T], R], tasks: Sequence[T], jobs: int) -> list[R]:
    """Do the tasks in some processes, and show how far they are."""
    one_thread()

    def watched(results: Iterable[R]) -> Iterator[R]:
        yield from track(results, total=len(tasks), description="")

    if jobs == 1:
        return list(watched(map(work, tasks)))
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=one_thread) as pool:
        return list(watched(pool.map(work, tasks)))


def races(world: str, given: Any, costs: Sequence[str], seeds: range, evaluations: int) -> dict[Race, Course]:
    """All searches of a world: every contender, cost and seed; the slow ones last, and on their own seeds."""
    names = [name for name in WORLDS[world][1](evaluations) if not given.rivals or name in given.rivals]
    most = {name: min(evaluations, given.slow_evaluations) if name in SLOW else evaluations for name in names}
    every = [
        Race(world, given.data, cost, name, seed, most[name], given.keep)
        for name in names
        for seed in seeds
        for cost in costs
        if name not in SLOW or seed < given.slow_seeds
    ]
    return dict(zip(every, spread(raced, every, given.jobs), strict=True))
