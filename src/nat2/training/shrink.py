"""Extended progressive shrinking: the super-network learns its largest network first, then ever smaller ones."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from nat2.data.dataset import Split
from nat2.data.transform import Pipeline, ResizedImages, steps_per_epoch
from nat2.settings import Phase, ShrinkSettings
from nat2.space.arch import Arch
from nat2.space.space import SearchSpace
from nat2.supernet.calibrate import calibrate
from nat2.supernet.extract import extract
from nat2.supernet.network import SuperNetwork
from nat2.supernet.sort import sort_channels
from nat2.supernet.static import channels_last
from nat2.training.distill import Teacher, distillation_loss, exit_weights, joint_loss
from nat2.training.optimise import ElasticEpoch, Schedule, load_state, save_state, sgd, train_epoch

SAVE_INTERVAL = 5.0  # seconds of training that a kill may cost


def opened_by(phase: Phase, whole: SearchSpace) -> SearchSpace:
    """The part of a search space that is open in a phase."""
    return dataclasses.replace(
        whole,
        kernels=phase.kernels,
        expands=phase.expands,
        depths=phase.depths,
        exits=phase.exits if whole.early_exits else (),
        levels=phase.levels if whole.parallel_blocks else (),
    )


def phases_for(space: SearchSpace, phases: Sequence[Phase]) -> list[Phase]:
    """The phases that mean something to a family: without early exits there is no height to open, nor a level
    without parallel blocks."""
    foreign = {"exits"} if not space.early_exits else set()
    foreign |= {"levels"} if not space.parallel_blocks else set()
    kept: list[Phase] = []
    before: Phase | None = None
    for phase in phases:
        changed = {name for name in _OPENED if before is None or getattr(phase, name) != getattr(before, name)}
        if before is None or not changed or changed - foreign:
            kept.append(phase)
        before = phase
    return kept


_OPENED = ("kernels", "expands", "depths", "exits", "levels", "joint")


def shrink(
    network: SuperNetwork,
    space: SearchSpace,
    split: Split,
    pipeline: Pipeline,
    phases: Sequence[Phase],
    settings: ShrinkSettings,
    *,
    state: Path,
    seed: int,
    report: Callable[[str, float, SuperNetwork], None] = lambda name, loss, network: None,
    tick: Callable[[int], None] = lambda steps: None,
) -> None:
    """Train a super-network by extended progressive shrinking (OFAv2), in place.

    Before each phase but the first, the largest network with all its exits is extracted with calibrated statistics
    and becomes the teacher; before phases that open expand ratios, channels are sorted by importance.

    Args:
        network: Changed in place; holds the result at the end.
        space: The whole search space; phases open parts of it.
        split: Training images.
        pipeline: Turns them into inputs.
        phases: In order; those without meaning to the family are left out.
        settings: What the phases have in common.
        state: File of the resume point; if it exists, training continues from it.
        seed: The run's seed.
        report: Called behind each phase with its name, its last epoch's mean loss, and the network.
        tick: Called with the number of steps just made (or found made).
    """
    phases = phases_for(space, phases)
    optimizer = sgd(network, weight_decay=settings.weight_decay)
    teacher_file = state.with_name(f"{state.stem}-teacher{state.suffix}")
    first, done = 0, 0
    if state.exists():
        metadata = load_state(state, network, optimizer)
        first, done = metadata["phase"], metadata["epochs"]
    for number, phase in enumerate(phases):
        steps = steps_per_epoch(len(split), settings.batch_size)
        if number < first:
            tick(steps * phase.epochs)
            continue
        if done == 0:
            _begin_phase(network, phases, number)
            optimizer.state.clear()
            # The teacher is what this phase begins with; written down, because the network moves on.
            save_state(teacher_file, network, optimizer, {"phase": number})
            save_state(state, network, optimizer, {"phase": number, "epochs": 0})
        teacher = None if number == 0 else _teacher(network, space, split, pipeline, settings, teacher_file)
        epoch_settings = _epoch_of(phase, space, split, pipeline, settings, teacher)
        tick(steps * done)
        saved = time.monotonic()
        scale = epoch_settings.batch_size / 64
        schedule = Schedule(
            phase.lr * scale, steps * phase.epochs, round(steps * phase.warmup_epochs), 0.1 * phase.lr * scale
        )
        loss = float("nan")
        for epoch in range(done, phase.epochs):
            loss = train_epoch(
                network,
                optimizer,
                epoch_settings,
                seed=seed,
                purpose=("shrink", number, epoch),
                schedule=schedule,
                first_step=epoch * steps,
                tick=lambda: tick(1),
            )
            if time.monotonic() - saved > SAVE_INTERVAL and epoch + 1 < phase.epochs:
                save_state(state, network, optimizer, {"phase": number, "epochs": epoch + 1})
                saved = time.monotonic()
        done = 0
        save_state(state, network, optimizer, {"phase": number + 1, "epochs": 0})
        report(phase.name, loss, network)


def _begin_phase(network: SuperNetwork, phases: Sequence[Phase], number: int) -> None:
    before = phases[number - 1].expands if number else ()
    if number and phases[number].expands != before:
        sort_channels(network, supported=before)


def _teacher(
    network: SuperNetwork,
    space: SearchSpace,
    split: Split,
    pipeline: Pipeline,
    settings: ShrinkSettings,
    weights: Path,
) -> Teacher:
    """The largest network with all its exits, as it was when the phase began."""
    source = channels_last(SuperNetwork(network.macro), pipeline.device)
    load_state(weights, source, sgd(source, weight_decay=0))
    return largest_as_teacher(source, space, split, pipeline, settings)


def largest_as_teacher(
    network: SuperNetwork, space: SearchSpace, split: Split, pipeline: Pipeline, settings: ShrinkSettings
) -> Teacher:
    """Extract the largest network with all its exits, its statistics calibrated at its own resolution."""
    exits = network.macro.exits
    images = ResizedImages(calibration_images(split, settings.calibration_images), pipeline)
    statistics = calibrate(network, space.largest, images.batches(space.largest.resolution), exits=exits)
    return Teacher(extract(network, space.largest, statistics, exits=exits), settings.ramp)


def calibration_images(split: Split, count: int) -> Split:
    """The training images for batch-norm statistics: the same evenly spread `count` on every call."""
    indices = torch.linspace(0, len(split) - 1, min(count, len(split))).round().long()
    return Split(split.pixels[indices], split.labels[indices])


def _epoch_of(
    phase: Phase,
    space: SearchSpace,
    split: Split,
    pipeline: Pipeline,
    settings: ShrinkSettings,
    teacher: Teacher | None,
) -> ElasticEpoch:
    opened = opened_by(phase, space)
    exits = opened.largest.exit if phase.joint and space.early_exits else None
    losses, _ = exit_weights(settings.ramp, exits or 1)

    def loss(logits: torch.Tensor, labels: torch.Tensor, targets: torch.Tensor | None) -> torch.Tensor:
        if exits is not None:
            return joint_loss(logits, labels, losses, label_smoothing=settings.label_smoothing)
        return distillation_loss(
            logits, labels, targets, ratio=settings.kd_ratio, label_smoothing=settings.label_smoothing
        )

    def sample(generator: np.random.Generator, resolution: int) -> Arch:
        if phase.joint:
            return dataclasses.replace(opened.largest, resolution=resolution)
        return opened.sample_elastic(generator, resolution=resolution)

    return ElasticEpoch(
        split=split,
        pipeline=pipeline,
        batch_size=min(settings.batch_size, len(split)),
        resolutions=space.resolutions,
        sample=sample,
        loss=loss,
        subnets=phase.subnets,
        exits=tuple(range(1, exits + 1)) if exits else None,
        teacher=teacher if settings.kd_ratio else None,
    )
