"""Survival, subsets, trade-offs."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymoo.indicators.hv import HV

from nat2.nas import select
from nat2.nas.select import (
    continued,
    first_fronts,
    front_of,
    gaining_subset,
    hypervolume,
    non_dominated,
    recommend,
    spread_out,
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


@given(st.integers(0, 40), st.integers(1, 50), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_fronts_are_taken_whole_until_there_are_enough(count: int, wanted: int, dimensions: int, seed: int) -> None:
    rows, expected = points(count, dimensions, seed), set[int]()
    while len(expected) < wanted and len(expected) < count:
        left = sorted({*range(count)} - expected)
        expected |= {left[index] for index in non_dominated(rows[left])}
    assert first_fronts(rows, wanted).tolist() == sorted(expected)


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


def test_few_go_on_alone_only_where_the_others_are_clearly_worse() -> None:
    rows = np.array([[0.112, 12.0], [0.115, 40.0], [0.12, 50.0], [0.118, 70.0], [0.30, 90.0]])
    assert continued(rows, least=3, noise=0.016).tolist() == [0, 1, 3]
    assert continued(rows, least=9, noise=0.016).tolist() == [0, 1, 2, 3]
    assert continued(rows, least=3, noise=0.0).tolist() == [0]
    front = np.array([[0.3, 1.0], [0.2, 2.0], [0.1, 3.0], [0.1, 4.0]])
    assert continued(front, least=3, noise=0.016).tolist() == [0, 1, 2]


@given(st.integers(1, 20), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_what_no_other_beats_always_goes_on(count: int, dimensions: int, seed: int) -> None:
    rows = points(count, dimensions, seed)
    kept = continued(rows, least=3, noise=0.05).tolist()
    assert set(non_dominated(rows).tolist()) <= set(kept)
    assert kept == sorted(set(kept))
    assert set(continued(rows, least=1, noise=0.05).tolist()) <= set(kept)


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


def test_networks_are_spread_over_sizes_by_their_ratios() -> None:
    sizes = 1000.0 * 2.0 ** np.arange(11)
    front = np.stack([np.linspace(0.5, 0.1, 11), sizes], axis=1)
    chosen = spread_out(front, 3).tolist()
    assert chosen[-1] == 10
    assert np.diff(chosen).min() >= 3  # a factor of 8; on a linear scale all but one would lie in the upper half
    assert np.diff(spread_out(front, 6)).max() <= 3


def test_bends_among_small_networks_do_not_crowd_out_the_others() -> None:
    bends = [[0.40, 1000], [0.38, 1010], [0.35, 1020], [0.345, 1050], [0.33, 1060], [0.325, 1100]]
    front = np.array([*bends, [0.2, 8000], [0.1, 60_000]])
    assert {6, 7} <= set(spread_out(front, 3).tolist())


def test_both_ends_of_the_front_are_among_those_spread_out() -> None:
    front = np.array([[0.80, 12_000.0], [0.45, 40_000], [0.44, 77_000], [0.43, 90_000], [0.42, 170_000]])
    assert spread_out(front, 2).tolist() == [0, 4]
    assert spread_out(front, 3).tolist() == [0, 1, 4]


def test_the_most_accurate_is_always_among_those_spread_out() -> None:
    front = np.array([[0.5, 10.0], [0.1, 20], [0.06, 50], [0.052, 60], [0.05, 900], [0.3, 12], [0.2, 15]])
    for count in range(1, 8):
        assert 4 in spread_out(front, count)
        assert 3 in spread_out(front, count, noise=0.005)
    assert 4 not in spread_out(front, 2, noise=0.005)


@given(st.integers(2, 30), st.integers(1, 3), st.integers(1, 10), st.integers(0, 2**32 - 1))
def test_different_rows_of_the_front_are_spread_out(count: int, dimensions: int, wanted: int, seed: int) -> None:
    rows = points(count, dimensions, seed)
    front = np.concatenate([rows[non_dominated(rows)]] * 2)  # equal rows are returned once
    chosen = spread_out(front, wanted).tolist()
    assert chosen == sorted(set(chosen))
    assert len(np.unique(front[chosen], axis=0)) == len(chosen) == min(wanted, len(np.unique(front, axis=0)))


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


@given(st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_of_a_crowded_front_the_rows_with_the_nearest_neighbours_leave(leaving: int, seed: int) -> None:
    """NSGA-II: the gaps to both neighbours, added over the objectives, as shares of each objective's range."""
    costs = np.sort(np.random.default_rng(seed).random(20))
    front = np.column_stack([costs, (1 - costs) ** 2])
    spans = np.abs(front[2:] - front[:-2]) / (front.max(0) - front.min(0))
    crowding = np.concatenate([[np.inf], spans.sum(1), [np.inf]])
    expected = np.sort(np.argsort(-crowding)[: 20 - leaving])
    assert survive(front, 20 - leaving).tolist() == expected.tolist()


def test_survivors_of_three_objectives_are_spread_over_the_front() -> None:
    """Ninety rows crowd around the middle of a plane, ten lie apart: survival by direction keeps those."""
    generator = np.random.default_rng(0)
    crowd = generator.dirichlet((300.0,) * 3, 90)
    apart = np.concatenate([np.eye(3), generator.dirichlet((1.0,) * 3, 7)])
    kept = survive(np.concatenate([crowd, apart]), 10)
    assert (kept >= 90).sum() >= 7
    assert {90, 91, 92} <= set(kept.tolist())


def greedy(rows: np.ndarray, front: np.ndarray, count: int) -> list[int]:
    """Each time the one that adds most, and every candidate is looked at."""
    chosen: list[int] = []
    for _ in range(count):
        left = [index for index in range(len(rows)) if index not in chosen]
        chosen.append(max(left, key=lambda index: gained(rows, front, np.array([*chosen, index]))))
    return sorted(chosen)


