"""The inner problem."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nat2.nas.evolve import evolve, reference_directions
from nat2.nas.select import hypervolume, non_dominated
from nat2.space import CostTable, Genomes, IntegerSpace, Macro, SearchSpace

MACRO = Macro(classes=10)
SPACE = SearchSpace.of(MACRO, (48, 56, 64))
COSTS = CostTable(SPACE, {1.0: MACRO})


def objectives(count: int):  # type: ignore[no-untyped-def]
    def evaluate(genomes: np.ndarray) -> np.ndarray:
        params, macs, _ = COSTS(genomes).T.astype(float)
        benefit = 1 / (1 + np.log(params)) + 0.001 * genomes[:, 3::4].sum(1)
        return np.column_stack([benefit, params, macs])[:, :count]

    return evaluate


def run(count: int, seed: int = 0, generations: int = 20) -> np.ndarray:
    start = SPACE.sample(40, np.random.default_rng(1))
    return evolve(
        SPACE,
        objectives(count),
        n_objectives=count,
        population=40,
        generations=generations,
        start=start,
        seed=seed,
    )


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_population_is_canonical_and_without_duplicates(count: int) -> None:
    genomes = run(count)
    np.testing.assert_array_equal(SPACE.canonical(genomes), genomes)
    assert len({SPACE.decode(genome) for genome in genomes}) == len(genomes) > 10


@pytest.mark.parametrize("count", [1, 2, 3])
def test_evolution_beats_its_own_start(count: int) -> None:
    evaluate = objectives(count)
    start, end = evaluate(SPACE.sample(40, np.random.default_rng(1))), evaluate(run(count))
    worst = np.maximum(start.max(0), end.max(0)) * 1.01
    assert hypervolume(end[non_dominated(end)], worst) > hypervolume(start, worst)


def test_the_seed_decides_the_result() -> None:
    np.testing.assert_array_equal(run(2), run(2))
    first, other = run(2), run(2, seed=1)
    assert first.shape != other.shape or (first != other).any()


@pytest.mark.parametrize("count", [1, 3, 20, 100])
@pytest.mark.parametrize("dimensions", [3, 4])
def test_reference_directions_are_spread_over_the_simplex(dimensions: int, count: int) -> None:
    directions = reference_directions(dimensions, count)
    assert directions.shape == (max(dimensions, count), dimensions)
    np.testing.assert_allclose(directions.sum(1), 1)
    assert (directions >= -1e-9).all()
    distances = np.sqrt(((directions[:, None] - directions[None]) ** 2).sum(2)) + 9 * np.eye(len(directions))
    nearest = distances.min(1)
    assert nearest.min() > 0.3 * nearest.max()


GENES = IntegerSpace((10,) * 6)


def evolved(start: np.ndarray, **changes: Any) -> tuple[np.ndarray, list[np.ndarray]]:
    """Towards large genes, cheap ones first; the last population, and what was asked about by generation."""
    asked: list[np.ndarray] = []

    def evaluate(genomes: np.ndarray) -> np.ndarray:
        asked.append(genomes.copy())
        count = options["n_objectives"]
        return np.column_stack([-genomes.sum(1), genomes[:, 0], genomes[:, 1]])[:, :count].astype(float)

    options: dict[str, Any] = {"n_objectives": 1, "population": 12, "generations": 8, "seed": 0, **changes}
    return evolve(GENES, evaluate, start=start, **options), asked


def few(count: int = 12, most: int = 2) -> np.ndarray:
    return np.unique(np.random.default_rng(0).integers(0, most, (200, 6)), axis=0)[:count]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_evolution_begins_with_its_start_and_asks_about_different_networks(count: int) -> None:
    last, asked = evolved(few(), n_objectives=count)
    assert {*map(tuple, asked[0])} == {*map(tuple, few())}
    assert len(asked) == 8
    assert all(len(genomes) <= 12 for genomes in asked)
    everything = [tuple(genome) for genomes in asked for genome in genomes]
    assert [len(np.unique(genomes, axis=0)) for genomes in asked] == list(map(len, asked))
    assert {*map(tuple, last)} <= set(everything)
    assert len(last) <= 12
    only, _ = evolved(few(), n_objectives=count, generations=1)
    assert {*map(tuple, only)} == {*map(tuple, few())}


def test_mutation_reaches_what_no_parent_has() -> None:
    """From genes of 0 and 1 to nearly the largest, which crossing alone never finds."""
    last, asked = evolved(few(), generations=25)
    assert last.sum(1).max() >= 50
    assert asked[1].max() > 4  # a mutated gene is drawn from far around


def test_two_objectives_need_no_reference_directions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nat2.nas.evolve.reference_directions", lambda *arguments: 1 / 0)
    assert len(evolved(few(), n_objectives=2)[0]) > 4
    assert len(evolved(few(), n_objectives=3, diversity="crowding")[0]) > 4
    with pytest.raises(ZeroDivisionError):
        evolved(few(), n_objectives=3)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_of_two_networks_the_one_that_violates_less_is_better_whatever_its_objectives(count: int) -> None:
    def violated(genomes: np.ndarray) -> np.ndarray:
        excess: np.ndarray = np.maximum(0, genomes.sum(1) - 9).astype(float)
        return excess

    start = few(most=6)
    assert (start.sum(1) > 9).any()
    last, _ = evolved(start, n_objectives=count, violated=violated, generations=15)
    assert last.sum(1).max() <= 9
    assert last.sum(1).max() >= 7  # and the best of those
    assert evolved(start, n_objectives=count, generations=15)[0].sum(1).max() > 9


def test_any_whole_number_is_a_seed() -> None:
    first = evolved(few(), seed=5)[0]
    np.testing.assert_array_equal(evolved(few(), seed=2**32 + 5)[0], first)
    np.testing.assert_array_equal(evolved(few(), seed=2**63 + 5)[0], first)


def test_an_evolution_whose_front_stands_still_ends() -> None:
    space = IntegerSpace((4, 4))
    asked: list[int] = []

    def evaluate(genomes: Genomes) -> Any:
        asked.append(len(genomes))
        return np.stack([genomes.sum(axis=1), -genomes[:, 0]], axis=1).astype(np.float64)

    def made(generations: int, patience: int) -> tuple[int, Any]:
        asked.clear()
        start = space.sample(8, np.random.default_rng(0))
        last = evolve(
            space, evaluate, n_objectives=2, population=8, generations=generations, start=start, seed=0,
            patience=patience,
        )  # fmt: skip
        return len(asked), last

    whole, last = made(40, 0)
    ended, found = made(40, 3)
    assert ended < whole
    front = {tuple(row) for row in found.tolist() if sum(row) == row[0]}
    assert front == {tuple(row) for row in last.tolist() if sum(row) == row[0]} == {(n, 0) for n in range(4)}
    assert made(ended, 0)[1].tolist() == found.tolist()  # it ends early, and is the same until then
