"""The number of evaluations that is promised is the number made, until a space is exhausted."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nat2.errors import RunError
from nat2.nas.archive import Archive
from nat2.nas.functions import SearchFunctions
from nat2.nas.nat import search
from nat2.nas.objectives import Objective
from nat2.nas.settings import SearchSettings
from nat2.nas.task import Task
from nat2.nas.unseen import neighbours, widen
from nat2.space import IntegerSpace
from tests.calls import Calls
from tests.nas.worlds import counting

Vector = tuple[int, ...]
OBJECTIVES = (Objective(name="loss"), Objective(name="gain", direction="max"))
QUICK: dict[str, Any] = {"predictor": "ridge", "inner_generations": 4, "population": 16}


@pytest.mark.parametrize("preset", ["default", "nat2", "nat"])
def test_the_number_promised_is_the_number_made(preset: Any) -> None:
    """Three quarters of a small space, whose front is found long before."""
    sizes = {"archive": 16, "candidates": 8, "generations": 22, "oversample": 1}
    settings = SearchSettings.of(preset, **sizes | QUICK)
    found = search(IntegerSpace((4,) * 4), counting, OBJECTIVES, settings=settings)
    assert len(found.evaluated) == settings.networks == 192
    assert {each.facts.candidates for each in found.generations[1:]} == {8}
    assert not found.exhausted


@pytest.mark.parametrize("choices", [(3, 3), (2, 2, 2, 2, 2), (30,)])
def test_an_exhausted_space_ends_the_search_in_words(choices: tuple[int, ...], tmp_path: Path) -> None:
    settings = SearchSettings(archive=8, candidates=4, generations=50, **QUICK)
    said: list[str] = []
    path = tmp_path / "a.db"
    progress = Calls(say=said.append)
    found = search(IntegerSpace(choices), counting, OBJECTIVES, settings=settings, archive=path, progress=progress)
    assert len(found.evaluated) == math.prod(choices)
    assert found.exhausted == said[-1] == "the space is exhausted: all architectures have been evaluated"
    assert found.generations[-1].facts.candidates != 0
    again = search(IntegerSpace(choices), counting, OBJECTIVES, settings=settings, archive=path)
    assert (again.front, again.exhausted) == (found.front, found.exhausted)


def test_only_what_keeps_the_exact_bounds_is_evaluated_for_want_of_better() -> None:
    size = Objective(name="size", cost="exact", high=4)
    functions = SearchFunctions[Vector](lambda arch: sum(arch) / 9, {"size": lambda genomes: genomes.sum(axis=1)})
    space = IntegerSpace((4, 4, 4))
    settings = SearchSettings(archive=10, candidates=8, generations=9, **QUICK)
    found = search(space, functions, (Objective(name="loss"), size), settings=settings)
    within = [arch for arch in np.ndindex(4, 4, 4) if sum(arch) <= 4]
    assert {each.arch for each in found.evaluated if each["size"] <= 4} == set(within)
    assert len(found.evaluated) == len(within) + 1  # and the largest network, with which every search begins
    assert found.exhausted.startswith("the space is exhausted: all architectures that keep the budget")


@pytest.mark.parametrize("preset", ["default", "nat2"])
def test_failures_are_replaced(preset: Any) -> None:
    """A third of the networks fails: that costs these evaluations, and nothing else."""
    sizes = {"archive": 12, "candidates": 6, "generations": 4, "oversample": 2}
    settings = SearchSettings.of(preset, **sizes | QUICK)
    asked: list[Vector] = []

    def evaluate(arch: Vector) -> dict[str, float]:
        asked.append(arch)
        if sum(arch) % 3 == 1:
            raise ValueError("invalid")
        return counting(arch)

    found = search(IntegerSpace((6,) * 5), evaluate, OBJECTIVES, settings=settings)
    assert len(found.evaluated) == settings.networks
    assert [len(each.members) for each in found.generations] == [12] * 5
    failed = sum(bool(each.failure) for each, _ in found.history)
    assert failed > 5
    assert len(asked) == len(set(asked)) == settings.networks + failed


def test_a_generation_that_fails_as_a_whole_is_not_repeated_for_ever() -> None:
    asked: list[Vector] = []

    def evaluate(arch: Vector) -> dict[str, float]:
        asked.append(arch)
        if len(asked) > 12:
            raise ValueError("the device is gone")
        return counting(arch)

    settings = SearchSettings(archive=12, drawn=0, candidates=6, generations=2, **QUICK)
    found = search(IntegerSpace((6,) * 5), evaluate, OBJECTIVES, settings=settings)
    assert len(asked) == 12 + 2 * 6
    assert len(found.evaluated) == 12
    with pytest.raises(RunError, match="12 of 12 evaluations failed"):
        search(IntegerSpace((6,) * 5), evaluate, OBJECTIVES, settings=settings)


def task(space: IntegerSpace) -> Task[Vector]:
    archive = Archive[Vector](None, ("loss", "gain"), key=space.key, parse=space.parse)
    return Task(space, SearchFunctions(counting), OBJECTIVES, (), SearchSettings(**QUICK), archive, 0)


def test_neighbours_differ_in_one_gene() -> None:
    space = IntegerSpace((3, 2))
    assert neighbours(space, np.array([[1, 0]])).tolist() == [[0, 0], [1, 0], [1, 1], [2, 0]]


def test_what_is_hidden_far_away_is_found() -> None:
    """One network is left in a space of 2 ** 12, at its far corner."""
    space = IntegerSpace((2,) * 12)
    front = search(space, counting, OBJECTIVES, settings=SearchSettings(archive=8, generations=0)).members
    visited = np.zeros((1, 12), dtype=np.int64)
    found = widen(task(space), front, visited, 1, lambda arch: sum(arch) < 12, 3)
    assert found.tolist() == [[1] * 12]
