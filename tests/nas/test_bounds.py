"""Searches under bounds."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from nat2.errors import ConfigError
from nat2.nas.archive import Archive
from nat2.nas.functions import SearchFunctions
from nat2.nas.nat import search
from nat2.nas.objectives import Objective
from nat2.nas.settings import SearchSettings
from nat2.space import Arch, IntegerSpace, cost
from tests.nas.worlds import COSTS, EXACT, MACRO, SETTINGS, SPACE, World, counting, look_for, new_archive


@pytest.fixture
def archive(tmp_path: Path) -> Archive[Arch]:
    return new_archive(tmp_path / "archive.db")


@pytest.mark.parametrize("limit", [60_000, 300_000])
def test_a_budget_on_parameters_constrains_the_search(archive: Archive[Arch], limit: int) -> None:
    bound = dataclasses.replace(COSTS["params"], high=limit)
    found = look_for(World(), archive, "error,macs", recorded=(bound,))
    assert found.feasible
    assert all(evaluation["params"] <= limit for evaluation in found.front)
    ends = {SPACE.smallest, SPACE.largest}
    assert all(e["params"] <= limit for e, _ in archive.evaluations() if e.arch not in ends)


def test_a_budget_on_what_is_predicted_is_learned(archive: Archive[Arch]) -> None:
    """At first a third of the networks keep it, at the end nearly all of those that are evaluated."""
    world = World()

    def evaluate(arch: Arch) -> dict[str, float]:
        return {"error": world.error(arch), "heat": cost(MACRO, arch).macs / 1e6}

    heat = Objective(name="heat", high=8.0)
    found = search(
        SPACE, SearchFunctions(evaluate, EXACT), [Objective(name="error"), COSTS["params"]], recorded=[heat],
        settings=SearchSettings(archive=40, generations=5, candidates=10, predictor="bayesian"),
    )  # fmt: skip
    assert found.feasible
    assert all(evaluation["heat"] <= 8 for evaluation in found.front)
    facts = found.generations[-1].facts
    assert facts.quality_of["heat"].rmse < 2  # of values from 2 to 50
    assert facts.proposal is not None
    assert facts.proposal.feasible > 0.8


def test_an_unreachable_bound_returns_the_nearest_and_says_so(archive: Archive[Arch]) -> None:
    world = World()
    error = Objective(name="error", high=1e-6)
    found = search(SPACE, SearchFunctions(world.error, EXACT), [error, COSTS["params"]], settings=SETTINGS)
    assert not found.feasible
    errors = [evaluation["error"] for evaluation in found.members]
    assert [evaluation["error"] for evaluation in found.front] == [min(errors)]


def test_an_impossible_exact_budget_is_refused_before_anything_is_evaluated() -> None:
    world = World()
    with pytest.raises(ConfigError, match="nearest has params"):
        search(
            SPACE, SearchFunctions(world.measure, EXACT),
            [Objective(name="error"), dataclasses.replace(COSTS["params"], high=100)],
        )  # fmt: skip
    assert not world.measured


def test_progress_shows_under_a_tight_budget() -> None:
    space = IntegerSpace((8,) * 6)
    gain = Objective(name="gain", direction="max", low=30)
    settings = SearchSettings(archive=16, generations=4, candidates=8, predictor="lgb", inner_generations=10)
    found = search(space, counting, [Objective(name="loss"), gain], settings=settings)
    volumes = [generation.hypervolume for generation in found.generations]
    assert volumes[-1] > volumes[0]
    assert found.feasible
