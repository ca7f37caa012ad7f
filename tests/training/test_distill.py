"""Losses of several exits, and distillation."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn import functional as F

from nat2.supernet import StaticNetwork, extract
from nat2.training.distill import Teacher, distillation_loss, ensemble, exit_weights, joint_accuracy, joint_loss
from nat2.training.settings import Ramp
from tests.training.conftest import MACRO, SPACE, new_network


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("ramp", ["DESC", "ASC", "MIX", "UNIF"])
def test_weights_are_positive_and_sum_to_one(ramp: str, count: int) -> None:
    for weights in exit_weights(ramp, count):  # type: ignore[arg-type]
        assert float(weights.sum()) == pytest.approx(1)
        assert (weights > 0).all()


def test_ramps_are_the_published_ones() -> None:
    ascending = torch.tensor([0.0667, 0.1333, 0.2, 0.2667, 0.3333])
    wanted = {"ASC": (ascending, ascending), "DESC": (ascending.flip(0), ascending.flip(0))}
    wanted |= {"MIX": (ascending.flip(0), ascending), "UNIF": (torch.full((5,), 0.2), torch.full((5,), 0.2))}
    for ramp, (losses, outputs) in wanted.items():
        torch.testing.assert_close(exit_weights(ramp, 5)[0], losses, atol=1e-4, rtol=0)  # type: ignore[arg-type]
        torch.testing.assert_close(exit_weights(ramp, 5)[1], outputs, atol=1e-4, rtol=0)  # type: ignore[arg-type]


def test_the_ensemble_adds_raw_logits() -> None:
    logits = torch.randn(3, 4, 5)
    torch.testing.assert_close(
        ensemble(logits, torch.tensor([0.5, 0.3, 0.2])), 0.5 * logits[0] + 0.3 * logits[1] + 0.2 * logits[2]
    )


def test_the_joint_loss_weighs_the_exits() -> None:
    logits, labels = torch.randn(2, 6, 5), torch.arange(6) % 5
    parts = [F.cross_entropy(each, labels, label_smoothing=0.1) for each in logits]
    actual = joint_loss(logits, labels, torch.tensor([0.25, 0.75]), label_smoothing=0.1)
    torch.testing.assert_close(actual, 0.25 * parts[0] + 0.75 * parts[1])


def test_distillation_adds_the_cross_entropy_with_the_teacher() -> None:
    logits, labels = torch.randn(6, 5), torch.arange(6) % 5
    targets = torch.randn(6, 5).softmax(1)
    plain = F.cross_entropy(logits, labels)
    kd = -(targets * logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(distillation_loss(logits, labels, None), plain)
    torch.testing.assert_close(distillation_loss(logits, labels, targets, ratio=0.5), plain + 0.5 * kd)


@pytest.mark.parametrize("ramp", ["ASC", "DESC", "UNIF"])
def test_a_teacher_answers_with_the_ensemble_of_its_exits_and_does_not_learn(ramp: Ramp) -> None:
    network = StaticNetwork(MACRO, SPACE.largest, exits=MACRO.exits).eval()
    images = torch.randn(3, 1, 16, 16)
    targets = Teacher(network, ramp)(images)
    with torch.no_grad():
        expected = ensemble(network(images), exit_weights(ramp, 5)[1]).softmax(1)
    torch.testing.assert_close(targets, expected)
    assert not targets.requires_grad
    assert not any(parameter.requires_grad for parameter in network.parameters())
    torch.testing.assert_close(targets.sum(1), torch.ones(3))


def test_every_exit_is_taught_with_the_weight_of_the_teacher() -> None:
    logits, labels, targets = torch.randn(2, 6, 5), torch.arange(6) % 5, torch.randn(6, 5).softmax(1)
    hard, soft = (torch.stack([F.cross_entropy(each, wanted) for each in logits]) for wanted in (labels, targets))
    weights = torch.tensor([0.25, 0.75])
    torch.testing.assert_close(
        joint_loss(logits, labels, weights, targets=targets, ratio=3.0), (hard + 3 * soft) @ weights
    )
    torch.testing.assert_close(joint_loss(logits, labels, weights, targets=targets), (hard + soft) @ weights)


def test_exits_are_right_together() -> None:
    """The second outvotes the first where it is surer, by its weight."""
    logits = torch.tensor([[[2.0, 0.0], [2.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [0.0, 3.0], [0.0, 1.0]]])
    labels = torch.tensor([0, 1, 1])
    assert joint_accuracy(logits, labels, torch.tensor([0.5, 0.5])) == 1
    assert joint_accuracy(logits, labels, torch.tensor([0.9, 0.1])) == pytest.approx(2 / 3)
    assert joint_accuracy(logits, labels, torch.tensor([0.1, 0.9])) == pytest.approx(2 / 3)


def test_under_autocast_a_teacher_answers_as_its_network_does_and_converts_its_weights_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network = extract(new_network(), SPACE.largest, exits=MACRO.exits)
    teacher, images = Teacher(copy.deepcopy(network), "DESC"), torch.rand(4, 1, 16, 16)
    exact = teacher(images)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected = ensemble(network.eval()(images), exit_weights("DESC", len(MACRO.exits))[1]).softmax(1)
        found = teacher(images)
        monkeypatch.setattr(copy, "deepcopy", None)
        assert torch.equal(teacher(images), found)
    assert torch.equal(found, expected)
    assert not torch.equal(found.float(), exact)
    assert torch.equal(teacher(images), exact)  # its own weights are left alone