@given(st.integers(0, 2**32 - 1), st.integers(2, 3), st.integers(1, 6))
def test_candidates_that_are_not_looked_at_would_not_have_been_chosen(seed: int, dimensions: int, count: int) -> None:
    generator = np.random.default_rng(seed)
    rows, front = generator.random((12, dimensions)), generator.random((3, dimensions)) + 0.2
    chosen, expected = (
        gained(rows, front, np.array(each)) for each in (gaining_subset(rows, front, count), greedy(rows, front, count))
    )
    assert chosen == pytest.approx(expected)


def test_most_candidates_are_not_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a candidate adds never grows, so what it added before bounds what it can add."""
    measured: list[int] = []

    class Counted(HV):  # type: ignore[misc]
        def __call__(self, rows: np.ndarray) -> float:
            measured.append(len(rows))
            return float(super().__call__(rows))

    monkeypatch.setattr(select, "HV", Counted)
    gaining_subset(points(100, 2, 0), np.zeros((0, 2)), 10)
    assert len(measured) < 10 * 100 / 3


def test_an_end_of_the_front_is_worth_evaluating() -> None:
    """The best in one objective gains something although it is the worst in another."""
    front = np.array([[0.5, 0.5], [1.0, 0.0]])
    assert gaining_subset(np.array([[0.49, 0.5], [0.0, 1.0]]), front, 1).tolist() == [1]
    # An end is worth a tenth of the range in the objective in which it is the worst, and no more.
    assert gaining_subset(np.array([[0.35, 0.5], [0.0, 1.0]]), front, 1).tolist() == [0]


def test_the_first_candidates_of_an_empty_front_extend_it_most() -> None:
    rows = np.array([[0.0, 1.0], [0.4, 0.4], [1.0, 0.0], [0.9, 0.9]])
    empty = np.zeros((0, 2))
    assert gaining_subset(rows, empty, 1).tolist() == [1]
    assert gaining_subset(rows, empty, 3).tolist() == [0, 1, 2]
    assert gaining_subset(rows, empty, 9).tolist() == [0, 1, 2, 3]


@given(st.integers(0, 2**32 - 1), st.floats(-5, 5), st.floats(0.01, 100))
def test_units_decide_nothing(seed: int, shift: float, scale: float) -> None:
    """Milliseconds or seconds, errors or accuracies lost: the same networks are chosen and preferred."""
    generator = np.random.default_rng(seed)
    rows, front = generator.random((8, 2)), generator.random((4, 2))
    other = (rows * [1, scale] + [0, shift], front * [1, scale] + [0, shift])
    assert gaining_subset(*other, 3).tolist() == gaining_subset(rows, front, 3).tolist()
    assert spread_subset(*other, 3).tolist() == spread_subset(rows, front, 3).tolist()
    ends = rows[non_dominated(rows)]
    np.testing.assert_allclose(trade_offs(ends * [1, scale] + [0, shift]), trade_offs(ends), rtol=1e-6)


def test_of_equal_rows_the_first_survive() -> None:
    assert survive(np.zeros((40, 1)), 10).tolist() == list(range(10))
    assert survive(np.zeros((40, 1)), 10, violated=np.ones(40)).tolist() == list(range(10))


def test_of_those_that_keep_the_bounds_the_best_survive() -> None:
    rows = np.array([[4.0], [3.0], [2.0], [1.0], [0.0]])
    assert survive(rows, 2, violated=np.array([0.0, 0.0, 0.0, 0.0, 0.1])).tolist() == [2, 3]
    assert survive(rows, 4, violated=np.array([0.0, 0.3, 0.0, 0.0, 0.2])).tolist() == [0, 2, 3, 4]


def test_the_seed_decides_who_survives() -> None:
    rows = np.random.default_rng(0).dirichlet((1.0,) * 3, 60)
    kept = [survive(rows, 20, seed=seed).tolist() for seed in (1, 1, 2, 3)]
    assert kept[0] == kept[1]
    assert len({tuple(each) for each in kept}) > 1


def test_two_rows_are_each_others_neighbours_however_far_apart() -> None:
    np.testing.assert_allclose(trade_offs(np.array([[0.0, 1.0], [1.0, 0.0]])), 1)
    assert np.isinf(trade_offs(np.array([[0.3, 0.4]]))).all()


def test_only_near_rows_count_as_neighbours_where_there_are_enough() -> None:
    """In the middle of twenty rows the far ends, which cost least for what they gain, do not matter."""
    costs = np.linspace(0, 1, 41)
    front = np.column_stack([costs, 1 - costs])
    np.testing.assert_allclose(trade_offs(front), 1)
    front[20] -= 0.01  # better than its neighbours in both, by as much as they differ
    assert trade_offs(front).argmax() == 20
    assert trade_offs(front)[18:23].tolist() != trade_offs(front, neighbourhood=0.01)[18:23].tolist()


@pytest.mark.parametrize("seed", range(8))
def test_no_exchange_makes_the_chosen_more_even(seed: int) -> None:
    generator = np.random.default_rng(seed)
    values, front = generator.random((14, 1)), np.array([[0.0], [1.0]])
    chosen = spread_subset(values, front, 4).tolist()
    actual = unevenness(np.concatenate([front, values[chosen]]))
    for place, other in itertools.product(range(4), range(14)):
        exchanged = [*chosen[:place], *chosen[place + 1 :], other]
        if len(set(exchanged)) == 4:
            assert unevenness(np.concatenate([front, values[exchanged]])) >= actual - 1e-9
