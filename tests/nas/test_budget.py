"""Budgets as people write them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nat2.errors import ConfigError
from nat2.nas.budget import format_bound, format_value, parse_budget
from nat2.nas.feasible import check_budget
from nat2.nas.objectives import Objective
from nat2.space import CostTable, IntegerSpace, Macro, SearchSpace


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
        ("size<=3", "can bound error, params"),
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
    return Objective(name="params", cost="exact", measure=lambda genomes: TABLE(genomes)[:, 0], **bounds)  # type: ignore[arg-type]


@pytest.mark.parametrize("high", [1e9, 60_000, 43_000])
def test_networks_that_keep_a_budget_are_found(high: float) -> None:
    kept = check_budget(SPACE, [params(high=high)])
    assert len(kept)
    assert TABLE(kept)[:, 0].max() <= high


def test_a_narrow_window_is_found_by_evolution() -> None:
    low, high = 2_000_000.0, 2_000_400.0
    drawn = TABLE(SPACE.sample(1000, np.random.default_rng(5)))[:, 0]
    assert not ((drawn >= low) & (drawn <= high)).any()
    kept = TABLE(check_budget(SPACE, [params(low=low, high=high)]))[:, 0]
    assert low <= kept.min() <= kept.max() <= high


def test_an_impossible_budget_names_the_nearest_value() -> None:
    smallest = int(TABLE(SPACE.lower[None])[0, 0])
    with pytest.raises(ConfigError, match=f"params <= 10,000.*the nearest has params {smallest:,}"):
        check_budget(SPACE, [params(high=10_000)])


def test_contradicting_bounds_of_two_objectives_are_refused() -> None:
    space = IntegerSpace((10, 10))
    first = Objective(name="first", cost="exact", measure=lambda genomes: genomes[:, 0], low=8)
    both = Objective(name="both", cost="exact", measure=lambda genomes: genomes.sum(1), high=5)
    with pytest.raises(ConfigError, match="no network of the space keeps"):
        check_budget(space, [first, both])
