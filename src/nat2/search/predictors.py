"""Accuracy predictors: from a network's genes to its error, learned from the archive."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import scipy.stats
from lightgbm import LGBMRegressor
from numpy.typing import NDArray
from sklearn.model_selection import KFold

Values = NDArray[np.float64]
Predictor = Callable[[Values], Values]
"""Features of shape (n, features) to predicted values of shape (n,)."""

FOLDS = 10


def fit_lightgbm(features: Values, targets: Values, *, seed: int) -> Predictor:
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
    # Huber's gradient is bounded by its transition point (0.9), so targets are brought to unit scale first.
    centre, spread = float(targets.mean()), float(targets.std()) or 1.0
    model.fit(features, (targets - centre) / spread)
    return lambda queries: _booster_predict(model, queries) * spread + centre


def _booster_predict(model: Any, queries: Values) -> Values:
    predicted: Values = model.booster_.predict(queries, num_threads=1)
    return predicted


def fit_ensemble(features: Values, targets: Values, *, seed: int, folds: int = FOLDS) -> Predictor:
    """The mean of predictors each fitted without one of `folds` parts (NAT2: 10 experts on 90 % each).

    Args:
        features: Shape (n, features), n at least 2.
        targets: Shape (n,).
        seed: Decides the parts.
        folds: Number of experts, at most n.
    """
    parts = KFold(min(folds, len(targets)), shuffle=True, random_state=seed % 2**32)
    experts = [
        fit_lightgbm(features[kept], targets[kept], seed=(seed + number) % 2**31)
        for number, (kept, _) in enumerate(parts.split(features))
    ]
    return lambda queries: np.mean([expert(queries) for expert in experts], axis=0)


class Quality(NamedTuple):
    """How well predictions met what was measured later."""

    tau: float | None
    """Kendall's rank correlation; None if there are fewer than two different values."""
    rho: float | None
    """Spearman's rank correlation; None if there are fewer than two different values."""
    rmse: float
    """Root mean square error, in the unit of the error."""


def quality(predicted: Values, measured: Values) -> Quality:
    """Compare predictions with measurements that the predictor has not seen."""
    rmse = float(np.sqrt(np.mean((predicted - measured) ** 2)))
    if len(np.unique(predicted)) < 2 or len(np.unique(measured)) < 2:
        return Quality(None, None, rmse)
    tau = scipy.stats.kendalltau(predicted, measured).statistic
    rho = scipy.stats.spearmanr(predicted, measured).statistic
    return Quality(float(tau), float(rho), rmse)
