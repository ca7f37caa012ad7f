"""Predicting the error from the genes."""

from __future__ import annotations

import numpy as np
import pytest

from nat2.errors import ConfigError
from nat2.nas.predictors import PREDICTORS, Ensemble, check_predictor, fit_ensemble, quality
from nat2.nas.settings import PredictorName
from nat2.space import CostTable, Macro, SearchSpace

MACRO = Macro(classes=10)
SPACE = SearchSpace.of(MACRO, (48, 56, 64))


def problem(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """An error that falls with size and has noise, on networks of the space."""
    genomes = SPACE.sample(count, np.random.default_rng(seed))
    params, macs, _ = CostTable(SPACE, {1.0: MACRO})(genomes).T
    noise = np.random.default_rng(seed + 1).normal(0, 0.005, count)
    return genomes, 1.2 - 0.03 * np.log(params) - 0.03 * np.log(macs) + noise


def fit(features: np.ndarray, errors: np.ndarray, *, seed: int) -> Ensemble:
    return fit_ensemble("lgb", features, errors, seed=seed)


@pytest.mark.parametrize("kind", ["integer", "one-hot", "structure"])
def test_unseen_networks_are_ranked(kind: str) -> None:
    genomes, errors = problem(300, 0)
    predict = fit(SPACE.features(genomes, kind), errors, seed=0).predict  # type: ignore[arg-type]
    unseen, truth = problem(200, 7)
    result = quality(predict(SPACE.features(unseen, kind)), truth)  # type: ignore[arg-type]
    assert result.tau is not None
    assert result.tau > 0.75
    assert result.rmse < 0.02


def test_a_small_archive_is_enough_to_begin_with() -> None:
    genomes, errors = problem(40, 0)
    predict = fit(SPACE.features(genomes), errors, seed=0).predict
    unseen, truth = problem(200, 7)
    tau = quality(predict(SPACE.features(unseen)), truth).tau
    assert tau is not None
    assert tau > 0.55


def test_the_seed_decides_the_predictor() -> None:
    genomes, errors = problem(60, 0)
    features = SPACE.features(genomes)
    first, again, other = (fit(features, errors, seed=seed).predict(features) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_equal_errors_are_predicted_as_they_are() -> None:
    genomes, _ = problem(30, 0)
    for name in ("lgb", "gp-rbf", "rbf", "auto"):
        predict = fit_ensemble(name, SPACE.features(genomes), np.full(30, 0.25), seed=0).predict
        np.testing.assert_allclose(predict(SPACE.features(genomes)), 0.25)


SLOW = ("rbfs", "e2epp", "catboost", "mlp")
QUICK = ("rbf", "carts", "gp", "svr", "ridge", "knn", "bayesian", "lgb", "gp-rbf", "auto")


def test_every_predictor_is_tried() -> None:
    assert {*SLOW, *QUICK} == {*PREDICTORS, "auto"}


@pytest.mark.parametrize("name", [*QUICK, *SLOW])
def test_every_predictor_ranks_unseen_networks(name: PredictorName) -> None:
    if name == "catboost":
        pytest.importorskip("catboost")
    genomes, errors = problem(100 if name in QUICK else 60, 0)
    features = SPACE.features(genomes, "structure")
    ensemble = fit_ensemble(name, features, errors, seed=0, folds=10 if name in QUICK else 2)
    unseen, truth = problem(200, 7)
    predicted = ensemble.predict(SPACE.features(unseen, "structure"))
    tau = quality(predicted, truth).tau
    assert tau is not None
    assert tau > (0.6 if name == "knn" else 0.75)
    assert quality(predicted, truth).rmse < truth.std()
    assert ensemble.name == name or name == "auto"


def test_auto_leaves_out_what_ranks_badly() -> None:
    """Of a sum of pairwise products a linear model sees nothing."""
    generator = np.random.default_rng(0)
    features = generator.choice([-1.0, 1.0], (200, 6))
    errors = features[:, 0] * features[:, 1] + features[:, 2] * features[:, 3]
    chosen = fit_ensemble("auto", features, errors, seed=0)
    assert "bayesian" not in chosen.name
    assert chosen.tau > 0.5


@pytest.mark.parametrize("name", ["lgb", "gp-rbf", "rbf", "svr", "knn", "auto"])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 8, 12])
def test_tiny_archives_are_no_error(name: PredictorName, count: int) -> None:
    genomes, errors = problem(count, 0)
    for kind in ("integer", "one-hot", "structure"):
        features = SPACE.features(genomes, kind)
        assert np.isfinite(fit_ensemble(name, features, errors, seed=0).predict(features)).all()


def test_a_predictor_that_is_not_installed_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nat2.nas.predictors.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"nat2\[catboost\]"):
        check_predictor("catboost")
    check_predictor("lgb")


def test_quality_is_that_of_the_textbook() -> None:
    result = quality(np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 3.0, 2.0, 4.0]))
    assert result.tau == pytest.approx(4 / 6)
    assert result.rho == pytest.approx(0.8)
    assert result.rmse == pytest.approx(0.5**0.5)


def test_rank_correlation_of_equal_values_does_not_exist() -> None:
    assert quality(np.array([0.1, 0.2]), np.array([0.3, 0.3]))[:2] == (None, None)
