"""Predicting the error from the genes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, DotProduct, WhiteKernel

from nat2.errors import ConfigError
from nat2.nas import predictors
from nat2.nas.predictors import PREDICTORS, Ensemble, Fit, Predictor, check_predictor, fit_ensemble, quality
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
    monkeypatch.setattr("nat2.nas.predictors.find_spec", lambda name: None if name == "catboost" else object())
    with pytest.raises(ConfigError, match=r"nat2\[catboost\]"):
        check_predictor("catboost")
    check_predictor("lgb")
    monkeypatch.setattr("nat2.nas.predictors.find_spec", lambda name: object())
    check_predictor("catboost")


def test_quality_is_that_of_the_textbook() -> None:
    result = quality(np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 3.0, 2.0, 4.0]))
    assert result.tau == pytest.approx(4 / 6)
    assert result.rho == pytest.approx(0.8)
    assert result.rmse == pytest.approx(0.5**0.5)


def test_rank_correlation_of_equal_values_does_not_exist() -> None:
    assert quality(np.array([0.1, 0.2]), np.array([0.3, 0.3]))[:2] == (None, None)


def test_tiny_archives_are_predicted_by_their_mean() -> None:
    targets = np.array([0.1, 0.2, 0.6])
    found = fit_ensemble("lgb", np.eye(3), targets, seed=0)
    assert (found.name, found.tau) == ("mean", 0.0)
    assert found.rmse == pytest.approx(targets.std())
    assert found.predict(np.eye(5)[:, :3]).tolist() == [pytest.approx(0.3)] * 5
    assert fit_ensemble("ridge", np.eye(4), np.arange(4.0), seed=0).name == "ridge"


def test_an_ensemble_is_the_mean_of_experts_each_of_which_has_not_seen_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """Experts that answer with the mean of what they have learnt from."""
    lessons: list[np.ndarray] = []

    def tune(features: np.ndarray, targets: np.ndarray, seed: int) -> Fit:
        assert targets.mean() == pytest.approx(0, abs=1e-12)
        assert targets.std() == pytest.approx(1)
        assert len(targets) == 20

        def fit(features: np.ndarray, targets: np.ndarray, seed: int) -> Predictor:
            lessons.append(features[:, 0])
            return lambda queries: np.full(len(queries), targets.mean())

        return fit

    monkeypatch.setitem(predictors.PREDICTORS, "ridge", tune)
    features, targets = np.arange(20.0)[:, None], 5 + 3 * np.random.default_rng(0).normal(size=20)
    found = fit_ensemble("ridge", features, targets, seed=0, folds=5)
    assert [len(lesson) for lesson in lessons] == [16] * 5
    left_out = [sorted({*range(20)} - {*map(int, lesson)}) for lesson in lessons]
    assert sorted(place for part in left_out for place in part) == list(range(20))
    assert left_out[0] != [0, 1, 2, 3]  # the order of the archive does not decide
    means = [targets[lesson.astype(int)].mean() for lesson in lessons]
    assert found.predict(features[:2]).tolist() == [pytest.approx(np.mean(means))] * 2
    for mean, part in zip(means, left_out, strict=True):
        assert found.left_out[part].tolist() == [pytest.approx(mean)] * 4
    errors = [mean - targets[part] for mean, part in zip(means, left_out, strict=True)]
    assert found.rmse == pytest.approx(np.sqrt(np.mean(np.square(errors))))
    lessons.clear()
    fit_ensemble("ridge", features, targets, seed=0, folds=50)
    assert [len(lesson) for lesson in lessons] == [19] * 20  # at most as many as there are networks


def of_members(monkeypatch: pytest.MonkeyPatch, left_out: Mapping[Any, np.ndarray], targets: np.ndarray) -> Ensemble:
    """``auto`` of predictors whose predictions of held-out networks are given; of others they predict the same."""

    def made(name: PredictorName, *rest: object) -> Ensemble:
        return predictors._judged(name, lambda queries: left_out[name][: len(queries)], left_out[name], targets)

    monkeypatch.setattr(predictors, "_ensemble", made)
    return fit_ensemble("auto", np.eye(len(targets)), targets, seed=0)


def test_auto_is_one_predictor_where_the_others_are_far_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    generator, targets = np.random.default_rng(0), np.arange(40.0)
    left_out = {name: generator.normal(size=40) for name in predictors.AUTO} | {"bayesian": targets**2}
    found = of_members(monkeypatch, left_out, targets)
    assert found.name == "bayesian"
    assert found.tau == pytest.approx(1)
    np.testing.assert_allclose(found.predict(np.eye(40)), targets**2)
    assert found.rmse == pytest.approx(np.sqrt(np.mean((targets**2 - targets) ** 2)))


def test_auto_averages_predictors_that_see_different_things(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is wrong about something else: a mean of all ranks better than any of them, and counts the best most."""
    generator, targets = np.random.default_rng(0), np.arange(100.0)
    scales = dict(zip(predictors.AUTO, (14.0, 8.0, 14.0, 14.0), strict=True))
    left_out = {name: targets + generator.normal(0, scale, 100) for name, scale in scales.items()}
    found = of_members(monkeypatch, left_out, targets)
    assert set(found.name.split("+")) == {*predictors.AUTO}
    assert found.name.startswith("gp-rbf+")
    assert found.tau > max(float(quality(each, targets).tau or 0) for each in left_out.values())
    np.testing.assert_allclose(found.predict(np.eye(100)), found.left_out)
    weights = np.linalg.lstsq(np.stack([*left_out.values()], axis=1), found.left_out)[0]
    assert weights.sum() == pytest.approx(1)
    assert weights.argmax() == 1


