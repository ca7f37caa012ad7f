"""Fine-tuning in one go."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from nat2.supernet import StaticNetwork, SuperNetwork, calibrate, extract
from nat2.training import lesson
from nat2.training.continued import ContinuedFinetuning
from nat2.training.finetune import Finetuned
from nat2.training.optimise import set_learning_rate
from nat2.training.settings import FinetuneSettings
from tests.pixels import pixels_of
from tests.training.conftest import PIPELINE, SPACE, context_of, corners, kill_after, same_weights, weights_of

SETTINGS = FinetuneSettings(steps=60, batch_size=16, lr=0.02)
EXITS = (1, 2)


@pytest.fixture(params=[(1,), EXITS], ids=["single", "ensemble"])
def inherited(network: SuperNetwork, request: pytest.FixtureRequest) -> StaticNetwork:
    exits: tuple[int, ...] = request.param
    arch = dataclasses.replace(SPACE.smallest, stages=SPACE.smallest.stages * exits[-1])
    statistics = calibrate(network, arch, [PIPELINE(pixels_of(corners(96)), 12)], exits=exits)
    return extract(network, arch, statistics, exits=exits)


def begin(
    inherited: StaticNetwork, state: Path, settings: FinetuneSettings = SETTINGS, **options: Any
) -> ContinuedFinetuning:
    return ContinuedFinetuning(inherited, corners(48, seed=1), settings, context_of(corners(96), state, **options))


def facts(result: Finetuned) -> tuple[object, ...]:
    return result.val_accuracy, result.calibrated_val_accuracy, result.weights, result.epochs


def test_it_improves_the_network_and_leaves_the_inherited_one_alone(tmp_path: Path, inherited: StaticNetwork) -> None:
    before, ticks = weights_of(inherited), list[int]()
    result = begin(inherited, tmp_path / "s.safetensors", tick=ticks.append).finished()
    assert result.val_accuracy > result.calibrated_val_accuracy + 0.2
    assert same_weights(weights_of(inherited), before)
    assert sum(ticks) == 60
    assert result.epochs == 10


def test_validation_images_are_learned_only_after_the_network_was_measured(
    tmp_path: Path, inherited: StaticNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes, rates = list[int](), list[float]()
    original = lesson.Lesson.train

    def train(
        self: lesson.Lesson, network: Any, optimizer: Any, split: Any, *rest: Any, steps: range, part: int
    ) -> float:
        sizes.extend([len(split)] * len(steps))
        return original(self, network, optimizer, split, *rest, steps=steps, part=part)

    def noted(optimizer: torch.optim.Optimizer, value: float) -> None:
        rates.append(value)
        set_learning_rate(optimizer, value)

    monkeypatch.setattr(lesson.Lesson, "train", train)
    monkeypatch.setattr(lesson, "set_learning_rate", noted)
    task = begin(inherited, tmp_path / "s.safetensors")
    measured = task.measured()
    assert sizes == [96] * 36
    assert task.finished().val_accuracy >= measured  # with several exits the best of them are kept
    assert sizes == [96] * 36 + [96 + 48] * 24
    # Batches of 16: AdamW's rate is half of that for 64. A warm-up of two steps, then two cosines, the second lower.
    assert rates[:3] == pytest.approx([0.001, 0.0055, 0.01])
    assert rates[2:36] == sorted(rates[2:36], reverse=True)
    assert rates[36] == pytest.approx(0.005)
    assert rates[36:] == sorted(rates[36:], reverse=True)
    assert rates[35] < 0.0001
    assert rates[-1] < 0.0001


@pytest.mark.parametrize("policy", ["auto", "none"])
def test_what_was_learned_by_heart_is_augmented_in_the_second_phase(
    tmp_path: Path, inherited: StaticNetwork, monkeypatch: pytest.MonkeyPatch, policy: Any
) -> None:
    """By heart, because what is right of the training images is wrong of the validation images."""
    policies, said = list[str | None](), list[str]()
    original = lesson.Lesson.train

    def train(self: lesson.Lesson, *rest: Any, steps: range, part: int) -> float:
        policies.extend([self.pipeline.augmentation.policy] * len(steps))
        return original(self, *rest, steps=steps, part=part)

    monkeypatch.setattr(lesson.Lesson, "train", train)
    augmentation = dataclasses.replace(PIPELINE.augmentation, policy=policy)
    options: dict[str, Any] = {
        "pipeline": dataclasses.replace(PIPELINE, augmentation=augmentation),
        "say": said.append,
    }
    alike = corners(48, seed=1)
    other = dataclasses.replace(alike, labels=(alike.labels + 1) % (int(alike.labels.max()) + 1))
    second: dict[str, str | None] = {}
    for name, val in (("alike", alike), ("other", other)):
        policies.clear()
        context = context_of(corners(96), tmp_path / f"{name}.safetensors", **options)
        ContinuedFinetuning(inherited, val, SETTINGS, context).measured()
        assert set(policies) == {policy}
        ContinuedFinetuning(inherited, val, SETTINGS, context).finished()  # continued in another process
        second[name] = policies[-1]
        assert policies[36:] == [second[name]] * 24
    assert second == {"alike": policy, "other": "randaugment" if policy == "auto" else policy}
    assert ["RandAugment from here on" in line for line in said] == [True] * (policy == "auto")


@pytest.mark.parametrize(
    ("inherited", "steps_before_kill"), [((1,), 26), ((1,), 36), ((1,), 50), (EXITS, 50)], indirect=["inherited"]
)
def test_killed_and_resumed_or_left_and_taken_up_it_ends_with_the_same_weights(
    tmp_path: Path, inherited: StaticNetwork, steps_before_kill: int
) -> None:
    whole = begin(inherited, tmp_path / "whole.safetensors").finished()
    with pytest.raises(KeyboardInterrupt):
        begin(inherited, tmp_path / "s.safetensors", tick=kill_after(steps_before_kill), interval=0.0).finished()
    begin(inherited, tmp_path / "s.safetensors").measured()
    ticks: list[int] = []
    resumed = begin(inherited, tmp_path / "s.safetensors", tick=ticks.append).finished()
    assert same_weights(weights_of(resumed.network), weights_of(whole.network))
    assert facts(resumed) == facts(whole)
    assert sum(ticks) == 24  # those of the second phase; the first was reported when it was measured
    again = begin(inherited, tmp_path / "s.safetensors").finished()
    assert same_weights(weights_of(again.network), weights_of(whole.network))


def test_no_steps_leave_the_inherited_weights(tmp_path: Path, inherited: StaticNetwork) -> None:
    settings = dataclasses.replace(SETTINGS, steps=0, prune=False)
    result = begin(inherited, tmp_path / "s.safetensors", settings).finished()
    assert result.epochs == 0
    assert result.val_accuracy == result.calibrated_val_accuracy
    assert same_weights(weights_of(result.network), weights_of(inherited))


@pytest.mark.parametrize(("optimizer", "batch", "expected"), [("sgd", 16, 0.25), ("adamw", 16, 0.5), ("sgd", 64, 1.0)])
def test_learning_rates_are_for_batches_of_64(optimizer: Any, batch: int, expected: float) -> None:
    settings = FinetuneSettings(lr=0.04, optimizer=optimizer, batch_size=batch)
    assert lesson.Lesson.of(PIPELINE, settings, 0, 1000, None).rate == pytest.approx(0.04 * expected)
