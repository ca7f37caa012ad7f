"""Noisy values: what is only lucky is not taken for good."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from nat2.errors import ConfigError
from nat2.nas.expect import expected
from nat2.nas.nat import search
from nat2.nas.objectives import Objective, ShareNoise
from nat2.nas.search import Search
from nat2.nas.settings import SearchSettings
from nat2.seeds import numpy_generator
from nat2.space import IntegerSpace

SPACE = IntegerSpace((5,) * 6)
NOISE = 0.05


def worlds(count: int, doubt: float, noise: float, followed: float) -> tuple[np.ndarray, ...]:
    """Truth, measured values, predictions that follow them in part, and predictions of networks held out."""
    generator = np.random.default_rng(0)
    truth = generator.normal(size=count)
    measured = truth + noise * generator.normal(size=count)
    left_out = truth + doubt * generator.normal(size=count)
    return truth, measured, left_out + followed * (measured - left_out), left_out


def rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values**2)))


@pytest.mark.parametrize("followed", [0.0, 0.3, 0.8, 1.0])
@pytest.mark.parametrize(("doubt", "noise"), [(0.1, 0.3), (0.3, 0.1), (0.2, 0.2)])
def test_whatever_a_predictor_follows_the_error_is_the_least_there_is(
    doubt: float, noise: float, followed: float
) -> None:
    """Two independent estimates, weighted by their variances."""
    truth, measured, predicted, left_out = worlds(4000, doubt, noise, followed)
    found = expected(measured, predicted, left_out, np.full(4000, noise))
    assert rms(found - truth) == pytest.approx(doubt * noise / math.hypot(doubt, noise), rel=0.05)


def test_exact_values_stay_and_unknown_ones_are_predicted() -> None:
    truth, measured, predicted, left_out = worlds(500, 0.3, 0.0, 0.4)
    np.testing.assert_allclose(expected(measured, predicted, left_out, np.zeros(500)), truth)
    mostly = expected(measured, predicted, left_out, np.full(500, 100.0))  # more noise than there can be
    assert np.abs(mostly - left_out).max() < 0.06 * np.abs(measured - left_out).max()
    np.testing.assert_array_equal(expected(measured, measured, measured, np.full(500, 0.1)), measured)


def test_of_two_values_the_one_that_is_less_certain_is_moved_more() -> None:
    _, measured, predicted, left_out = worlds(400, 0.2, 0.2, 0.3)
    errors = np.where(np.arange(400) < 200, 0.02, 0.28)
    moved = np.abs(expected(measured, predicted, left_out, errors) - measured) / np.abs(measured - left_out)
    assert moved[:200].max() < 0.2 < 0.5 < moved[200:].min()


def test_the_standard_error_of_a_share_is_binomial() -> None:
    errors = ShareNoise(100)(np.array([0.0, 0.1, 0.5, 1.0]))
    np.testing.assert_allclose(errors[1:3], np.sqrt([0.09 / 100, 0.25 / 100]), rtol=0.02)
    assert errors[0] == pytest.approx(errors[3])
    assert 0 < errors[0] < errors[1]
    with pytest.raises(ConfigError, match="at least 1 image"):
        ShareNoise(0)


@pytest.mark.parametrize("noise", [-0.1, math.nan, math.inf, "a lot", None])
def test_a_noise_is_a_standard_error(noise: Any) -> None:
    with pytest.raises(ConfigError, match="`noise` of loss must be a standard error"):
        Objective(name="loss", noise=noise)


def test_what_is_exact_has_no_noise() -> None:
    with pytest.raises(ConfigError, match="size is exact and has no noise"):
        Objective(name="size", cost="exact", noise=0.1)


@pytest.mark.parametrize("errors", [lambda values: -values, lambda values: 0.1, lambda values: values[:1]])
def test_a_function_of_the_noise_gives_one_standard_error_per_value(errors: Any) -> None:
    with pytest.raises(ConfigError, match="`noise` of loss must give a finite standard error"):
        Objective(name="loss", noise=errors).standard_errors(np.array([0.1, 0.2]))


def loss(arch: tuple[int, ...]) -> float:
    return 0.1 + 0.02 * sum((gene - 4) ** 2 for gene in arch) / 6


def noisy(arch: tuple[int, ...]) -> float:
    return loss(arch) + NOISE * float(numpy_generator(0, str(arch)).normal())


def found(noise: float) -> Any:
    objectives = (Objective(name="loss", noise=noise), Objective(name="size", cost="exact"))
    with Search(
        SPACE,
        objectives,
        exact={"size": lambda genomes: genomes.sum(axis=1)},
        settings=SearchSettings(archive=24, candidates=8, generations=2, predictor="bayesian", inner_generations=8),
    ) as searched:
        return searched.run(noisy)


def lost(front: Any) -> float:
    """By how much networks are worse than they are said to be, on average."""
    return float(np.mean([loss(each.arch) - each["loss"] for each in front]))


def test_a_front_keeps_what_it_says_when_it_is_measured_again() -> None:
    as_they_are, known = found(0.0), found(NOISE)
    assert lost(as_they_are.front) > 0.02
    assert abs(lost(known.front)) < lost(as_they_are.front) / 2
    assert abs(lost([known.best()])) < lost([as_they_are.best()]) / 2


def test_measurements_are_kept_as_they_were_made() -> None:
    result = found(NOISE)
    assert all(each["loss"] == noisy(each.arch) for each in result.evaluated)
    assert [each.arch for each in result.expected] == [each.arch for each in result.evaluated]
    assert {each.arch for each in result.front} <= {each.arch for each in result.expected}
    assert any(each["loss"] != noisy(each.arch) for each in result.front)
    assert all(each["size"] == sum(each.arch) for each in result.front)


def test_without_noise_values_are_taken_as_they_are() -> None:
    result = found(0.0)
    assert result.expected == result.evaluated
    assert all(each["loss"] == noisy(each.arch) for each in result.front)


def test_a_search_in_noise_continues_as_it_would_have(tmp_path: Any) -> None:
    objectives = (Objective(name="loss", noise=NOISE), Objective(name="gain", direction="max"))

    def evaluate(arch: tuple[int, ...]) -> dict[str, float]:
        return {"loss": noisy(arch), "gain": float(sum(arch))}

    def searched(archive: str, generations: int) -> Any:
        settings = SearchSettings(
            archive=12, drawn=0, candidates=4, generations=generations, predictor="bayesian", inner_generations=4
        )
        return search(SPACE, evaluate, objectives, settings=settings, archive=tmp_path / archive)

    searched("in parts", 1)
    assert searched("in parts", 2).front == searched("at once", 2).front
