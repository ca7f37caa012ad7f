"""Schedules, the epoch, and its resume point."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from nat2.data.dataset import Split
from nat2.data.transform import Pipeline
from nat2.errors import CheckpointError, RunError
from nat2.supernet import SuperNetwork
from nat2.supernet.static import channels_last
from nat2.training.distill import distillation_loss
from nat2.training.optimise import (
    ElasticEpoch,
    Schedule,
    load_state,
    mix,
    mixed_loss,
    save_state,
    set_learning_rate,
    sgd,
    train_epoch,
)
from tests.training.conftest import PIPELINE, SPACE, context_of, same_weights, weights_of


def test_the_learning_rate_rises_then_falls_along_a_cosine() -> None:
    schedule = Schedule(1.0, 110, warmup_steps=10, warmup_from=0.1, final=0.01)
    values = [schedule(step) for step in range(111)]
    assert values[0] == pytest.approx(0.1)
    assert values[10] == pytest.approx(1.0)
    assert values[60] == pytest.approx(0.505)
    assert values[110] == pytest.approx(0.01)
    assert values[:11] == sorted(values[:11])
    assert values[10:] == sorted(values[10:], reverse=True)


def test_without_a_start_the_warm_up_is_constant() -> None:
    assert {Schedule(0.3, 20, warmup_steps=5)(step) for step in range(6)} == {0.3}


def test_norms_and_biases_do_not_decay(network: SuperNetwork) -> None:
    optimizer = sgd(network, weight_decay=0.1)
    plain = {id(p) for group in optimizer.param_groups if not group["weight_decay"] for p in group["params"]}
    for name, parameter in network.named_parameters():
        assert (id(parameter) in plain) == ("bn" in name or name.endswith("bias")), name


def epoch(**changes: object) -> ElasticEpoch:
    return ElasticEpoch(
        **{  # type: ignore[arg-type]
            "batch_size": 16,
            "resolutions": SPACE.resolutions,
            "sample": lambda generator, resolution, number: SPACE.sample_elastic(generator, resolution=resolution),
            "loss": distillation_loss,
            **changes,
        }
    )


def train(network: SuperNetwork, split: Split, *, pipeline: Pipeline = PIPELINE, **changes: object) -> float:
    optimizer = sgd(network, weight_decay=0)
    settings, context = epoch(**changes), context_of(split, pipeline=pipeline)
    return train_epoch(
        network, optimizer, settings, context, purpose=("test",), schedule=Schedule(0.05, 6), first_step=0
    )


def test_an_epoch_is_decided_by_seed_and_purpose(network: SuperNetwork, split: Split) -> None:
    start = weights_of(network)
    first = train(network, split, subnets=2)
    trained = weights_of(network)
    network.load_state_dict(start)
    assert train(network, split, subnets=2) == first
    assert same_weights(weights_of(network), trained)
    assert not same_weights(trained, start)


def test_all_sub_networks_of_a_batch_share_its_resolution(network: SuperNetwork, split: Split) -> None:
    seen: list[int] = []

    def sample(generator: object, resolution: int, number: int) -> object:
        seen.append(resolution)
        return SPACE.smallest

    train(network, split, subnets=3, sample=sample)
    batches = [set(seen[start : start + 3]) for start in range(0, len(seen), 3)]
    assert len(batches) == 6
    assert all(len(batch) == 1 for batch in batches)
    assert set(seen) == {12, 16}


def test_gradients_are_clipped(network: SuperNetwork, split: Split) -> None:
    norms: list[float] = []
    original = torch.optim.SGD.step

    class Recording(torch.optim.SGD):
        def step(self, closure: object = None) -> None:  # type: ignore[override]
            gradients = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
            norms.append(float(torch.cat([g.flatten() for g in gradients]).norm()))
            original(self)

    optimizer = Recording(network.parameters(), lr=0.0)
    schedule = Schedule(1e-4, 6)
    train_epoch(network, optimizer, epoch(clip=0.5), context_of(split), purpose=("t",), schedule=schedule, first_step=0)
    assert max(norms) <= 0.5 + 1e-4


def test_a_loss_that_is_not_finite_stops_training(network: SuperNetwork, split: Split) -> None:
    def loss(logits: torch.Tensor, labels: torch.Tensor, targets: object) -> torch.Tensor:
        return logits.sum() * math.nan

    with pytest.raises(RunError, match=r"training diverged in test \(loss nan\).*learning rate"):
        train(network, split, loss=loss)


def test_weights_that_are_not_finite_stop_training_although_the_loss_was(network: SuperNetwork, split: Split) -> None:
    optimizer = sgd(network, weight_decay=0)
    settings, schedule = epoch(batch_size=96), Schedule(math.inf, 1)  # one step: its loss is measured before it
    with pytest.raises(RunError, match=r"training diverged in test \(loss \d"):
        train_epoch(network, optimizer, settings, context_of(split), purpose=("test",), schedule=schedule, first_step=0)


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_a_resumed_optimiser_goes_on_as_if_nothing_had_happened(tmp_path: Path, kind: str) -> None:
    def steps(model: torch.nn.Module, optimizer: torch.optim.Optimizer, numbers: range) -> None:
        for number in numbers:
            optimizer.zero_grad()
            model(torch.full((2, 4), float(number))).pow(2).sum().backward()
            set_learning_rate(optimizer, 0.01)
            optimizer.step()

    def build() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        model = torch.nn.Linear(4, 3)
        return model, sgd(model, weight_decay=0.1) if kind == "sgd" else torch.optim.AdamW(model.parameters())

    whole, whole_optimizer = build()
    steps(whole, whole_optimizer, range(6))
    first, first_optimizer = build()
    steps(first, first_optimizer, range(3))
    save_state(tmp_path / "state.safetensors", first, first_optimizer, {"epoch": 3})
    second, second_optimizer = build()
    assert load_state(tmp_path / "state.safetensors", second, second_optimizer) == {"epoch": 3}
    steps(second, second_optimizer, range(3, 6))
    assert same_weights(weights_of(second), weights_of(whole))


def test_momentum_that_is_read_has_the_memory_layout_of_its_parameter(tmp_path: Path, network: SuperNetwork) -> None:
    """Also that of the stem, of which an image with one channel tells nothing."""
    optimizer = sgd(channels_last(network), weight_decay=0)
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    before = {name: optimizer.state[each]["momentum_buffer"] for name, each in network.named_parameters()}
    save_state(tmp_path / "state.safetensors", network, optimizer, {})
    load_state(tmp_path / "state.safetensors", network, optimizer)
    for name, parameter in network.named_parameters():
        momentum = optimizer.state[parameter]["momentum_buffer"]
        assert momentum.stride() == parameter.stride(), name
        assert torch.equal(momentum, before[name])


def test_a_damaged_resume_point_is_refused(tmp_path: Path, network: SuperNetwork) -> None:
    path = tmp_path / "state.safetensors"
    optimizer = sgd(network, weight_decay=0)
    save_state(path, network, optimizer, {})
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="not a readable weights file"):
        load_state(path, network, optimizer)


def test_mixed_images_keep_their_share_and_so_do_their_labels() -> None:
    images, labels = torch.rand(6, 1, 2, 2, generator=torch.Generator().manual_seed(0)), torch.arange(6)
    generator = np.random.default_rng(0)
    mixed, kept, others = mix(images, labels, 0.4, generator)
    assert 0 < kept < 1
    assert sorted(others.tolist()) == labels.tolist()
    assert (others != labels).all()
    torch.testing.assert_close(mixed, kept * images + (1 - kept) * images[others])
    loss = mixed_loss(lambda chosen: chosen.double().mean() ** 2, labels[:2], others[:2], kept)
    assert float(loss) == pytest.approx(kept * 0.5**2 + (1 - kept) * float(others[:2].double().mean()) ** 2)
    shares = [mix(images, labels, 0.4, generator)[1] for _ in range(400)]
    assert np.mean(shares) == pytest.approx(0.5, abs=0.06)  # neither of the two is preferred
    assert np.std(shares) == pytest.approx((1 / (4 * 1.8)) ** 0.5, abs=0.05)
    same, whole, unchanged = mix(images, labels, 0.0, generator)
    assert (same is images, whole, unchanged is labels) == (True, 1.0, True)
    assert float(mixed_loss(lambda chosen: chosen.double().sum(), labels, others, 1.0)) == 15


def test_an_epoch_learns_from_mixed_images_with_both_of_their_labels(network: SuperNetwork, split: Split) -> None:
    asked: list[torch.Tensor] = []

    def loss(logits: torch.Tensor, labels: torch.Tensor, targets: object) -> torch.Tensor:
        asked.append(labels)
        return distillation_loss(logits, labels, None)

    mixing = dataclasses.replace(PIPELINE, augmentation=dataclasses.replace(PIPELINE.augmentation, mixup=0.5))
    train(network, split, pipeline=mixing, loss=loss)
    assert len(asked) == 2 * 6
    for labels, others in zip(asked[::2], asked[1::2], strict=True):
        assert sorted(labels.tolist()) == sorted(others.tolist())
        assert not torch.equal(labels, others)


def test_the_teacher_sees_what_the_network_sees_and_its_answer_reaches_the_loss(
    network: SuperNetwork, split: Split
) -> None:
    seen: list[torch.Tensor] = []
    taught: list[object] = []

    def teacher(images: torch.Tensor) -> torch.Tensor:
        seen.append(images)
        return torch.full((len(images), 4), 0.25)

    def loss(logits: torch.Tensor, labels: torch.Tensor, targets: object) -> torch.Tensor:
        taught.append(targets)
        return distillation_loss(logits, labels, None)

    train(network, split, teacher=teacher, loss=loss, subnets=2)
    assert len(seen) == 6  # once a batch, however many sub-networks learn from it
    assert len(taught) == 12
    assert all(torch.equal(targets, torch.full((16, 4), 0.25)) for targets in taught)  # type: ignore[arg-type]


def test_gradients_of_all_sub_networks_of_a_step_are_added_clipped_or_not(network: SuperNetwork, split: Split) -> None:
    start, ends = weights_of(network), []
    for clip in (None, 1e9):
        network.load_state_dict(start)
        train(network, split, subnets=2, clip=clip)
        ends.append(weights_of(network))
    assert same_weights(*ends)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("purpose", ["a", "b"])
def test_seed_and_purpose_decide_what_is_drawn(network: SuperNetwork, split: Split, seed: int, purpose: str) -> None:
    drawn: list[int] = []

    def sample(generator: np.random.Generator, resolution: int, number: int) -> object:
        drawn.append(int(generator.integers(10**9)))
        return SPACE.smallest

    def once(seed: int, purpose: str) -> list[int]:
        drawn.clear()
        train_epoch(
            network, sgd(network, weight_decay=0), epoch(sample=sample, batch_size=48), context_of(split, seed=seed),
            purpose=(purpose,), schedule=Schedule(0.0, 6), first_step=0,
        )  # fmt: skip
        return list(drawn)

    first = once(seed, purpose)
    assert once(seed, purpose) == first
    assert once(seed + 1, purpose) != first
    assert once(seed, purpose + "c") != first


def test_a_schedule_of_one_step_begins_at_its_base_and_stays_at_its_end() -> None:
    schedule = Schedule(1.0, 1, final=0.25)
    assert [schedule(step) for step in range(3)] == pytest.approx([1.0, 0.25, 0.25])