def test_chance_does_not_choose_among_equal_predictors(monkeypatch: pytest.MonkeyPatch) -> None:
    """With few networks none gets all the weight, whatever happens to rank best."""
    for seed in range(5):
        generator, targets = np.random.default_rng(seed), np.arange(20.0)
        left_out = {name: targets + generator.normal(0, 2, 20) for name in predictors.AUTO}
        assert len(of_members(monkeypatch, left_out, targets).name.split("+")) == len(predictors.AUTO)


def test_nothing_ranked_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    left_out = {name: np.zeros(6) for name in predictors.AUTO}
    found = of_members(monkeypatch, left_out, np.arange(6.0))
    assert (found.tau, found.predict(np.eye(6)).tolist()) == (0.0, [0.0] * 6)


@pytest.mark.parametrize("name", ["rbf", "bayesian", "gp", "gp-rbf"])
def test_a_plane_is_learnt_exactly_whatever_its_units(name: PredictorName) -> None:
    generator = np.random.default_rng(0)
    features, queries = generator.normal(size=(40, 3)), generator.normal(size=(20, 3))
    plane = np.array([1.0, -2.0, 0.5])
    for factor, shift in ((1.0, 0.0), (1e-4, 3.0), (1e5, -7.0)):
        found = fit_ensemble(name, features, shift + factor * features @ plane, seed=0, folds=4)
        np.testing.assert_allclose(found.predict(queries), shift + factor * queries @ plane, atol=0.15 * factor)
        assert found.tau > 0.9
        assert found.rmse < 0.2 * factor


def test_radial_functions_leave_out_directions_without_differences() -> None:
    """One-hot columns add up to one, and some never change; repeated networks count with their mean."""
    generator = np.random.default_rng(0)
    values = generator.integers(0, 3, (30, 3))
    features = np.concatenate([np.eye(3)[values[:, gene]] for gene in range(3)] + [np.ones((30, 2))], axis=1)
    targets = values @ np.array([1.0, 2.0, -1.0])
    predict = predictors.fit_rbf(np.repeat(features, 2, axis=0), np.repeat(targets, 2) + np.tile([-0.5, 0.5], 30), 0)
    np.testing.assert_allclose(predict(features), targets, atol=0.02)
    constant = predictors.fit_rbf(np.ones((6, 2)), np.arange(6.0), 0)
    assert constant(np.zeros((3, 2))).tolist() == [2.5] * 3


def learnt(name: PredictorName, features: np.ndarray, targets: np.ndarray, *, seed: int = 0) -> Predictor:
    """One predictor alone."""
    return PREDICTORS[name](features, targets, seed)(features, targets, seed)


