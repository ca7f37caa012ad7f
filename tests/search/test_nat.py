"""NAT2's loop on a problem whose truth is known and free."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from nat2.search.archive import Archive, Evaluation, Generation
from nat2.search.nat import search
from nat2.search.objectives import parse_objectives
from nat2.search.select import hypervolume, non_dominated
from nat2.search.task import Search
from nat2.settings import SearchSettings
from nat2.space import Arch, CostTable, Genomes, Macro, SearchSpace, cost

MACRO = Macro(classes=10)
SPACE = SearchSpace.of(MACRO, (48, 56, 64))
SETTINGS = SearchSettings(
    archive=24, oversample=2, generations=4, candidates=6, top=10, population=32, inner_generations=8
)


class World:
    """Errors by formula, better with every adaptation; counts what was asked of it."""

    def __init__(self, *, stop_after: int | None = None, version: int = 0) -> None:
        self.version = version
        self.measured: list[tuple[Arch, int]] = []
        self.good: list[Genomes] = []
        self._stop_after = stop_after

    def measure(self, arch: Arch) -> float:
        self._count()
        self.measured.append((arch, self.version))
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


def task(
    world: World,
    archive: Archive,
    objectives: str = "error,params",
    *,
    adapts: bool = True,
    report: Callable[[Generation], None] = lambda generation: None,
    **changes: object,
) -> Search:
    return Search(
        space=SPACE,
        costs=CostTable(SPACE, {1.0: MACRO}),
        objectives=parse_objectives(objectives),
        settings=dataclasses.replace(SETTINGS, **changes),  # type: ignore[arg-type]
        archive=archive,
        measure=world.measure,
        adapt=world.adapt if adapts else None,
        seed=0,
        report=report,
    )


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return Archive(tmp_path / "archive.db")


@pytest.mark.parametrize("objectives", ["error", "error,params", "error,params,macs"])
def test_the_archive_keeps_its_size_and_gets_better(archive: Archive, objectives: str) -> None:
    generations: list[Generation] = []
    found = search(task(World(), archive, objectives, report=generations.append))
    assert [generation.number for generation in generations] == [0, 1, 2, 3, 4]
    assert {len(generation.members) for generation in generations} == {SETTINGS.archive}
    assert len({evaluation.arch for evaluation in found}) == SETTINGS.archive
    assert generations[-1].hypervolume > generations[0].hypervolume


def test_the_ends_of_the_space_are_in_the_first_archive(archive: Archive) -> None:
    generations: list[Generation] = []
    search(task(World(), archive, generations=0, report=generations.append))
    assert {SPACE.smallest, SPACE.largest} <= set(generations[0].members)
    assert len(archive.evaluations()) == SETTINGS.archive * SETTINGS.oversample


def test_appending_lets_the_archive_grow(archive: Archive) -> None:
    found = search(task(World(), archive, update="append", oversample=1))
    assert len(found) == SETTINGS.archive + 4 * SETTINGS.candidates


def test_after_each_adaptation_the_whole_archive_is_measured_again(archive: Archive) -> None:
    world = World()
    found = search(task(world, archive))
    assert world.version == 4
    assert all(len(good) == SETTINGS.top for good in world.good)
    assert {arch for arch, version in world.measured if version == 4} == {evaluation.arch for evaluation in found}
    assert len(set(world.measured)) == len(world.measured)  # nothing is measured twice with the same weights


def test_with_fixed_weights_only_new_networks_are_measured(archive: Archive) -> None:
    world = World()
    search(task(world, archive, adapts=False))
    assert len({arch for arch, _ in world.measured}) == len(world.measured)
    assert len(world.measured) <= SETTINGS.archive * SETTINGS.oversample + 4 * SETTINGS.candidates


def test_predictions_are_judged_on_new_networks_only(archive: Archive) -> None:
    generations: list[Generation] = []
    search(task(World(), archive, report=generations.append))
    for generation in generations[1:]:
        assert generation.facts["candidates"] == SETTINGS.candidates
        assert -1 <= generation.facts["tau"] <= 1
        assert generation.facts["rmse"] > 0


@pytest.mark.parametrize("stop_after", [0, 1, 30, 47, 48, 50, 54, 55, 60, 79, 80, 100, 140])
def test_an_interrupted_search_ends_like_an_uninterrupted_one(tmp_path: Path, stop_after: int) -> None:
    with Archive(tmp_path / "whole.db") as archive:
        whole = search(task(World(), archive))
        logged = [(g.members, g.hypervolume, g.facts.get("tau")) for g in archive.generations()]
    killed = World(stop_after=stop_after)
    with Archive(tmp_path / "killed.db") as archive:
        with pytest.raises(KeyboardInterrupt):
            search(task(killed, archive))
        kept = len(archive.evaluations())
        assert kept == len(killed.measured)
        resumed = World(version=killed.version)
        assert search(task(resumed, archive)) == whole
        assert [(g.members, g.hypervolume, g.facts.get("tau")) for g in archive.generations()] == logged
        assert not set(resumed.measured) & set(killed.measured)


def test_the_search_beats_random_sampling_at_the_same_cost(archive: Archive) -> None:
    world = World()
    search(task(world, archive, adapts=False, generations=6))
    everything = [evaluation for evaluation, _ in archive.evaluations()]
    random = [
        Evaluation(arch, world.measure(arch), *cost(MACRO, arch)[:2])
        for arch in SPACE.sample_distinct(len(everything), np.random.default_rng(5))
    ]
    values, others = (np.array([e.values(("error", "params")) for e in each]) for each in (everything, random))
    reference = np.maximum(values.max(0), others.max(0)) * 1.01
    assert hypervolume(values[non_dominated(values)], reference) > hypervolume(others, reference)


@pytest.mark.parametrize(
    "change", [{"archive": 4}, {"oversample": 0}, {"generations": -1}, {"candidates": 0}, {"top": 0}, {"population": 2}]
)
def test_impossible_settings_are_refused(change: dict[str, int]) -> None:
    from nat2.errors import ConfigError

    with pytest.raises(ConfigError, match=f"`{next(iter(change))}` of the search"):
        SearchSettings(**change)  # type: ignore[arg-type]
