"""Exits that answer as soon as they are sure."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nat2.deploy.anytime import NEVER, ExitLogits, OperatingPoint, confidence, curve, running_answers, threshold_for
from nat2.errors import ConfigError

MACS = (10.0, 30.0, 60.0)


def answered(seed: int, count: int = 40) -> ExitLogits:
    """Later exits are right more often."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 4, (count,), generator=generator)
    right = torch.nn.functional.one_hot(labels, 4) * torch.tensor([1.0, 2.0, 3.0])[:, None, None]
    return ExitLogits(torch.randn(3, count, 4, generator=generator) + right, labels)


WEIGHTS = torch.tensor([0.2, 0.3, 0.5])


def test_running_answers_are_weighted_means_of_the_exits_so_far() -> None:
    logits = answered(0).logits
    answers = running_answers(logits, WEIGHTS)
    torch.testing.assert_close(answers[0], logits[0])
    torch.testing.assert_close(answers[1], (0.2 * logits[0] + 0.3 * logits[1]) / 0.5)
    torch.testing.assert_close(answers[2], 0.2 * logits[0] + 0.3 * logits[1] + 0.5 * logits[2])


@given(st.integers(0, 500), st.floats(0, 1.05))
def test_each_image_is_answered_by_the_first_exit_that_is_sure(seed: int, threshold: float) -> None:
    told = answered(seed)
    answers = running_answers(told.logits, WEIGHTS)
    right, spent = 0, 0.0
    for image, label in enumerate(told.labels.tolist()):
        for number in range(3):
            if number == 2 or float(confidence(answers[number, image])) >= threshold:
                right += int(answers[number, image].argmax()) == label
                spent += MACS[number]
                break
    accuracy, macs = told.at(threshold, WEIGHTS, MACS)
    assert accuracy == pytest.approx(right / 40)
    assert macs == pytest.approx(spent / 40)


def test_the_curve_runs_from_the_first_exit_alone_to_all_of_them() -> None:
    val, test = answered(1, 300), answered(2, 300)
    points = curve(val, test, WEIGHTS, MACS)
    assert points[0].macs == points[0].val_macs == 10
    assert (points[-1].threshold, points[-1].macs) == (NEVER, 60)
    assert [point.val_macs for point in points] == sorted(point.val_macs for point in points)
    assert len(points) > 10
    whole = (running_answers(test.logits, WEIGHTS)[-1].argmax(1) == test.labels).double().mean()
    assert points[-1].test_accuracy == pytest.approx(float(whole))


@pytest.mark.parametrize("wanted", [10, 25, 47.5, 60, 1000])
def test_the_threshold_for_a_mean_cost_keeps_it_and_loses_as_little_as_possible(wanted: float) -> None:
    val = answered(1, 300)
    points = curve(val, answered(2, 300), WEIGHTS, MACS)
    accuracy, macs = val.at(threshold_for(points, wanted), WEIGHTS, MACS)
    assert macs <= wanted
    assert accuracy == max(point.val_accuracy for point in points if point.val_macs <= wanted)


def test_a_cost_below_the_first_exit_is_refused() -> None:
    points = curve(answered(1), answered(2), WEIGHTS, MACS)
    with pytest.raises(ConfigError, match="no threshold has 9 MACs in the mean; the least is 10"):
        threshold_for(points, 9)
    with pytest.raises(ConfigError, match=r"no threshold has 9 MACs in the mean$"):
        threshold_for((), 9)


def scaled(answers: ExitLogits, factor: float) -> ExitLogits:
    """The same answers, given with more or less confidence."""
    return ExitLogits(answers.logits * factor, answers.labels)


def test_thresholds_are_chosen_on_validation_images_alone() -> None:
    """Whatever is said of the test images, the same operating points come of it."""
    val = answered(1, 300)
    curves = [curve(val, test, WEIGHTS, MACS) for test in (answered(2, 300), scaled(answered(2, 300), 9), answered(3))]
    prediction_quality = [{(point.val_macs, point.val_accuracy): None for point in points} for points in curves]
    assert [*prediction_quality[0]] == [*prediction_quality[1]] == [*prediction_quality[2]]
    for points in curves:
        for point in points:
            assert (point.val_accuracy, point.val_macs) == val.at(point.threshold, WEIGHTS, MACS)


def test_the_test_images_are_those_that_the_curve_reports() -> None:
    val, test = answered(1, 300), scaled(answered(2, 300), 0.3)
    for point in curve(val, test, WEIGHTS, MACS):
        assert (point.test_accuracy, point.macs) == test.at(point.threshold, WEIGHTS, MACS)


def test_thresholds_are_evenly_spread_over_how_sure_the_exits_before_the_last_are() -> None:
    val = answered(1, 300)
    sure = confidence(running_answers(val.logits, WEIGHTS))[:-1].double()
    points = curve(val, answered(2, 300), WEIGHTS, MACS)
    shares = [float((sure < point.threshold).double().mean()) for point in points[1:-1]]
    assert shares == pytest.approx([number / 23 for number in range(24)][-len(shares) :], abs=2 / 600)
    assert len(shares) >= 23


def test_of_points_that_cost_the_same_one_is_kept() -> None:
    """An exit that is never unsure: every threshold up to its confidence gives the same point."""
    logits = torch.nn.functional.one_hot(torch.arange(40) % 4, 4).float().expand(3, 40, 4) * 100
    points = curve(ExitLogits(logits, torch.arange(40) % 4), ExitLogits(logits, torch.arange(40) % 4), WEIGHTS, MACS)
    assert [(point.macs, point.val_macs) for point in points] == [(10, 10), (60, 60)]


def test_of_thresholds_that_are_as_accurate_the_cheapest_is_chosen() -> None:
    def point(threshold: float, macs: float, accuracy: float) -> OperatingPoint:
        # On test images it is the other way round: they decide nothing.
        return OperatingPoint(
            threshold, macs=100 - macs, val_macs=macs, val_accuracy=accuracy, test_accuracy=1 - accuracy
        )

    points = [point(0.1, 10, 0.5), point(0.2, 20, 0.7), point(0.3, 30, 0.7), point(0.4, 40, 0.9)]
    assert [threshold_for(points, macs) for macs in (10, 19, 20, 39, 40, 99)] == [0.1, 0.1, 0.2, 0.2, 0.4, 0.4]
