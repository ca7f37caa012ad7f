"""Post-processing of a returned network."""

from __future__ import annotations

import copy
import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from nat2.data.dataset import Split
from nat2.errors import ConfigError, RunError
from nat2.supernet import StaticNetwork, calibrate, extract
from nat2.training import lesson
from nat2.training.distill import Teacher, exit_weights, joint_loss
from nat2.training.finetune import Finetuned, finetune
from nat2.training.lesson import Lesson
from nat2.training.optimise import set_learning_rate
from nat2.training.settings import FinetuneSettings, Ramp
from tests.pixels import pixels_of
from tests.training.conftest import (
    PIPELINE,
    SPACE,
    context_of,
    corners,
    kill_after,
    new_network,
    same_weights,
    weights_of,
)

SETTINGS = FinetuneSettings(restart=True, epochs=4, patience=4, batch_size=16, lr=5e-3)
QUICK = dataclasses.replace(SETTINGS, batch_size=48)


def with_one_exit() -> StaticNetwork:
    network = new_network()
    statistics = calibrate(network, SPACE.smallest, [PIPELINE(pixels_of(corners(96)), 12)])
    return extract(network, SPACE.smallest, statistics)


@pytest.fixture
def inherited() -> StaticNetwork:
    return with_one_exit()


def run(inherited: StaticNetwork, state: Path, settings: FinetuneSettings = SETTINGS, **extra: object) -> Finetuned:
    train, val = corners(96), corners(48, seed=1)
    of_context = {name: extra.pop(name) for name in ("say", "tick", "interval", "seed") if name in extra}
    return finetune(inherited, val, settings, context_of(train, state, **of_context), **extra)  # type: ignore[arg-type]


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_fine_tuning_improves_the_network_and_leaves_the_inherited_one_alone(
    tmp_path: Path, inherited: StaticNetwork, optimizer: str
) -> None:
    before = weights_of(inherited)
    lr = {"adamw": 0.01, "sgd": 0.2}[optimizer]  # for batches of 64
    settings = FinetuneSettings(restart=True, epochs=4, patience=4, batch_size=16, lr=lr, optimizer=optimizer)  # type: ignore[arg-type]
    ticks: list[int] = []
    result = run(inherited, tmp_path / "s.safetensors", settings, tick=ticks.append)
    assert result.val_accuracy > result.calibrated_val_accuracy + 0.2
    assert 1 <= result.epochs <= 4
    assert same_weights(weights_of(inherited), before)
    assert not same_weights(weights_of(result.network), before)
    assert sum(ticks) == 8


def test_phase_two_trains_on_all_images_for_as_many_epochs_as_phase_one_found_best(
    tmp_path: Path, inherited: StaticNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[int, int]] = []
    original = Lesson.train

    def record(
        self: Lesson, network: Any, optimizer: Any, split: Split, *rest: Any, part: int, **options: Any
    ) -> float:
        calls.append((len(split), part))
        return original(self, network, optimizer, split, *rest, part=part, **options)

    monkeypatch.setattr(Lesson, "train", record)
    result = run(inherited, tmp_path / "s.safetensors")
    second = [epoch for size, epoch in calls if size == 96 + 48]
    assert [epoch for size, epoch in calls if size == 96] == [0, 1, 2, 3]
    assert second == [4 + epoch for epoch in range(result.epochs)]


def test_no_epochs_leave_the_inherited_weights(tmp_path: Path, inherited: StaticNetwork) -> None:
    result = run(inherited, tmp_path / "s.safetensors", FinetuneSettings(epochs=0))
    assert result.epochs == 0
    assert result.val_accuracy == result.calibrated_val_accuracy
    assert same_weights(weights_of(result.network), weights_of(inherited))


def test_phase_one_stops_when_the_validation_loss_no_longer_falls(tmp_path: Path, inherited: StaticNetwork) -> None:
    settings = FinetuneSettings(restart=True, epochs=50, patience=1, batch_size=16, lr=0.02)
    ticks: list[int] = []
    run(inherited, tmp_path / "s.safetensors", settings, tick=ticks.append)
    assert ticks.count(1) < 60
    assert sum(ticks) == 100


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Finetuned:
    """A fine-tuning that nothing interrupts."""
    return run(with_one_exit(), tmp_path_factory.mktemp("whole") / "s.safetensors", QUICK)


