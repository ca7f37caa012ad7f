"""What a search returns."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest

from nat2.errors import ConfigError
from nat2.nas.archive import Archive, Evaluation, EvaluationRecord
from nat2.nas.functions import SearchFunctions
from nat2.nas.generation import Generation, GenerationFacts
from nat2.nas.objectives import Objective
from nat2.nas.search_result import SearchResult
from nat2.nas.settings import SearchSettings
from nat2.nas.task import Task
from nat2.space import IntegerSpace

SPACE = IntegerSpace((10, 10))
Vector = tuple[int, int]


def result_of(
    values: Mapping[Vector, tuple[float, ...]],
    names: str = "loss,size",
    *,
    weights: int = 0,
    earlier: Mapping[Vector, tuple[float, ...]] | None = None,
    high: float = math.inf,
) -> SearchResult[Any]:
    """The result of a search that has found these values, and others with the weights before.

    Args:
        values: Of the objectives by architecture.
        names: Of the objectives; what is called ``gain`` is maximised.
        weights: Version of the weights at the end.
        earlier: What was evaluated with the weights before.
        high: Largest size allowed.
    """
    objectives = tuple(
        Objective(name=name, cost="exact", high=high)
        if name == "size"
        else Objective(name=name, direction="max" if name == "gain" else "min")
        for name in names.split(",")
    )
    archive = Archive[Any](None, [each.name for each in objectives], key=SPACE.key, parse=SPACE.parse)
    for version, table in ((weights - 1, earlier or {}), (weights, values)):
        for arch, row in table.items():
            evaluation = Evaluation(arch, dict(zip(names.split(","), row, strict=True)))
            archive.add(evaluation, EvaluationRecord(version, version, "initial", 1.0, 0.1, 0))
    adapt = (lambda number, good: None) if weights else None
    functions = SearchFunctions[Any](lambda arch: 0.5, {"size": lambda genomes: genomes.sum(1)}, adapt=adapt)
    task = Task(SPACE, functions, objectives, (), SearchSettings(), archive, 0)
    facts = GenerationFacts(evaluations=len(values), failed=0, seconds=1.0)
    return SearchResult.of(task, [Generation(weights, tuple(values)[:2], 0.5, facts)])


def archs(evaluations: tuple[Evaluation[Any], ...]) -> list[Any]:
    return [each.arch for each in evaluations]


def test_the_front_is_in_the_order_of_the_last_objective_then_of_those_before() -> None:
    found = result_of(
        {(1, 0): (0.1, 9, 1), (2, 0): (0.2, 5, 1), (3, 0): (0.3, 1, 1), (4, 0): (0.05, 2, 3), (5, 0): (0.4, 9, 9)},
        "loss,size,heat",
    )
    assert archs(found.front) == [(3, 0), (2, 0), (1, 0), (4, 0)]
    assert archs(found.members) == [(1, 0), (2, 0)]
    assert len(found.evaluated) == 5
    assert found.feasible
    assert [each.name for each in found.quantities] == ["loss", "size", "heat"]


def test_the_knee_of_the_front_has_the_highest_trade_off_and_equal_networks_count_once() -> None:
    knee = {(3, 0): (0.2, 3)}
    found = result_of({(1, 0): (1.0, 1), (9, 0): (0.15, 9), **knee, (3, 1): (0.2, 3)})
    assert len(found.front) == 4
    assert len(found.high_trade_off) == 3
    assert found.high_trade_off[0]["size"] == 3
    # Against the knee the smallest saves 2 of 8 in size and the largest 0.05 of 0.85 in loss.
    assert archs(found.high_trade_off)[1:] == [(1, 0), (9, 0)]


def test_only_evaluations_with_the_last_weights_count() -> None:
    found = result_of({(1, 0): (0.5, 1), (2, 0): (0.4, 2)}, weights=1, earlier={(3, 0): (0.1, 1), (1, 0): (0.6, 1)})
    assert archs(found.evaluated) == archs(found.front) == [(1, 0), (2, 0)]
    assert [each["loss"] for each in found.members] == [0.5, 0.4]


def test_without_a_network_in_the_budget_the_nearest_are_returned() -> None:
    values = {(5, 0): (0.1, 5.0), (4, 0): (0.3, 4.0), (6, 0): (0.05, 6.0)}
    assert archs(result_of(values, high=4).front) == [(4, 0)]
    assert result_of(values, high=4).feasible
    assert archs(result_of(values, high=3).front) == [(4, 0)]
    assert not result_of(values, high=3).feasible


def test_the_best_keeps_the_budget_of_the_search_and_the_one_asked_for() -> None:
    values = {(9, 0): (0.1, 9.0), (5, 0): (0.2, 5.0), (2, 0): (0.3, 2.0), (2, 1): (0.9, 3.0)}
    assert result_of(values).best().arch == (9, 0)
    assert result_of(values, high=6).best().arch == (5, 0)
    assert result_of(values, high=6).best("size<=4").arch == (2, 0)
    assert result_of(values).best("loss>=0.25, size>=3").arch == (2, 1)
    with pytest.raises(ConfigError, match=r"keeps size <= 1, size <= 6; it has size from 2 to 9, size from 2 to 9$"):
        result_of(values, high=6).best("size<=1")
    with pytest.raises(ConfigError, match="latency, macs was not recorded in this search"):
        result_of(values).best("latency<=1,macs<=5")


def test_the_best_of_what_is_maximised_has_the_most() -> None:
    values = {(1, 0): (3.0, 1.0), (2, 0): (7.0, 2.0), (3, 0): (5.0, 3.0)}
    assert result_of(values, "gain,size").best().arch == (2, 0)


def test_a_result_is_a_table_and_two_plots() -> None:
    pandas = pytest.importorskip("pandas")
    found = result_of({(1, 2): (0.1, 3), (0, 1): (0.5, 1), (9, 9): (0.9, 18)})
    table = found.to_dataframe()
    assert isinstance(table, pandas.DataFrame)
    assert table["loss"].tolist() == [0.1, 0.5, 0.9]
    assert table["front"].tolist() == [True, True, False]
    assert list(table)[:5] == ["arch", "loss", "size", "failure", "front"]
    front = found.plot_front().axes[0]
    assert front.lines[0].get_xydata().tolist() == [[1, 0.5], [3, 0.1]]  # type: ignore[union-attr]
    assert (front.get_xlabel(), front.get_ylabel()) == ("size (less is better)", "loss (less is better)")
    assert found.plot_front("loss", "size").axes[0].get_ylabel() == "size (less is better)"
    history = found.plot_history().axes[0].lines[0].get_ydata()
    assert history[0] < history[1] == history[2] < 1  # type: ignore[index, operator]
    with pytest.raises(ConfigError, match="'heat' was not recorded in this search; there are loss, size"):
        found.plot_front("heat")


def test_the_history_of_one_objective_is_its_best_value() -> None:
    found = result_of({(1, 0): (3.0,), (2, 0): (7.0,), (3, 0): (5.0,)}, "gain")
    assert found.plot_history().axes[0].lines[0].get_ydata().tolist() == [3, 7, 7]  # type: ignore[union-attr]
    with pytest.raises(ConfigError, match="a front has two objectives"):
        found.plot_front()


def test_a_result_shows_its_front_as_a_table() -> None:
    found = result_of({(1, 2): (0.123456, 3), (0, 1): (0.5, 1), (9, 9): (0.9, 18)})
    assert repr(found).splitlines() == [
        "network    loss  size",
        "(0, 1)      0.5     1",
        "(1, 2)   0.1235     3",
    ]
    assert found._repr_html_().count("<tr>") == 3
    assert "<td>(1, 2)</td><td>0.1235</td><td>3</td>" in found._repr_html_()
