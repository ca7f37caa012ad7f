"""Accuracy predictors: from the features of a network to its error, learned from the archive."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Protocol

import numpy as np
import scipy.stats
from lightgbm import LGBMRegressor
from numpy.typing import NDArray
from scipy.interpolate import RBFInterpolator
from sklearn.ensemble import BaggingRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, DotProduct, Kernel, WhiteKernel
from sklearn.linear_model import BayesianRidge, Ridge
from sklearn.model_selection import KFold
from sklearn.neighbors import KNeighborsRegressor
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR
from sklearn.tree import DecisionTreeRegressor

from nat2.errors import ConfigError
from nat2.nas.generation import Quality
from nat2.nas.settings import PredictorName
from nat2.seeds import derive

Values = NDArray[np.float64]
Predictor = Callable[[Values], Values]
"""Features of shape (n, features) to predicted values of shape (n,)."""
Fit = Callable[[Values, Values, int], Predictor]
"""Learns from features (n, features), targets (n,) of mean 0 and deviation 1, and a seed."""
Tune = Callable[[Values, Values, int], Fit]
"""Finds the hyper-parameters that all experts of an ensemble share, from all the data."""

FOLDS = 10
_FEWEST = 4
_FAR = 0.2  # behind the best in rank correlation: too far to contribute to a mean
_ADDED = 8  # members of the mean of several predictors, beyond the first of each


@dataclass(frozen=True)
class Ensemble:
    """The mean of experts, each fitted without one fold of the networks (NAT2)."""

    name: str
    """Name of the predictor; of several, joined by a plus."""
    predict: Predictor
    left_out: Values
    """Predictions of the networks learned from, each by experts that have not seen it, shape (n,)."""
    tau: float
    """Kendall's rank correlation of these predictions with the targets."""
    rmse: float
    """Their root mean square error."""


def check_predictor(name: PredictorName) -> None:
    """Check that a predictor can be used.

    Raises:
        ConfigError: it needs a package that is not installed.
    """
    if name == "catboost" and find_spec("catboost") is None:
        raise ConfigError("the predictor catboost needs CatBoost: pip install 'nat2[catboost]'")


def fit_ensemble(name: PredictorName, features: Values, targets: Values, *, seed: int, folds: int = FOLDS) -> Ensemble:
    """Fit a predictor as the mean of experts on all but one fold each (NAT2: 10 experts on 90 % each).

    ``auto`` fits the fast ones, and predicts their weighted mean that ranks held-out networks best.

    Args:
        name: Name of the predictor.
        features: Shape (n, features), n at least 1; with fewer than 4 the mean is predicted.
        targets: Shape (n,).
        seed: Decides the folds and the randomness of the predictors.
        folds: Number of experts, at most n.
    """
    if len(targets) < _FEWEST:
        mean = float(targets.mean())
        predicted = np.full(len(targets), mean)
        return Ensemble("mean", lambda queries: np.full(len(queries), mean), predicted, 0.0, float(targets.std()))
    if name != "auto":
        return _ensemble(name, features, targets, seed, folds)
    tried = [_ensemble(each, features, targets, seed, folds) for each in AUTO]
    weights = _weights(np.stack([each.left_out for each in tried]), targets)
    order = [int(place) for place in np.argsort(-weights, kind="stable") if weights[place] > 0]

    def predict(queries: Values) -> Values:
        mean: Values = np.sum([weights[place] * tried[place].predict(queries) for place in order], axis=0)
        return mean

    left_out: Values = np.sum([weights[place] * tried[place].left_out for place in order], axis=0)
    return _judged("+".join(tried[place].name for place in order), predict, left_out, targets)


def _weights(predicted: Values, measured: Values) -> Values:
    """Weights of predictors such that their mean ranks networks well, shape (predictors,), with a sum of 1.

    Ensemble selection with replacement (Caruana et al., 2004): the predictor whose addition raises Kendall's tau of the
    mean most is added, several times over. The mean begins with one of each, without those that are far behind the
    best, which keeps chance from deciding while networks are few.

    Args:
        predicted: Predictions of networks that were held out, shape (predictors, n).
        measured: Shape (n,).
    """
    taus = np.array([_tau(each, measured) for each in predicted])
    best_first = np.argsort(-taus, kind="stable")
    ones = np.eye(len(predicted))[best_first[taus[best_first] >= taus.max() - _FAR]]
    members = ones.sum(axis=0)
    for _ in range(_ADDED):
        members += max(ones, key=lambda one: _tau((members + one) @ predicted, measured))
    weights: Values = members / members.sum()
    return weights


