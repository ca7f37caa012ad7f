"""Evaluations that fail."""

from __future__ import annotations

from pathlib import Path

import pytest

from nat2.errors import Nat2Error, RunError
from nat2.nas.archive import Archive
from nat2.nas.functions import SearchFunctions
from nat2.nas.nat import search
from nat2.nas.objectives import Objective
from nat2.nas.search_result import SearchResult
from nat2.nas.settings import SearchSettings
from nat2.space import Arch, IntegerSpace
from tests.nas.worlds import COSTS, EXACT, SETTINGS, SPACE, World, new_archive


@pytest.fixture
def archive(tmp_path: Path) -> Archive[Arch]:
    return new_archive(tmp_path / "archive.db")


def test_failed_evaluations_are_kept_and_never_learned_from(archive: Archive[Arch]) -> None:
    world = World()

    def evaluate(arch: Arch) -> float:
        if arch.resolution == 56:
            raise RuntimeError("out of memory")
        return float("nan") if arch.exit == 5 and arch.resolution == 48 else world.error(arch)

    found = search(
        SPACE, SearchFunctions(evaluate, EXACT), [Objective(name="error"), COSTS["params"]], recorded=[COSTS["macs"]],
        settings=SETTINGS, archive=archive,
    )  # fmt: skip
    failures = {evaluation.failure for evaluation, _ in archive.evaluations()}
    assert failures == {"", "RuntimeError: out of memory", "error is nan"}
    assert all(e.arch.resolution != 56 and not e.failure for e in (*found.members, *found.front))
    assert found.generations[0].facts.failed > 0


def test_a_search_whose_evaluations_all_fail_stops_with_the_reason() -> None:
    def evaluate(arch: Arch) -> float:
        raise ValueError("no such layer")

    with pytest.raises(RunError, match=r"evaluations failed, the first, .* with: ValueError: no such layer"):
        search(SPACE, evaluate, [Objective(name="error")], settings=SETTINGS)


@pytest.mark.parametrize("failing", [5, 6, 7])
def test_chance_among_the_first_few_does_not_stop_a_search(failing: int) -> None:
    """Of the first eight, more than half fail; of the first twelve, that is most only with seven."""
    calls: list[tuple[int, ...]] = []

    def evaluate(arch: tuple[int, ...]) -> float:
        calls.append(arch)
        if len(calls) <= failing:
            raise ValueError("no such layer")
        return float(sum(arch))

    settings = SearchSettings(archive=12, drawn=8, generations=0, predictor="bayesian")

    def searched() -> SearchResult[tuple[int, ...]]:
        return search(IntegerSpace((4,) * 4), evaluate, [Objective(name="loss")], settings=settings)

    if failing > 6:
        with pytest.raises(RunError, match="7 of 8 evaluations failed"):
            searched()
    else:
        assert len(searched().members) == 12


def test_mistakes_of_the_user_stop_the_search() -> None:
    def evaluate(arch: Arch) -> float:
        raise Nat2Error("the disk is full")

    with pytest.raises(Nat2Error, match="the disk is full"):
        search(SPACE, evaluate, [Objective(name="error")], settings=SETTINGS)


def test_one_network_that_cannot_be_evaluated_is_told() -> None:
    with pytest.raises(RunError, match="ZeroDivisionError"):
        search(IntegerSpace((1,)), lambda arch: 1 / 0, [Objective(name="loss")])
