"""The values to expect of networks, from noisy measurements and predictions of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
_LEAST = 0.05  # of the variance of the residuals is the predictor's in any case: noise may be overstated
_ALIKE = 0.2  # share of the networks whose residuals say how far the prediction of one of them can be trusted
_FEWEST = 20  # of them


def expected(measured: Values, predicted: Values, left_out: Values, errors: Values) -> Values:
    """The values to expect if networks were measured once more, shape (n,) (empirical Bayes).

    A predictor that has seen a noisy value follows it in part. How far it should is known from the standard error
    and from how far predictions are from the values of networks that were held out, which is noise and the predictor's
    own error together. By that the prediction is moved towards the value, or away from it. The predictor's error is
    estimated among networks with similar predictions: a few bad networks that are hard to predict must not make the
    good ones look so too.

    Args:
        measured: What was measured, shape (n,).
        predicted: Predictions by a predictor that has seen the values, shape (n,).
        left_out: Predictions by one that has not seen the value in question, shape (n,).
        errors: Standard errors of the values, shape (n,). They should not depend on the noise of the value itself, or
            lucky values would seem certain.
    """
    residuals = measured - left_out
    total, noise, seen = (
        _among_alike(each, left_out) for each in (residuals**2, errors**2, (predicted - left_out) * residuals)
    )
    followed = np.clip(np.divide(seen, total, out=np.ones_like(total), where=total > 0), 0, 1)
    doubt = np.maximum(total - noise, _LEAST * total)
    variance = doubt + errors**2
    deserved = np.divide(doubt, variance, out=np.ones_like(doubt), where=variance > 0)
    more = np.divide(deserved - followed, 1 - followed, out=np.zeros_like(doubt), where=followed < 1)
    less = np.divide(deserved, followed, out=np.zeros_like(doubt), where=followed > 0)
    towards: Values = predicted + more * (measured - predicted)
    away: Values = left_out + less * (predicted - left_out)
    return np.where(deserved >= followed, towards, away)


def _among_alike(values: Values, predictions: Values) -> Values:
    """For each network the mean of values among those with the most similar predictions, shape (n,)."""
    count = len(values)
    size = min(count, max(_FEWEST, round(_ALIKE * count)))
    order = np.argsort(predictions, kind="stable")
    sums = np.concatenate([[0.0], np.cumsum(values[order])])
    first = np.clip(np.arange(count) - size // 2, 0, count - size)
    means = np.empty(count)
    means[order] = (sums[first + size] - sums[first]) / size
    return means
