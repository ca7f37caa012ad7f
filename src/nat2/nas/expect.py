"""The values to expect of networks, from noisy measurements and predictions of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
_LEAST = 0.05  # of the variance of the residuals is the predictor's in any case: noise may be overstated


def expected(measured: Values, predicted: Values, left_out: Values, errors: Values) -> Values:
    """The values to expect if networks were measured once more, shape (n,) (empirical Bayes).

    A predictor that has seen a noisy value follows it in part. How far it should is known from the standard error
    and from how far predictions are from the values of networks that were held out, which is noise and the predictor's
    own error together. By that the prediction is moved towards the value, or away from it.

    Args:
        measured: What was measured, shape (n,).
        predicted: Predictions by a predictor that has seen the values, shape (n,).
        left_out: Predictions by one that has not seen the value in question, shape (n,).
        errors: Standard errors of the values, shape (n,).
    """
    residuals = measured - left_out
    total = float(np.mean(residuals**2))
    if not total:
        return measured
    followed = float(np.clip(np.mean((predicted - left_out) * residuals) / total, 0, 1))
    doubt = max(total - float(np.mean(errors**2)), _LEAST * total)
    deserved = doubt / (doubt + errors**2)
    if followed == 1:
        return left_out + deserved * residuals
    more = np.clip((deserved - followed) / (1 - followed), 0, 1)
    less = np.clip(deserved / max(followed, 1e-12), 0, 1)
    towards: Values = predicted + more * (measured - predicted)
    away: Values = left_out + less * (predicted - left_out)
    return np.where(deserved >= followed, towards, away)
