"""How fast this machine does the parts of a run: a few steps of each kind are made and timed."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from nat2.data.dataset import Split
from nat2.data.transform import steps_per_epoch
from nat2.nas.feasible import exact
from nat2.pipeline.context import RunContext
from nat2.pipeline.finetune import variants
from nat2.progress import Reporter
from nat2.runs.plan import RunPlan
from nat2.seeds import numpy_generator, torch_generator
from nat2.space import Arch, SearchSpace
from nat2.supernet import SuperNetwork, SuperNetworks, extract
from nat2.supernet.static import channels_last
from nat2.training.adapt import Adaptation
from nat2.training.context import TrainingContext
from nat2.training.length import batch_size_for
from nat2.training.lesson import Lesson, optimizer_of
from nat2.training.optimise import Schedule
from nat2.training.settings import FinetuneSettings
from nat2.training.shrink import corner_networks, opened_by, phases_for, shrink
from nat2.training.teacher import largest_as_teacher

_STEPS = 4  # of each kind of training are made; the first is slower and does not count
_EVALUATIONS = 4
_NETWORK_SECONDS, _PT2_SECONDS = 2.5, 3.0  # of a returned network: test, export, latency; and as a program of torch
_GENERATION_SECONDS = 2.0  # prediction and evolution; see benchmarks/search.py
_KEPT = 0.8  # of the networks to return are typically not beaten before their fine-tuning ends


@dataclass(frozen=True)
class Speed:
    """Seconds that the parts of a run take on this machine."""

    phases: tuple[tuple[float, ...], ...]
    """One step of each phase of the super-network's training, for each width."""
    evaluation: float
    """One evaluation of a sub-network on the validation images; divided by the number of processes that share them."""
    measuring: float
    """What is measured once for each network, such as its latency."""
    adaptation: float
    """One step of the adaptation; 0 without any."""
    finetuning: tuple[float, ...]
    """One step of a network's fine-tuning, for each of its variants; divided in the same way."""


def measure_speed(context: RunContext, networks: Sequence[SuperNetwork]) -> Speed:
    """Train, evaluate and fine-tune a little; all processes together.

    Args:
        context: Of the run, or of one in a temporary folder.
        networks: Super-networks of each width, narrowest first; their weights change.
    """
    phases = []
    for network in networks:
        space = dataclasses.replace(context.space, widths=(network.macro.width,))
        phases.append(tuple(_phase_seconds(context, network, space)))
    evaluating, measuring = _evaluation_seconds(context, networks)
    processes = context.processes.size
    adapts = context.config.adapt.adapts and context.config.search.generations
    return Speed(
        phases=tuple(phases),
        evaluation=evaluating / processes,
        measuring=measuring,
        adaptation=_adaptation_seconds(context, networks) if adapts else 0.0,
        finetuning=tuple(seconds / processes for seconds in _finetuning_seconds(context, networks[0])),
    )


def stage_seconds(plan: RunPlan, images: int, speed: Speed) -> dict[str, float]:
    """How long each stage of a run takes, as far as can be known before it.

    Args:
        plan: The run.
        images: Training images.
        speed: Of this machine.
    """
    config, training = plan.config, 0.0
    batch_size = batch_size_for(config.shrink.batch_size, images)
    for macro, seconds in zip(plan.macros, speed.phases, strict=True):
        space = dataclasses.replace(plan.space, widths=(macro.width,))
        for phase, each in zip(phases_for(space, config.phases), seconds, strict=True):
            length = phase.length(images, batch_size)
            training += length.steps * each
            if config.shrink.corners and length.passes > 1:
                corners = corner_networks(opened_by(phase, space), config.shrink.corners, numpy_generator(0, "corners"))
                training += length.passes * len(corners) * speed.evaluation
    search, adapts = config.search, config.adapt.adapts
    saved = sum(count * (1 - share) for count, share in search.rungs)
    searching = (search.evaluations(adapts=adapts) - saved) * speed.evaluation + search.networks * speed.measuring
    searching += search.generations * _GENERATION_SECONDS
    if adapts:
        searching += search.generations * config.adapt.length(images).steps * speed.adaptation
    finetuning = config.networks * finetuning_seconds(config.finetune, images, speed.finetuning, pt2=config.pt2)
    return {"train": training, "search": searching, "fine-tune and export": finetuning}


def finetuning_seconds(settings: FinetuneSettings, images: int, steps: Sequence[float], *, pt2: bool = False) -> float:
    """How long the fine-tuning, test and export of one network take.

    Args:
        settings: How it is fine-tuned.
        images: Training images.
        steps: Seconds of a step, for each of its variants.
        pt2: Whether it is exported as a program of torch too.
    """
    if settings.restart:
        made = 2.0 * settings.length(images).steps
    else:
        first, second = settings.phases(images)
        made = first.steps + _KEPT * second.steps
    return sum(made * each + closing_seconds(pt2=pt2) for each in steps)


def closing_seconds(*, pt2: bool = False) -> float:
    """Of the test, export and latency of one network."""
    return _NETWORK_SECONDS + _PT2_SECONDS * pt2


def untrained(context: RunContext, number: int) -> SuperNetwork:
    """The super-network of a width with random weights."""
    generator = torch_generator(context.config.seed, "weights")
    return channels_last(SuperNetwork(context.macros[number], generator=generator), context.processes.device)


