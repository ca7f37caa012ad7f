"""Spaces, objectives and functions of the user's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from nat2.errors import ConfigError
from nat2.nas.archive import Archive
from nat2.nas.functions import SearchFunctions
from nat2.nas.nat import search
from nat2.nas.objectives import Objective
from nat2.nas.propose import Model
from nat2.nas.settings import SearchSettings
from nat2.nas.task import Task
from nat2.progress import FoundDone
from nat2.space import Genomes, IntegerSpace
from tests.calls import Calls
from tests.nas.worlds import COSTS, EXACT, SPACE, counting


@pytest.mark.parametrize("preset", ["default", "nat2", "nat"])
def test_any_space_can_be_searched_and_more_can_be_better(preset: Any) -> None:
    space = IntegerSpace((8,) * 6)
    gain = Objective(name="gain", direction="max")
    small = {"archive": 16, "generations": 5, "candidates": 8} | ({"oversample": 2} if preset == "nat2" else {})
    settings = SearchSettings.of(preset, **small)
    found = search(space, counting, [Objective(name="loss"), gain], settings=settings)
    assert found.generations[-1].hypervolume > found.generations[0].hypervolume
    front = [(e["loss"], -e["gain"]) for e in found.front]
    assert sorted(front)[0][0] <= 0.1
    assert not any(a[0] <= b[0] and a[1] <= b[1] and a != b for a in front for b in front)
    assert found.best()["loss"] == min(e["loss"] for e in found.front)
    assert found.best("gain>=30")["gain"] >= 30
    with pytest.raises(ConfigError, match="nothing that was evaluated keeps gain >= 100; it has gain from"):
        found.best("gain>=100")
    with pytest.raises(ConfigError, match="latency was not recorded"):
        found.best("latency<=3")


@pytest.mark.parametrize(
    ("objectives", "message"),
    [
        ([], "at least one objective"),
        ([COSTS["params"]], "cost class predicted"),
        ([Objective(name="error"), Objective(name="error")], "different names"),
        ([Objective(name="error"), Objective(name="size", cost="exact")], "needs a function in `exact`"),
        ([Objective(name="error"), Objective(name="watts", cost="measured")], "needs a function in `measured`"),
        (
            [Objective(name="error"), Objective(name="macs", cost="measured")],
            "macs is measured, so it takes no .*`exact`",
        ),
        ([Objective(name="params")], "params is predicted, so it takes no function in `exact`"),
    ],
)
def test_objectives_that_contradict_each_other_are_refused(objectives: list[Objective], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        search(SPACE, SearchFunctions(lambda arch: 0.5, EXACT), objectives)


@pytest.mark.parametrize("preset", ["default", "nat2", "nat"])
@pytest.mark.parametrize("choices", [(1,), (2,), (3,), (1, 1, 1), (2, 2)])
def test_spaces_smaller_than_the_archive_are_searched_to_the_end(preset: Any, choices: tuple[int, ...]) -> None:
    space = IntegerSpace(choices)
    objectives = [Objective(name="loss"), Objective(name="gain", direction="max")]
    settings = SearchSettings.of(
        preset, archive=8, oversample=1, generations=3, candidates=2, population=8, inner_generations=3
    )
    found = search(space, counting, objectives, settings=settings)
    assert len(found.evaluated) == space.size


@pytest.mark.parametrize(
    ("measure", "message"),
    [
        (lambda genomes: [None] * len(genomes), "fails|not finite"),
        (lambda genomes: 1 / 0, "ZeroDivisionError"),
        (lambda genomes: genomes[:, 0] * np.nan, "not finite"),
        (lambda genomes: 3.0, r"shape \(\)"),
        (lambda genomes: genomes, "shape"),
    ],
)
def test_exact_objectives_that_do_not_work_are_refused_before_anything_is_evaluated(
    measure: Callable[[Genomes], Any], message: str
) -> None:
    asked: list[object] = []

    def evaluate(arch: object) -> float:
        asked.append(arch)
        return 0.5

    objectives = [Objective(name="loss"), Objective(name="size", cost="exact", high=1e9)]
    with pytest.raises(ConfigError, match=f"size.*({message})"):
        search(IntegerSpace((4, 4)), SearchFunctions[tuple[int, ...]](evaluate, {"size": measure}), objectives)
    assert not asked


def test_costs_of_nothing_are_no_harder_to_learn_from() -> None:
    """What a predictor sees of a network does not depend on which others it sees."""
    space = IntegerSpace((6, 6, 6))
    size = Objective(name="size", cost="exact")
    functions = SearchFunctions[tuple[int, ...]](
        lambda arch: 1 / (1 + sum(arch)), {"size": lambda genomes: genomes.sum(1)}
    )
    found = search(
        space, functions, [Objective(name="loss"), size],
        settings=SearchSettings(archive=20, generations=1, predictor="bayesian", inner_generations=2),
    )  # fmt: skip
    task = Task(
        space, functions, (Objective(name="loss"), size), (), SearchSettings(predictor="bayesian"),
        Archive(None, ("loss", "size"), key=space.key, parse=space.parse), 0,
    )  # fmt: skip
    model = Model(task, found.members, 1)
    genomes = space.sample(20, np.random.default_rng(0)) + 0
    genomes[:, 0] = np.maximum(genomes[:, 0], 1)
    alone = model(genomes)["loss"]
    together = model(np.concatenate([genomes, space.lower[None]]))["loss"]
    np.testing.assert_allclose(together[:-1], alone)


def test_the_best_is_looked_for_beyond_the_front() -> None:
    """The front is of what is optimised; a budget may bound what is only recorded."""
    space = IntegerSpace((8,) * 3)
    last = Objective(name="last", cost="exact")
    functions = SearchFunctions[tuple[int, ...]](lambda arch: 1 - arch[2] / 10, {"last": lambda genomes: genomes[:, 2]})
    settings = SearchSettings(archive=30, generations=2, candidates=8, predictor="ridge")
    found = search(space, functions, [Objective(name="loss")], recorded=[last], settings=settings)
    assert found.best("last<=2")["last"] <= 2
    assert found.best()["last"] == 7


def test_a_search_reports_its_stage_its_evaluations_and_its_generations() -> None:
    class Shown(Calls):
        def stage(self, name: str, **totals: int) -> None:
            stages.append((name, totals))

    stages, ticks, said = list[tuple[str, dict[str, int]]](), list[int](), list[str]()
    objectives = [Objective(name="loss"), Objective(name="gain", direction="max")]
    settings = SearchSettings(archive=8, oversample=1, generations=2, candidates=3, population=12, predictor="bayesian")
    found = search(
        IntegerSpace((6,) * 4), counting, objectives, settings=settings, progress=Shown(said.append, ticks.append)
    )
    assert stages == [("search", {"evaluations": 14})]
    assert sum(tick for tick in ticks if not isinstance(tick, FoundDone)) == len(found.evaluated) == 14
    assert said[0].startswith("initial archive")
    assert [line.split(",")[0] for line in said[1:]] == [f"generation {number} of 2" for number in range(3)]