def _tau(predicted: Values, measured: Values) -> float:
    """Kendall's tau; 0 where nothing is ranked."""
    return float(np.nan_to_num(scipy.stats.kendalltau(predicted, measured).statistic))


def _judged(name: str, predict: Predictor, left_out: Values, targets: Values) -> Ensemble:
    rmse = float(np.sqrt(np.mean((left_out - targets) ** 2)))
    return Ensemble(name, predict, left_out, _tau(left_out, targets), rmse)


def _ensemble(name: PredictorName, features: Values, targets: Values, seed: int, folds: int) -> Ensemble:
    centre, spread = float(targets.mean()), float(targets.std()) or 1.0
    scaled = (targets - centre) / spread
    experts, left_out = [], np.empty(len(targets))
    with _quiet():
        fit = PREDICTORS[name](features, scaled, derive(seed, "tune") % 2**31)
        parts = KFold(min(folds, len(targets)), shuffle=True, random_state=seed % 2**32).split(features)
        for number, (kept, out) in enumerate(parts):
            expert = fit(features[kept], scaled[kept], derive(seed, number) % 2**31)
            experts.append(expert)
            left_out[out] = expert(features[out])

    mean = _mean_of(experts)

    def predict(queries: Values) -> Values:
        return mean(queries) * spread + centre

    return _judged(name, predict, left_out * spread + centre, targets)


