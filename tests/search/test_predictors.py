"""Predicting the error from the genes."""

from __future__ import annotations

import numpy as np
import pytest

from nat2.search.predictors import fit_ensemble, quality
from nat2.space import CostTable, Macro, SearchSpace

MACRO = Macro(classes=10)
SPACE = SearchSpace.of(MACRO, (48, 56, 64))


def problem(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """An error that falls with size and has noise, on networks of the space."""
    genomes = SPACE.sample(count, np.random.default_rng(seed))
    params, macs, _ = CostTable(SPACE, {1.0: MACRO})(genomes).T
    noise = np.random.default_rng(seed + 1).normal(0, 0.005, count)
    return genomes, 1.2 - 0.03 * np.log(params) - 0.03 * np.log(macs) + noise


@pytest.mark.parametrize("kind", ["integer", "one-hot"])
def test_unseen_networks_are_ranked(kind: str) -> None:
    genomes, errors = problem(300, 0)
    predict = fit_ensemble(SPACE.features(genomes, kind), errors, seed=0)  # type: ignore[arg-type]
    unseen, truth = problem(200, 7)
    result = quality(predict(SPACE.features(unseen, kind)), truth)  # type: ignore[arg-type]
    assert result.tau is not None
    assert result.tau > 0.75
    assert result.rmse < 0.02


def test_a_small_archive_is_enough_to_begin_with() -> None:
    genomes, errors = problem(40, 0)
    predict = fit_ensemble(SPACE.features(genomes), errors, seed=0)
    unseen, truth = problem(200, 7)
    tau = quality(predict(SPACE.features(unseen)), truth).tau
    assert tau is not None
    assert tau > 0.55


def test_the_seed_decides_the_predictor() -> None:
    genomes, errors = problem(60, 0)
    features = SPACE.features(genomes)
    first, again, other = (fit_ensemble(features, errors, seed=seed)(features) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_equal_errors_are_predicted_as_they_are() -> None:
    genomes, _ = problem(30, 0)
    predict = fit_ensemble(SPACE.features(genomes), np.full(30, 0.25), seed=0)
    np.testing.assert_allclose(predict(SPACE.features(genomes)), 0.25)


def test_quality_is_that_of_the_textbook() -> None:
    result = quality(np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 3.0, 2.0, 4.0]))
    assert result.tau == pytest.approx(4 / 6)
    assert result.rho == pytest.approx(0.8)
    assert result.rmse == pytest.approx(0.5**0.5)


def test_rank_correlation_of_equal_values_does_not_exist() -> None:
    assert quality(np.array([0.1, 0.2]), np.array([0.3, 0.3]))[:2] == (None, None)
