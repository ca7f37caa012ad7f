"""An initial archive of which the predictor proposes a part."""

from __future__ import annotations

import numpy as np
import pytest

from nat2.errors import ConfigError, RunError
from nat2.nas.nat import search
from nat2.nas.objectives import Objective
from nat2.nas.search import Search
from nat2.nas.select import hypervolume
from nat2.nas.settings import SearchSettings
from nat2.space import IntegerSpace
from tests.nas.worlds import counting

Vector = tuple[int, ...]
SPACE = IntegerSpace((8,) * 6)
OBJECTIVES = (Objective(name="loss"), Objective(name="gain", direction="max"))


def settings(drawn: int, archive: int = 24, generations: int = 0) -> SearchSettings:
    return SearchSettings(
        archive=archive, drawn=drawn, generations=generations, candidates=4, predictor="bayesian", inner_generations=8,
        population=24,
    )  # fmt: skip


def test_what_is_proposed_is_better_than_what_is_drawn() -> None:
    volumes = {}
    for drawn in (0, 10):
        found = search(SPACE, counting, OBJECTIVES, settings=settings(drawn))
        assert len(found.members) == len(found.evaluated) == 24
        values = np.array([[each["loss"], -each["gain"]] for each in found.evaluated])
        volumes[drawn] = hypervolume(values, np.array([1.5, 0.0]), np.array([0.0, -42.0]))
    assert volumes[10] > 1.05 * volumes[0]
    assert {(0,) * 6, (7,) * 6} <= {each.arch for each in found.evaluated}


def test_it_is_filled_four_at_a_time() -> None:
    searched = Search[Vector](SPACE, OBJECTIVES, settings=settings(10))
    sizes = []
    for _ in range(6):
        archs = searched.ask()
        sizes.append(len(archs))
        for arch in archs:
            searched.tell(arch, counting(arch))
    assert sizes == [10, 4, 4, 4, 2, 4]
    assert len(searched.result().generations[0].members) == 24


def test_failures_are_replaced_there_too() -> None:
    def evaluate(arch: Vector) -> dict[str, float]:
        if sum(arch) % 4 == 1:
            raise ValueError("invalid")
        return counting(arch)

    found = search(SPACE, evaluate, OBJECTIVES, settings=settings(10))
    assert len(found.members) == len(found.evaluated) == 24
    assert len(found.history) > 24


def test_workers_that_are_ahead_of_their_results_get_what_is_known_to_be_good() -> None:
    searched = Search[Vector](SPACE, OBJECTIVES, settings=settings(10))
    out = searched.ask(10)
    for number in range(30):
        arch = out.pop(0)
        searched.tell(arch, counting(arch))
        out += searched.ask(1)
        assert len(set(out)) == 10, number
    assert searched.evaluated == 30


@pytest.mark.parametrize(("drawn", "archive", "guided"), [(0, 24, False), (24, 24, False), (12, 24, True)])
def test_it_is_guided_if_fewer_are_drawn_than_it_holds(drawn: int, archive: int, guided: bool) -> None:
    assert settings(drawn, archive).guided == guided
    assert settings(drawn, archive).networks == archive
    assert not SearchSettings(preprocess="oversample").guided
    assert not SearchSettings.of("nat").guided
    assert not SearchSettings.of("nat2").guided
    with pytest.raises(ConfigError, match="`drawn`"):
        settings(-1)


def test_it_stops_if_most_of_what_is_proposed_fails() -> None:
    asked: list[Vector] = []

    def evaluate(arch: Vector) -> dict[str, float]:
        asked.append(arch)
        if len(asked) > 10:
            raise OSError("the device is gone")
        return counting(arch)

    with pytest.raises(RunError, match=r"evaluations failed, .* the device is gone"):
        search(SPACE, evaluate, OBJECTIVES, settings=settings(10))
    assert len(asked) <= 24