def _few(split: Split, batch_size: int | None) -> Split:
    """Images for a few steps."""
    size = batch_size_for(batch_size, len(split))
    return split.part(torch.linspace(0, len(split) - 1, min(len(split), _STEPS * size)).round().long())


def _few_steps(context: RunContext, batch_size: int | None, name: str, watch: _Stopwatch) -> TrainingContext:
    """What a training loop of a few steps is given, which nobody resumes."""
    training = context.training(context.folder.state / f"{name}.safetensors", unit="")
    few = _few(context.dataset.train, batch_size)
    return dataclasses.replace(training, split=few, interval=1e9, progress=watch)


class _Stopwatch(Reporter):
    """Notes when each step was made, by lap."""

    def __init__(self) -> None:
        self.laps = [[time.perf_counter()]]

    def step(self, count: int = 1, *, unit: str = "") -> None:
        self.laps[-1].append(time.perf_counter())

    def lap(self) -> None:
        self.laps.append([time.perf_counter()])


def _lap_seconds(moments: Sequence[float]) -> float:
    """Of one step, the first left out if there are others."""
    taken = np.diff(moments)
    return float(np.mean(taken[1:] if len(taken) > 1 else taken))


def _phase_seconds(context: RunContext, network: SuperNetwork, space: SearchSpace) -> list[float]:
    """Of a step of each phase."""
    config, watch = context.config, _Stopwatch()
    training = _few_steps(context, config.shrink.batch_size, f"speed-{network.macro.width}", watch)
    images = len(training.split)
    epochs = -(-_STEPS // steps_per_epoch(images, batch_size_for(config.shrink.batch_size, images)))
    phases = tuple(
        dataclasses.replace(phase, epochs=epochs, steps=None, warmup_epochs=0, warmup_steps=None)
        for phase in config.phases
    )
    settings = dataclasses.replace(config.shrink, corners=0, teacher="progressive")
    for _ in shrink(network, space, phases, settings, training):
        watch.lap()
    # The first step of all is what was found done.
    return [_lap_seconds(each) for each in (watch.laps[0][1:], *watch.laps[1:-1])]


def _evaluation_seconds(context: RunContext, networks: Sequence[SuperNetwork]) -> tuple[float, float]:
    """Of evaluating a network, and of measuring what is measured once."""
    by_width = SuperNetworks(networks)
    archs = context.space.sample_distinct(_EVALUATIONS, numpy_generator(context.config.seed, "evaluations"))
    for resolution in context.space.resolutions:  # inputs are prepared once
        for images in (context.evaluator.calibration, context.evaluator.validation):
            list(images.batches(resolution))
    measurements = context.evaluator.measurements(by_width, context.quantities)
    evaluate = context.evaluator.evaluate(by_width, context.quantities)
    evaluating, measuring = [], []
    for arch in archs:
        began = time.perf_counter()
        evaluate(arch)
        evaluating.append(time.perf_counter() - began)
        for measure in measurements.values():
            measure(arch)
        measuring.append(time.perf_counter() - began - evaluating[-1])
    return float(np.mean(evaluating)), float(np.mean(measuring))


def _adaptation_seconds(context: RunContext, networks: Sequence[SuperNetwork]) -> float:
    """Of a step."""
    config = context.config
    watch = _Stopwatch()
    training = _few_steps(context, config.adapt.batch_size, "speed-adapt", watch)
    teacher = largest_as_teacher(networks[-1], context.space, training.split, context.pipeline, config.shrink)
    adaptation = Adaptation(
        SuperNetworks(networks),
        context.space,
        teacher,
        dataclasses.replace(config.adapt, epochs=1, steps=None),
        training,
        generations=1,
    )
    adaptation.advance(1, context.space.sample(config.search.top, numpy_generator(config.seed, "adapt")))
    return _lap_seconds(watch.laps[0][1:])


def _finetuning_seconds(context: RunContext, network: SuperNetwork) -> list[float]:
    """Of a step of a network of middling size, for each of its variants."""
    config = context.config.finetune
    genomes = context.space.sample(101, numpy_generator(context.config.seed, "finetune"))
    genomes[:, 1] = 0  # the narrowest width, whose network this is
    order = np.argsort(
        exact([each for each in context.quantities if each.name == "macs"], context.costs, genomes)[:, 0]
    )
    arch = context.space.decode(genomes[order[25]])  # what is returned is rather small
    return [step_seconds(context, network, arch, exits) for exits in variants(network.macro, arch, config)]


def step_seconds(context: RunContext, network: SuperNetwork, arch: Arch, exits: tuple[int, ...]) -> float:
    """Of one step of the fine-tuning of a network with some of its exits."""
    settings, train = context.config.finetune, context.dataset.train
    if settings.epochs == 0 or settings.steps == 0:
        return 0.0
    lesson = Lesson.of(context.pipeline, settings, context.config.seed, len(train), None)
    static = channels_last(extract(network, arch, exits=exits).requires_grad_(True), context.processes.device)
    optimizer, schedule = optimizer_of(static, settings), Schedule(lesson.rate, _STEPS)
    for steps in (range(1), range(1, _STEPS)):  # the first is slower and does not count
        began = time.perf_counter()
        lesson.train(static, optimizer, train, schedule, steps=steps, part=0)
    return (time.perf_counter() - began) / len(steps)