@pytest.mark.parametrize("epochs_before_kill", [1, 4, 5, 7])
def test_a_killed_fine_tuning_ends_with_the_same_weights(
    tmp_path: Path, inherited: StaticNetwork, whole: Finetuned, epochs_before_kill: int
) -> None:
    kill = kill_after(epochs_before_kill)
    with pytest.raises(KeyboardInterrupt):
        run(inherited, tmp_path / "killed.safetensors", QUICK, tick=kill, interval=0.0)
    resumed = run(inherited, tmp_path / "killed.safetensors", QUICK)
    assert same_weights(weights_of(resumed.network), weights_of(whole.network))
    assert (resumed.epochs, resumed.val_accuracy) == (whole.epochs, whole.val_accuracy)


def test_the_seed_decides_how_a_network_is_fine_tuned(
    tmp_path: Path, inherited: StaticNetwork, whole: Finetuned
) -> None:
    for seed, same in ((0, True), (1, False)):
        found = run(inherited, tmp_path / f"{seed}.safetensors", QUICK, seed=seed)
        assert same_weights(weights_of(found.network), weights_of(whole.network)) is same


def test_a_loss_that_is_not_finite_stops_fine_tuning(tmp_path: Path, inherited: StaticNetwork) -> None:
    with torch.no_grad():
        inherited.stem.conv.weight.fill_(float("nan"))
    with pytest.raises(RunError, match=r"fine-tuning \w+ diverged \(loss nan\)"):
        run(inherited, tmp_path / "s.safetensors")


@pytest.mark.parametrize("change", [{"epochs": -1}, {"patience": 0}, {"lr": 0.0}, {"batch_size": 0}])
def test_impossible_settings_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=f"`{next(iter(change))}` of the fine-tuning"):
        FinetuneSettings(**change)  # type: ignore[arg-type]


def with_three_exits() -> StaticNetwork:
    network, exits = new_network(), (1, 2, 3)
    arch = dataclasses.replace(SPACE.smallest, stages=SPACE.largest.stages[:3])
    statistics = calibrate(network, arch, [PIPELINE(pixels_of(corners(96)), 12)], exits=exits)
    return extract(network, arch, statistics, exits=exits)


@pytest.fixture
def several() -> StaticNetwork:
    return with_three_exits()


@pytest.fixture(scope="module")
def joint(tmp_path_factory: pytest.TempPathFactory) -> Finetuned:
    """A joint fine-tuning that nothing interrupts."""
    return run(with_three_exits(), tmp_path_factory.mktemp("joint") / "s.safetensors", QUICK)


@pytest.mark.parametrize("ramp", ["UNIF", "DESC", "ASC", "MIX"])
def test_exits_are_trained_jointly_and_answer_together(tmp_path: Path, several: StaticNetwork, ramp: Ramp) -> None:
    settings = dataclasses.replace(SETTINGS, ramp=ramp, prune=False)
    result = run(several, tmp_path / "s.safetensors", settings)
    assert result.val_accuracy > result.calibrated_val_accuracy + 0.2
    assert result.network.exit_numbers == (1, 2, 3)
    assert result.val_logits.shape == (3, 48, 4)
    assert result.weights == pytest.approx(exit_weights(ramp, 3)[1].tolist())
    alone = [float((logits.argmax(1) == corners(48, seed=1).labels).float().mean()) for logits in result.val_logits]
    assert min(alone) > 0.4  # every exit has learnt


def test_exits_that_do_not_help_are_pruned_and_the_network_is_cut_behind_the_last(
    tmp_path: Path, several: StaticNetwork, joint: Finetuned
) -> None:
    whole = run(several, tmp_path / "whole.safetensors", dataclasses.replace(QUICK, prune=False))
    pruned = joint
    kept = pruned.network.exit_numbers
    assert pruned.val_accuracy >= whole.val_accuracy
    assert pruned.network.arch.exit == kept[-1]
    assert sum(pruned.weights) == pytest.approx(1)
    weights = whole.network.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in pruned.network.state_dict().items())
    narrow = run(several, tmp_path / "n.safetensors", QUICK, allowed=lambda exits: exits == (1, 2))
    assert narrow.network.exit_numbers == (1, 2)