@contextmanager
def _quiet() -> Iterator[None]:
    """An optimisation that stops early still yields a predictor, and cross-validation judges it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield


# -- experts whose mean is one of their own kind, so that predicting costs as much as with a single one


@dataclass(frozen=True)
class _Linear:
    """A linear predictor."""

    coefficients: Values
    """Shape (features,)."""
    intercept: float

    def __call__(self, queries: Values) -> Values:
        predicted: Values = queries @ self.coefficients + self.intercept
        return predicted

    @staticmethod
    def mean(experts: Sequence[_Linear]) -> _Linear:
        coefficients: Values = np.mean([each.coefficients for each in experts], axis=0)
        return _Linear(coefficients, float(np.mean([each.intercept for each in experts])))


@dataclass(frozen=True)
class _Radial:
    """A weighted sum of Gaussians of one width around some points."""

    points: Values
    """Shape (n, features)."""
    weights: Values
    """Shape (n,)."""
    intercept: float
    gamma: float
    """Of ``exp(-gamma * distance ** 2)``."""
    centre: Values | float = 0.0
    scale: Values | float = 1.0
    """Distances are between features less the centre, divided by the scale."""

    def __call__(self, queries: Values) -> Values:
        queries = (queries - self.centre) / self.scale
        distances = (queries**2).sum(1)[:, None] + (self.points**2).sum(1) - 2 * queries @ self.points.T
        predicted: Values = np.exp(-self.gamma * np.maximum(distances, 0)) @ self.weights + self.intercept
        return predicted

    @staticmethod
    def mean(experts: Sequence[_Radial]) -> _Radial:
        points = np.concatenate([each.points for each in experts])
        weights = np.concatenate([each.weights for each in experts]) / len(experts)
        different, places = np.unique(points, axis=0, return_inverse=True)
        intercept = float(np.mean([each.intercept for each in experts]))
        summed = np.bincount(places.ravel(), weights).astype(np.float64)
        return replace(experts[0], points=different, weights=summed, intercept=intercept)


def _mean_of(experts: Sequence[Predictor]) -> Predictor:
    """The mean of experts, which are all of one kind."""
    if all(isinstance(each, _Linear) for each in experts):
        return _Linear.mean(experts)  # type: ignore[arg-type]
    if all(isinstance(each, _Radial) for each in experts):
        return _Radial.mean(experts)  # type: ignore[arg-type]

    def predict(queries: Values) -> Values:
        mean: Values = np.mean([expert(queries) for expert in experts], axis=0)
        return mean

    return predict


# -- the predictors


def fit_lightgbm(features: Values, targets: Values, seed: int) -> Predictor:
    """Gradient-boosted trees with Huber loss, NAT2's choice.

    Trees may end in leaves of few networks while the archive is small; with the 270 networks that each of ten experts
    sees of an archive of 300, LightGBM's own default of 20 holds.
    """
    model = LGBMRegressor(
        objective="huber",
        min_child_samples=max(2, min(20, len(targets) // 13)),
        random_state=seed,
        n_jobs=1,
        deterministic=True,
        force_row_wise=True,
        verbose=-1,
    )
    model.fit(features, targets)

    def predict(queries: Values) -> Values:
        predicted: Values = model.booster_.predict(queries, num_threads=1)
        return predicted

    return predict


def fit_catboost(features: Values, targets: Values, seed: int) -> Predictor:
    """CatBoost with its defaults; the extra ``catboost``."""
    from catboost import CatBoostRegressor

    model = CatBoostRegressor(random_seed=seed, thread_count=1, verbose=False, allow_writing_files=False)
    model.fit(features, targets)
    return lambda queries: np.asarray(model.predict(queries), dtype=np.float64)


def fit_rbf(features: Values, targets: Values, seed: int) -> Predictor:
    """Cubic radial basis functions with a linear tail, on the directions in which the features vary.

    One-hot columns add up to one and some are constant, so the linear tail would have no unique solution on all of
    them; with few networks only the directions of largest variance are kept.
    """
    centre = features.mean(axis=0)
    _, sizes, directions = np.linalg.svd(features - centre, full_matrices=False)
    kept = min(int((sizes > 1e-6 * max(sizes[0], 1e-12)).sum()), max(1, len(targets) // 2))
    projection = directions[:kept].T
    seen, places = np.unique(np.round((features - centre) @ projection, 9), axis=0, return_inverse=True)
    means = np.bincount(places.ravel(), weights=targets) / np.bincount(places.ravel())
    if len(seen) < kept + 2 or not sizes[0]:
        return lambda queries: np.full(len(queries), targets.mean())
    surface = RBFInterpolator(seen, means, kernel="cubic", degree=1, smoothing=1e-6)
    return lambda queries: np.asarray(surface((queries - centre) @ projection), dtype=np.float64)


def fit_rbfs(features: Values, targets: Values, seed: int, *, count: int = 500) -> Predictor:
    """The mean of many radial basis function models, each on a random half of the features (NAT)."""
    generator = np.random.default_rng(seed)
    size = max(1, features.shape[1] // 2)
    subsets = [generator.permutation(features.shape[1])[:size] for _ in range(count)]
    models = [fit_rbf(features[:, subset], targets, seed) for subset in subsets]

    def predict(queries: Values) -> Values:
        total = np.zeros(len(queries))
        for model, subset in zip(models, subsets, strict=True):
            total += model(queries[:, subset])
        return total / count

    return predict


class _Fitted(Protocol):
    def predict(self, X: Values) -> Values: ...  # noqa: N803 (scikit-learn's name)


class _Regressor(Protocol):
    """The common interface of scikit-learn's regressors."""

    def fit(self, X: Values, y: Values) -> _Fitted: ...  # noqa: N803


def _scikit(make: Callable[[int], _Regressor]) -> Fit:
    """A scikit-learn regressor as a predictor; `make` takes the seed."""

    def fit(features: Values, targets: Values, seed: int) -> Predictor:
        model = make(seed).fit(features, targets)
        return lambda queries: np.asarray(model.predict(queries), dtype=np.float64)

    return fit