def few(count: int = 20, width: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Features, and targets that are not linear in them."""
    features = np.random.default_rng(0).normal(size=(count, width))
    targets = features[:, 0] ** 2 - features[:, 1]
    return features, (targets - targets.mean()) / targets.std()


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("name", ["svr", "knn", "mlp"])
def test_units_of_what_is_seen_decide_nothing(name: PredictorName) -> None:
    features, targets = few()
    queries = np.random.default_rng(1).normal(size=(9, 3))
    expected, factors = learnt(name, features, targets)(queries), np.array([1e-3, 1.0, 1e4])
    assert expected.std() > 0.1
    found = learnt(name, features * factors + 5 * factors, targets)(queries * factors + 5 * factors)
    np.testing.assert_allclose(found, expected, atol=0.02)


def test_radial_functions_see_which_columns_follow_from_others_in_any_unit() -> None:
    features, targets = few()
    queries = np.random.default_rng(1).normal(size=(9, 3))
    expected = learnt("rbf", features, targets)(queries)
    features, queries = (np.concatenate([each, each.sum(1, keepdims=True)], axis=1) for each in (features, queries))
    found = learnt("rbf", 1e6 * (features + 3), targets)(1e6 * (queries + 3))
    assert np.corrcoef(found, expected)[0, 1] > 0.95
    assert found.std() < 2 * expected.std()


def test_one_number_is_enough_to_learn_from() -> None:
    features = np.linspace(-2, 2, 9)[:, None]
    np.testing.assert_allclose(learnt("rbf", features, features[:, 0] ** 3)(features), features[:, 0] ** 3, atol=0.01)


def test_nearer_neighbours_weigh_more() -> None:
    """Five neighbours by the inverse of their distance; of a network that was seen its own value."""
    features, targets = np.arange(10.0)[:, None], np.arange(10.0) ** 2
    predict = learnt("knn", features, targets)
    np.testing.assert_allclose(predict(features), targets)
    distances = np.abs(2.25 - np.arange(5))
    expected = (targets[:5] / distances).sum() / (1 / distances).sum()
    np.testing.assert_allclose(predict(np.array([[2.25]])), expected)
    assert learnt("knn", features[:3], targets[:3])(np.array([[1.0]])).tolist() == [1.0]  # there are no five


def test_many_radial_models_each_see_half_and_their_mean_answers() -> None:
    """Where all columns say the same, any half of them says it all; where one says it, half of the models know."""
    x = np.linspace(-1, 1, 15)
    same = np.stack([x, 2 * x, -x, x + 3], axis=1)
    np.testing.assert_allclose(predictors.fit_rbfs(same, 3 * x, 0, count=3)(same), 3 * x, atol=0.01)
    generator = np.random.default_rng(0)
    one = np.stack([x, generator.permutation(x)], axis=1)
    found = predictors.fit_rbfs(one, x, 0, count=40)(one)
    assert 0.3 < np.polyfit(x, found, 1)[0] < 1
    assert not np.array_equal(found, predictors.fit_rbfs(one, x, 1, count=40)(one))
    single = predictors.fit_rbfs(x[:, None], x, 0, count=2)(x[:, None])
    np.testing.assert_allclose(single, x, atol=0.01)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("name", ["mlp", "carts", "rbfs"])
def test_a_seed_decides_what_is_random_in_a_predictor(name: PredictorName) -> None:
    features, targets = few(count=12)
    features = np.concatenate([features, features[:, :1]], axis=1)  # trees choose between equal columns
    queries = np.random.default_rng(1).normal(size=(30, 4))
    first, again, other = (learnt(name, features, targets, seed=seed)(queries) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert np.corrcoef(learnt(name, features, targets)(features), targets)[0, 1] > 0.8


def test_trees_that_see_half_of_the_networks_answer_with_a_mean() -> None:
    """A single tree repeats what it has seen; the mean of trees that have not all seen it does not."""
    features, targets = few(count=12)
    np.testing.assert_allclose(learnt("carts", features, targets)(features), targets)
    found, again = (learnt("e2epp", features, targets)(features) for _ in range(2))
    assert np.abs(found - targets).max() > 0.1
    assert np.corrcoef(found, targets)[0, 1] > 0.8
    np.testing.assert_array_equal(found, again)  # the seed decides which half


@pytest.mark.parametrize("name", ["bayesian", "ridge", "svr", "gp", "gp-rbf"])
def test_the_mean_of_experts_is_one_of_their_kind(name: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which predicts the same in one call as the experts do one by one."""
    generator = np.random.default_rng(0)
    features = generator.integers(0, 3, (40, 6)).astype(np.float64)
    targets = features @ generator.normal(size=6) + np.sin(features[:, 0] * features[:, 1])
    queries = generator.integers(0, 3, (30, 6)).astype(np.float64)
    merged = fit_ensemble(name, features, targets, seed=1)
    monkeypatch.setattr(
        "nat2.nas.predictors._mean_of", lambda experts: lambda asked: np.mean([each(asked) for each in experts], axis=0)
    )
    apart = fit_ensemble(name, features, targets, seed=1)
    np.testing.assert_allclose(merged.predict(queries), apart.predict(queries), rtol=1e-9, atol=1e-9)
    assert (merged.tau, merged.rmse) == (apart.tau, apart.rmse)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_gaussian_process_predicts_as_the_library_does() -> None:
    generator = np.random.default_rng(0)
    features = generator.normal(size=(30, 3))
    targets = (features[:, 0] * features[:, 1] - features[:, 2]) / 2
    queries = generator.normal(size=(10, 3))
    for name in ("gp", "gp-rbf"):
        fit = PREDICTORS[name](features, targets, 0)
        model = GaussianProcessRegressor(
            ConstantKernel(1.0, (1e-3, 1e4)) * RBF(10.0, (1e-1, 1e4)) + WhiteKernel(0.1, (1e-6, 1e2))
            if name == "gp-rbf"
            else DotProduct(1.0, (1e-6, 1e6)) + WhiteKernel(0.1, (1e-6, 1e2)),
            random_state=0,
        ).fit(features, targets)
        np.testing.assert_allclose(fit(features, targets, 0)(queries), model.predict(queries), atol=1e-6)
