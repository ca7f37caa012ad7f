"""Exits that answer as soon as they are sure."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nat2.deploy.anytime import NEVER, ExitLogits, confidence, curve, running_answers, threshold_for
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
