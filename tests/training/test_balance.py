"""Every training loop draws every class equally often, if that is asked for."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nat2.data.dataset import Split
from nat2.data.transform import training_batches
from nat2.supernet import StaticNetwork, SuperNetwork, SuperNetworks, calibrate, extract
from nat2.training import lesson, optimise
from nat2.training.adapt import Adaptation
from nat2.training.continued import ContinuedFinetuning
from nat2.training.finetune import finetune
from nat2.training.settings import UNIFORM, AdaptSettings, FinetuneSettings, ShrinkSettings
from nat2.training.shrink import shrink
from nat2.training.teacher import largest_as_teacher
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

COUNTS = (26, 10, 6, 6)
"""Images of each class: unequal, so that even draws do not come of themselves."""
Tick = Callable[[int], object]
Weights = dict[str, torch.Tensor]


def uneven(*, balanced: bool) -> Split:
    every = corners(4 * max(COUNTS))
    kept = torch.cat([torch.nonzero(every.labels == label).flatten()[:count] for label, count in enumerate(COUNTS)])
    return dataclasses.replace(every.part(kept), balanced=balanced)


def shrinking(split: Split, state: Path, tick: Tick | None) -> Weights:
    network = new_network()
    phase = dataclasses.replace(UNIFORM[0], epochs=2, steps=None, warmup_steps=None)
    list(
        shrink(network, SPACE, [phase], ShrinkSettings(batch_size=16), context_of(split, state, tick=tick, interval=0))
    )
    return weights_of(network)


def adapting(split: Split, state: Path, tick: Tick | None) -> Weights:
    networks = SuperNetworks([new_network()])
    teacher = largest_as_teacher(new_network(), SPACE, split, PIPELINE, ShrinkSettings())
    settings = AdaptSettings(epochs=1, batch_size=16)
    context = context_of(split, state, tick=tick, interval=0)
    task = Adaptation(networks, SPACE, teacher, settings, context, generations=2)
    for generation in (1, 2):
        task.advance(generation, SPACE.sample(20, np.random.default_rng(generation)))
    return weights_of(networks)


def start(network: SuperNetwork) -> StaticNetwork:
    statistics = calibrate(network, SPACE.smallest, [PIPELINE(pixels_of(corners(48)), 12)])
    return extract(network, SPACE.smallest, statistics)


def continued(split: Split, state: Path, tick: Tick | None) -> Weights:
    settings = FinetuneSettings(steps=12, batch_size=16, measured_at=0.5)
    context = context_of(split, state, tick=tick, interval=0)
    task = ContinuedFinetuning(start(new_network()), corners(8, seed=1), settings, context)
    return weights_of(task.finished().network)


def fine_tuning(split: Split, state: Path, tick: Tick | None) -> Weights:
    settings = FinetuneSettings(epochs=4, batch_size=16, restart=True)
    context = context_of(split, state, tick=tick, interval=0)
    return weights_of(finetune(start(new_network()), corners(8, seed=1), settings, context).network)


LOOPS = pytest.mark.parametrize("loop", [shrinking, adapting, continued, fine_tuning])


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The labels of the training images that are drawn."""
    labels: list[int] = []

    def noted(split: Split, *options: Any, **more: Any) -> Iterator[torch.Tensor]:
        for indices in training_batches(split, *options, **more):
            labels.extend(split.labels[indices].tolist())
            yield indices

    for module in (optimise, lesson):
        monkeypatch.setattr(module, "training_batches", noted)
    return labels


@LOOPS
def test_every_class_is_drawn_equally_often(
    tmp_path: Path, drawn: list[int], loop: Callable[[Split, Path, Tick | None], Weights]
) -> None:
    split = uneven(balanced=True)
    loop(split, tmp_path / "s.safetensors", None)
    counts = np.bincount(drawn)
    assert counts.sum() >= 6 * 16
    assert counts.max() - counts.min() <= 0.1 * counts.sum()  # the largest class has 26 of the 48 images


@LOOPS
def test_killed_and_resumed_it_ends_with_the_same_weights(
    tmp_path: Path, loop: Callable[[Split, Path, Tick | None], Weights]
) -> None:
    split = uneven(balanced=True)
    whole = loop(split, tmp_path / "whole.safetensors", None)
    with pytest.raises(KeyboardInterrupt):
        loop(split, tmp_path / "s.safetensors", kill_after(4))
    assert same_weights(loop(split, tmp_path / "s.safetensors", None), whole)