@pytest.mark.parametrize("epochs_before_kill", [1, 3, 6])
def test_a_killed_joint_fine_tuning_ends_the_same(
    tmp_path: Path, several: StaticNetwork, joint: Finetuned, epochs_before_kill: int
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(several, tmp_path / "killed.safetensors", QUICK, tick=kill_after(epochs_before_kill), interval=0.0)
    resumed = run(several, tmp_path / "killed.safetensors", QUICK)
    assert same_weights(weights_of(resumed.network), weights_of(joint.network))
    assert torch.equal(resumed.val_logits, joint.val_logits)
    assert (resumed.epochs, resumed.val_accuracy, resumed.weights) == (joint.epochs, joint.val_accuracy, joint.weights)


def test_a_teacher_changes_what_is_learnt(tmp_path: Path, several: StaticNetwork, joint: Finetuned) -> None:
    settings = dataclasses.replace(QUICK, kd_ratio=1.0)
    taught = run(several, tmp_path / "taught.safetensors", settings, teacher=Teacher(copy.deepcopy(several), "DESC"))
    assert not same_weights(weights_of(joint.network), weights_of(taught.network))
    assert taught.val_accuracy > taught.calibrated_val_accuracy


@pytest.mark.parametrize("anneal", [True, False])
def test_the_learning_rate_of_phase_two_falls_to_its_end_or_follows_phase_one(
    tmp_path: Path, inherited: StaticNetwork, monkeypatch: pytest.MonkeyPatch, anneal: bool
) -> None:
    rates: list[float] = []

    def noted(optimizer: torch.optim.Optimizer, value: float) -> None:
        rates.append(value)
        set_learning_rate(optimizer, value)

    monkeypatch.setattr(lesson, "set_learning_rate", noted)
    settings = dataclasses.replace(SETTINGS, anneal=anneal, lr=2e-3)  # for batches of 64; half of it for 16
    result = run(inherited, tmp_path / "s.safetensors", settings)
    first, second = 4 * 6, result.epochs * (96 + 48) // 16
    assert len(rates) == first + second
    span = second if anneal else 4 * 9
    expected = [1e-8 + (1e-3 - 1e-8) * (1 + math.cos(math.pi * step / span)) / 2 for step in range(second)]
    assert rates[first:] == pytest.approx(expected)


@pytest.mark.parametrize(("smoothing", "ratio"), [(0.0, 0.0), (0.3, 0.0), (0.1, 2.5)])
def test_labels_are_smoothed_and_the_teacher_weighs_as_asked_in_training_alone(
    tmp_path: Path, several: StaticNetwork, monkeypatch: pytest.MonkeyPatch, smoothing: float, ratio: float
) -> None:
    """Validation losses choose the epoch, so they are of the labels as they are."""
    losses: list[tuple[bool, float, float, float]] = []
    original = joint_loss

    def recorded(logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor, **options: Any) -> torch.Tensor:
        loss, targets, exits = original(logits, labels, weights, **options), options.get("targets"), logits.detach()
        soft = 0.0 if targets is None else ratio * sum(F.cross_entropy(each, targets) for each in exits) / 3
        smoothed = sum(F.cross_entropy(each, labels, label_smoothing=smoothing) for each in exits) / 3 + soft
        plain = sum(F.cross_entropy(each, labels) for each in exits) / 3
        losses.append((logits.requires_grad, float(loss.detach()), float(smoothed), float(plain)))
        assert (targets is not None) == (ratio > 0 and logits.requires_grad)
        return loss

    monkeypatch.setattr(lesson, "joint_loss", recorded)
    settings = dataclasses.replace(SETTINGS, epochs=1, label_smoothing=smoothing, kd_ratio=ratio, batch_size=48)
    run(several, tmp_path / "s.safetensors", settings, teacher=Teacher(copy.deepcopy(several), "DESC"))
    training = [(loss, smoothed) for learns, loss, smoothed, _ in losses if learns]
    measured = [(loss, plain) for learns, loss, _, plain in losses if not learns]
    assert len(training) >= 2
    assert len(measured) == 2  # of the inherited weights, and behind the epoch
    for actual, expected in training + measured:
        assert actual == pytest.approx(expected, rel=1e-5)
