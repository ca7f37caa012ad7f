"""Budgets as people write them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nat2.errors import ConfigError, RunError
from nat2.nas.budget import format_bound, format_value, parse_budget
from nat2.nas.feasible import check_budget, exact
from nat2.nas.functions import ExactCost
from nat2.nas.objectives import Objective, Unit
from nat2.space import CostTable, Genomes, IntegerSpace, Macro, SearchSpace


@pytest.mark.parametrize(
    ("text", "name", "low", "high"),
    [
        ("params<=200k", "params", -math.inf, 200_000),
        ("params<200K", "params", -math.inf, 200_000),
        ("macs <= 1.5M", "macs", -math.inf, 1_500_000),
        ("macs<=2e6", "macs", -math.inf, 2_000_000),
        ("latency<=3ms", "latency", -math.inf, 3),
        ("latency<=0.5s", "latency", -math.inf, 500),
        ("latency<=800us", "latency", -math.inf, 0.8),
        ("latency<=3", "latency", -math.inf, 3),
        ("memory<=64KiB", "memory", -math.inf, 65_536),
        ("memory<=.5MB", "memory", -math.inf, 500_000),
        ("error<=5%", "error", -math.inf, 0.05),
        ("params>=10_000", "params", 10_000, math.inf),
        ("params>=10k,params<=20k", "params", 10_000, 20_000),
        ("params<=100k,params<=200k", "params", -math.inf, 100_000),
    ],
)
def test_bounds_are_read_with_their_units(text: str, name: str, low: float, high: float) -> None:
    (bound,) = parse_budget(text)
    assert (bound.name, bound.low) == (name, low)
    assert bound.high == pytest.approx(high)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("params", "bounds like"),
        ("params=3", "bounds like"),
        ("params<=", "bounds like"),
        ("params<=200,000", "without commas in the numbers"),
        ("params<=1e400", "finite"),
        ("params<=3ms", "with k, K, M"),
        ("latency<=3k", "with ms, s, us"),
        ("params<=1.2.3", "takes a number"),
        ("size<=3", "can bound error, int8_error, params"),
        ("params>=3k,params<=2k", "no params is at least 3000 and at most 2000"),
    ],
)
def test_unusable_budgets_are_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_budget(text)


def test_objectives_of_ones_own_can_be_bounded() -> None:
    (bound,) = parse_budget("joules<=2k", [Objective(name="joules")])
    assert (bound.name, bound.high) == ("joules", 2000)


def test_bounds_are_told_as_people_write_them() -> None:
    assert [format_bound(bound) for bound in parse_budget("params<=200k,latency<=3ms,error<=5%")] == [
        "params <= 200,000",
        "latency <= 3 ms",
        "error <= 5.0 %",
    ]
    assert format_value(96_000, "bytes") == "96.0 kB"


@given(st.integers(1, 10**9))
def test_what_is_told_can_be_read_again(value: int) -> None:
    bound = parse_budget(f"params<={value}")[0]
    assert parse_budget(format_bound(bound).replace(",", "")) == (bound,)


MACRO = Macro(classes=10)
SPACE = SearchSpace.of(MACRO, (48, 56, 64))
TABLE = CostTable(SPACE, {1.0: MACRO})


def params(**bounds: float) -> Objective:
    return Objective(name="params", cost="exact", **bounds)  # type: ignore[arg-type]


COSTS: dict[str, ExactCost] = {
    "params": lambda genomes: TABLE(genomes)[:, 0],
    "first": lambda genomes: genomes[:, 0],
    "both": lambda genomes: list(genomes.sum(1)),
    "memory": lambda genomes: genomes[:, 0] * 1e3,
    "wait": lambda genomes: 3.0 + genomes[:, 0],
}


@pytest.mark.parametrize("high", [1e9, 60_000, 43_000])
def test_networks_that_keep_a_budget_are_found(high: float) -> None:
    kept = check_budget(SPACE, [params(high=high)], COSTS)
    assert len(kept)
    assert TABLE(kept)[:, 0].max() <= high


def test_a_narrow_window_is_found_by_evolution() -> None:
    low, high = 2_000_000.0, 2_000_400.0
    drawn = TABLE(SPACE.sample(1000, np.random.default_rng(5)))[:, 0]
    assert not ((drawn >= low) & (drawn <= high)).any()
    kept = TABLE(check_budget(SPACE, [params(low=low, high=high)], COSTS))[:, 0]
    assert low <= kept.min() <= kept.max() <= high


def test_an_impossible_budget_names_the_nearest_value() -> None:
    smallest = int(TABLE(SPACE.lower[None])[0, 0])
    with pytest.raises(ConfigError, match=f"params <= 10,000.*the nearest has params {smallest:,}"):
        check_budget(SPACE, [params(high=10_000)], COSTS)


def test_contradicting_bounds_of_two_objectives_are_refused() -> None:
    space = IntegerSpace((10, 10))
    first = Objective(name="first", cost="exact", low=8)
    both = Objective(name="both", cost="exact", high=5)
    with pytest.raises(ConfigError, match="no network of the space keeps"):
        check_budget(space, [first, both], COSTS)


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (12_345.4, "", "12,345"), (100.4, "", "100"), (99.5, "", "99.5"), (7.0, "", "7"), (0.04567, "", "0.0457"),
        (-250.4, "", "-250"), (999_949, "bytes", "999.9 kB"), (1e6, "bytes", "1.0 MB"), (2.5e9, "bytes", "2,500.0 MB"),
        (3.2, "ms", "3.2 ms"), (0.012345, "ms", "0.0123 ms"), (0.041, "share", "4.1 %"),
    ],
)  # fmt: skip
def test_values_are_written_as_people_write_them(value: float, unit: Unit, text: str) -> None:
    assert format_value(value, unit) == text


def test_a_window_is_told_by_both_of_its_ends() -> None:
    (window,) = parse_budget("params>=10k,params<=20k")
    assert format_bound(window) == "params <= 20,000, params >= 10,000"
    assert parse_budget("params<=30k,params<=20k,params>=5k,params>=10k") == (window,)
    assert format_bound(Objective(name="size")) == ""


@pytest.mark.parametrize(
    ("measure", "message"),
    [
        (lambda genomes: [1.0] * (len(genomes) + 1), r"shape \(\d+,\); got shape \(\d+,\)"),
        (lambda genomes: dict[str, float]()["nothing"], r"fails \(KeyError: 'nothing'\)"),
    ],
)
def test_exact_quantities_that_cannot_be_computed_are_refused(measure: Callable[[Genomes], Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        exact([Objective(name="size", cost="exact")], {"size": measure}, np.zeros((3, 2), dtype=np.int64))


def test_exact_quantities_are_columns_in_their_order() -> None:
    first, both = Objective(name="first", cost="exact"), Objective(name="both", cost="exact")
    genomes = np.array([[1, 2], [3, 4]])
    assert exact([both, first], COSTS, genomes).tolist() == [[3.0, 1.0], [7.0, 3.0]]
    assert exact([], COSTS, genomes).shape == (2, 0)

    def broken(genomes: Genomes) -> Genomes:
        raise RunError("the disk is full")

    with pytest.raises(RunError, match="the disk is full"):
        exact([Objective(name="size", cost="exact")], {"size": broken}, genomes)


def test_what_is_not_exact_does_not_decide_whether_a_budget_can_be_kept() -> None:
    space = IntegerSpace((4, 4))
    both = Objective(name="both", cost="exact", low=6)
    kept = check_budget(space, [Objective(name="error", high=-1.0), both], COSTS)
    assert kept.tolist() == [[3, 3]]


def test_an_impossible_budget_names_what_comes_nearest_in_each_of_its_units() -> None:
    space = IntegerSpace((10, 10))
    memory = Objective(name="memory", cost="exact", low=7e3, unit="bytes")
    wait = Objective(name="wait", cost="exact", high=8, unit="ms")
    with pytest.raises(ConfigError, match=r"the nearest has memory \d\.0 kB, wait \d+ ms"):
        check_budget(space, [memory, wait], COSTS)
    first, again = (check_budget(SPACE, [params(low=2e6, high=2_000_400.0)], COSTS, seed=3) for _ in range(2))
    np.testing.assert_array_equal(first, again)
