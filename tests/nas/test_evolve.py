"""The inner problem."""

from __future__ import annotations

import numpy as np
import pytest

from nat2.nas.evolve import evolve, reference_directions
from nat2.nas.select import hypervolume, non_dominated
from nat2.space import CostTable, Macro, SearchSpace

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
