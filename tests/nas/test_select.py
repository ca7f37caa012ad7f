"""Survival, subsets, trade-offs."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nat2.nas.select import (
    front_of,
    gaining_subset,
    hypervolume,
    non_dominated,
    recommend,
    spread_subset,
    survive,
    trade_offs,
)


def points(count: int, dimensions: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random((count, dimensions)).round(2)


def dominated(rows: np.ndarray) -> list[bool]:
    return [any((other <= row).all() and (other < row).any() for other in rows) for row in rows]


@given(st.integers(1, 40), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_the_front_is_what_nothing_beats(count: int, dimensions: int, seed: int) -> None:
    rows = points(count, dimensions, seed)
    expected = [index for index, beaten in enumerate(dominated(rows)) if not beaten]
    assert non_dominated(rows).tolist() == expected


@given(st.integers(2, 40), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_survivors_are_different_and_none_is_beaten_by_the_front_left_out(
    count: int, dimensions: int, seed: int
) -> None:
    rows = points(count, dimensions, seed)
    size = max(1, count // 2)
    kept = survive(rows, size)
    assert len(set(kept.tolist())) == len(kept) == size
    front = set(non_dominated(rows).tolist())
    if len(front) <= size:
        assert front <= set(kept.tolist())
    else:
        assert set(kept.tolist()) <= front


def test_survival_of_one_objective_keeps_the_lowest() -> None:
    assert survive(np.array([[3.0], [1.0], [2.0], [0.5]]), 2).tolist() == [1, 3]


def test_survival_of_two_objectives_keeps_the_ends_of_a_crowded_front() -> None:
    front = np.array([[0.0, 1.0], [0.01, 0.99], [0.02, 0.98], [0.5, 0.5], [1.0, 0.0]])
    assert {0, 3, 4} <= set(survive(front, 4).tolist())


def unevenness(rows: np.ndarray) -> float:
    return float(np.diff(np.sort(rows, axis=0), axis=0).std(axis=0).max())


@given(st.integers(0, 2**32 - 1), st.integers(1, 2))
def test_chosen_candidates_fill_the_gaps_better_than_most_choices(seed: int, dimensions: int) -> None:
    generator = np.random.default_rng(seed)
    values, front = generator.random((9, dimensions)), generator.random((4, dimensions))
    span = np.concatenate([values, front])
    values, front = ((each - span.min(0)) / (span.max(0) - span.min(0)) for each in (values, front))
    chosen = spread_subset(values, front, 3)
    scores = [unevenness(np.concatenate([front, values[list(s)]])) for s in itertools.combinations(range(9), 3)]
    actual = unevenness(np.concatenate([front, values[chosen]]))
    assert actual <= np.quantile(scores, 0.25)
    assert len(set(chosen.tolist())) == 3


def test_no_more_are_chosen_than_there_are() -> None:
    assert spread_subset(points(3, 1, 0), points(2, 1, 1), 5).tolist() == [0, 1, 2]


def test_a_knee_has_the_highest_trade_off() -> None:
    front = np.array([[0.0, 1.0], [0.1, 0.6], [0.2, 0.1], [0.6, 0.05], [1.0, 0.0]])
    # A convex front: around the corner at (0.2, 0.1) little is gained for what is lost.
    assert trade_offs(front).argmax() == 2


def test_a_better_error_within_the_noise_does_not_buy_a_larger_network() -> None:
    front = np.array([[0.5, 10.0], [0.1, 20], [0.06, 50], [0.052, 60], [0.05, 900], [0.3, 12], [0.2, 15]])
    assert 4 in recommend(front, 3)
    assert {0, 3} <= set(recommend(front, 3, noise=0.005).tolist())
    assert 4 not in recommend(front, 3, noise=0.005)


def test_equal_rows_are_recommended_once() -> None:
    front = np.array(
        [[0.30, 10], [0.20, 20], [0.15, 30], [0.145, 32], [0.14, 34], [0.135, 36], [0.10, 70], [0.10, 70], [0.05, 120]]
    )
    chosen = recommend(front, 4).tolist()
    assert {0, 8} <= set(chosen)  # the ends
    assert len(np.unique(front[chosen], axis=0)) == 4


@given(st.integers(2, 30), st.integers(1, 3), st.integers(1, 10), st.integers(0, 2**32 - 1))
def test_recommended_are_the_best_of_each_objective_and_more(
    count: int, dimensions: int, wanted: int, seed: int
) -> None:
    rows = np.unique(points(count, dimensions, seed), axis=0)
    front = rows[non_dominated(rows)]
    chosen = recommend(front, wanted).tolist()
    assert len(set(chosen)) == len(chosen) == min(wanted, len(front))
    if wanted >= dimensions:
        assert (front[chosen].min(0) == front.min(0)).all()


@pytest.mark.parametrize(
    ("rows", "volume"),
    [([[0.0, 0.0]], 1.0), ([[2.0, 5.0]], 0.25), ([[4.0, 1.0]], 0.0), ([[1.0, 5.0], [2.0, 2.5]], 0.5)],
)
def test_hypervolume_is_the_share_of_the_box_that_is_beaten(rows: list[list[float]], volume: float) -> None:
    assert hypervolume(np.array(rows), np.array([4.0, 10.0])) == pytest.approx(volume)


def gained(rows: np.ndarray, front: np.ndarray, chosen: np.ndarray) -> float:
    both = np.concatenate([rows, front])
    low, span = both.min(0), both.max(0) - both.min(0)
    scaled = (np.concatenate([front, rows[chosen]]) - low) / np.where(span > 0, span, 1)
    return hypervolume(scaled, np.full(rows.shape[1], 1.1))


@given(st.integers(0, 2**32 - 1), st.integers(2, 3))
def test_the_gain_of_the_chosen_is_near_the_best_there_is(seed: int, dimensions: int) -> None:
    """Greedy choice of a submodular gain reaches at least 1 - 1/e of the best."""
    generator = np.random.default_rng(seed)
    rows, front = generator.random((9, dimensions)), generator.random((3, dimensions)) + 0.2
    chosen = gaining_subset(rows, front, 3)
    assert len(set(chosen.tolist())) == 3
    nothing = gained(rows, front, np.array([], dtype=np.int64))
    best = max(gained(rows, front, np.array(each)) for each in itertools.combinations(range(9), 3))
    assert gained(rows, front, chosen) - nothing >= (1 - 1 / np.e) * (best - nothing) - 1e-9


@given(st.integers(1, 30), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_what_violates_a_bound_survives_last(count: int, dimensions: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    rows = points(count, dimensions, seed)
    violated = np.where(generator.random(count) < 0.5, 0.0, generator.random(count))
    size = max(1, count // 2)
    kept = survive(rows, size, violated=violated)
    assert len(set(kept.tolist())) == size
    left = np.setdiff1d(np.arange(count), kept)
    if len(left):
        assert violated[kept].max() <= violated[left].min() or (violated[kept] == 0).all()


def test_the_front_of_a_budget_is_of_those_that_keep_it() -> None:
    rows = np.array([[0.1, 9.0], [0.2, 3.0], [0.3, 2.0], [0.4, 3.0]])
    assert front_of(rows, np.array([1.0, 0.0, 0.0, 0.0])).tolist() == [1, 2]
    assert front_of(rows, np.array([3.0, 2.0, 1.0, 1.0])).tolist() == [2]