def _trees(features: Values, targets: Values, seed: int) -> Predictor:
    """1,000 trees, each on half of the networks and half of the features (E2EPP)."""
    half = max(1, len(targets) // 2)
    model = BaggingRegressor(
        DecisionTreeRegressor(), n_estimators=1000, max_samples=half, max_features=0.5, bootstrap=False,
        random_state=seed,
    ).fit(features, targets)  # fmt: skip
    return lambda queries: np.asarray(model.predict(queries), dtype=np.float64)


def _support_vectors(features: Values, targets: Values, seed: int) -> Fit:
    """Support vectors on features of variance 1 over all networks."""
    centre, width = features.mean(axis=0), 0.1 / features.shape[1]
    spreads = features.std(axis=0)
    scale = np.where(spreads > 0, spreads, 1.0)

    def fit(features: Values, targets: Values, seed: int) -> Predictor:
        model = SVR(C=10, epsilon=0.1, gamma=width).fit((features - centre) / scale, targets)
        intercept = float(model.intercept_[0])
        return _Radial(model.support_vectors_, model.dual_coef_[0], intercept, width, centre, scale)

    return fit


def _linear(make: Callable[[], Ridge | BayesianRidge]) -> Fit:
    """A linear regressor of scikit-learn as a predictor."""

    def fit(features: Values, targets: Values, seed: int) -> Predictor:
        model = make().fit(features, targets)
        return _Linear(model.coef_, float(model.intercept_))

    return fit


def _neighbours(features: Values, targets: Values, seed: int) -> Predictor:
    nearest = KNeighborsRegressor(min(5, len(targets)), weights="distance")
    model = make_pipeline(StandardScaler(), nearest).fit(features, targets)
    return lambda queries: np.asarray(model.predict(queries), dtype=np.float64)


def _network(seed: int) -> _Regressor:
    """Three hidden layers of 300 (MSuNAS)."""
    network = MLPRegressor(hidden_layer_sizes=(300, 300, 300), alpha=1.0, max_iter=100, random_state=seed)
    regressor: _Regressor = make_pipeline(StandardScaler(), network)
    return regressor


def _untuned(fit: Fit) -> Tune:
    return lambda features, targets, seed: fit


def _gaussian_process(kernel: Kernel) -> Tune:
    """A Gaussian process whose hyper-parameters are optimised once, on all networks."""

    def tune(features: Values, targets: Values, seed: int) -> Fit:
        found = GaussianProcessRegressor(kernel, random_state=seed).fit(features, targets).kernel_
        signal = found.k1  # beside the noise, which predictions leave out

        def fit(features: Values, targets: Values, seed: int) -> Predictor:
            weights = GaussianProcessRegressor(found, optimizer=None).fit(features, targets).alpha_
            if isinstance(signal, DotProduct):
                return _Linear(features.T @ weights, float(signal.sigma_0**2 * weights.sum()))
            size, width = signal.k1.constant_value, signal.k2.length_scale
            return _Radial(features, size * weights, 0.0, 0.5 / width**2)

        return fit

    return tune


PREDICTORS: dict[PredictorName, Tune] = {
    "rbf": _untuned(fit_rbf),
    "rbfs": _untuned(fit_rbfs),
    "mlp": _untuned(_scikit(_network)),
    "e2epp": _untuned(_trees),
    "carts": _untuned(_scikit(lambda seed: DecisionTreeRegressor(random_state=seed))),
    "gp": _gaussian_process(DotProduct(1.0, (1e-6, 1e6)) + WhiteKernel(0.1, (1e-6, 1e2))),
    "svr": _support_vectors,
    "ridge": _untuned(_linear(Ridge)),
    "knn": _untuned(_neighbours),
    "bayesian": _untuned(_linear(BayesianRidge)),
    "lgb": _untuned(fit_lightgbm),
    "catboost": _untuned(fit_catboost),
    "gp-rbf": _gaussian_process(
        ConstantKernel(1.0, (1e-3, 1e4)) * RBF(10.0, (1e-1, 1e4)) + WhiteKernel(0.1, (1e-6, 1e2))
    ),
}
"""The twelve of NAT2's study, and a Gaussian process with a radial kernel."""
AUTO: tuple[PredictorName, ...] = ("lgb", "gp-rbf", "bayesian", "svr")
"""Those that ``auto`` chooses among: each fits 300 networks within a second."""


def quality(predicted: Values, measured: Values) -> Quality:
    """Compare predictions with measurements of networks that the predictor has not seen."""
    rmse = float(np.sqrt(np.mean((predicted - measured) ** 2)))
    if len(np.unique(predicted)) < 2 or len(np.unique(measured)) < 2:
        return Quality(None, None, rmse)
    tau = scipy.stats.kendalltau(predicted, measured).statistic
    rho = scipy.stats.spearmanr(predicted, measured).statistic
    return Quality(float(tau), float(rho), rmse)
