"""What a run will be, before it begins: the space, whether the budget can be met, and how long it takes."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from nat2.allocator import keep_freed_memory
from nat2.data.dataset import Split
from nat2.nas.evolve import evolve
from nat2.nas.feasible import exact
from nat2.nas.objectives import Objective, violation
from nat2.pipeline.context import RunContext
from nat2.pipeline.evaluation import latency_of_ends, try_objectives
from nat2.pipeline.finetune import variants
from nat2.pipeline.prepare import prepare
from nat2.pipeline.pretrained import remarks
from nat2.processes import ALONE, connect
from nat2.progress import SILENT, Reporter
from nat2.runs.config import RunConfig
from nat2.runs.folder import RunFolder
from nat2.runs.profile import Profile, Span
from nat2.seeds import numpy_generator, torch_generator
from nat2.space import Arch, Genomes, SearchSpace
from nat2.supernet import SuperNetwork, SuperNetworks, extract
from nat2.supernet.static import channels_last
from nat2.training.adapt import Adaptation
from nat2.training.context import TrainingContext
from nat2.training.finetune import finetune
from nat2.training.length import batch_size_for
from nat2.training.shrink import phases_for, shrink
from nat2.training.teacher import largest_as_teacher

_DRAWN = 10_000
_STEPS = 3  # of each kind of training are made; the first is slower and does not count
_EVALUATIONS = 6
_EXPORT_SECONDS, _PT2_SECONDS = 1.0, 3.0  # of a network; the former with its latency
_GENERATION_SECONDS = 2.0  # prediction and evolution; see benchmarks/search.py


def profile(config: RunConfig, *, progress: Reporter = SILENT) -> Profile:
    """Look at images and space, and train and evaluate a little to see how long the run will take.

    Args:
        config: What the run would do.
        progress: Shows what is going on, and how many images have been read.

    Returns:
        What the run will be.

    Raises:
        ConfigError: no network keeps the budget; the nearest possible values are named.
    """
    keep_freed_memory()
    processes = connect(accelerator=config.accelerator, precision=config.precision)
    progress.say(f"reading {config.data}")
    began = time.monotonic()
    plan, dataset = prepare(config, processes, progress=progress)
    reading = time.monotonic() - began
    notes = remarks(config, plan, dataset) if plan.pretrained else []
    with tempfile.TemporaryDirectory() as temporary, RunFolder(Path(temporary)) as folder:
        context = RunContext.of(plan, dataset, folder, SILENT, processes)
        progress.say("drawing networks")
        drawn = context.space.sample(_DRAWN, numpy_generator(config.seed, "profile"))
        every = context.quantities
        known = [each for each in every if each.cost == "exact"]
        values = exact(known, context.costs, drawn)
        spans = [_span(context, each, drawn, column) for each, column in zip(known, values.T, strict=True)]
        networks = [_untrained(context, number) for number in range(len(plan.macros))]
        try_objectives(context.evaluator, SuperNetworks(networks), context.space, every)
        if "latency" in {each.name for each in every}:
            progress.say("measuring latencies")
            spans.append(_latencies(context, SuperNetworks(networks), every))
        progress.say("training and evaluating a little")
        seconds = {"read": reading, **_seconds(context, networks)}
    return Profile(
        facts=(*context.introduction, *(("weights", note) for note in notes)),
        size=context.space.size,
        spans=tuple(spans),
        bounds=plan.bounds,
        kept=float((violation(known, values) <= 0).mean()),
        seconds=seconds,
    )


def _span(context: RunContext, objective: Objective, drawn: Genomes, values: NDArray[np.float64]) -> Span:
    """Least and most by evolution from the networks drawn, which seldom hold them."""
    space, ends = context.space, []
    for sign in (1, -1):
        best = drawn[np.argsort(sign * values, kind="stable")[:48]]
        start = np.concatenate([space.lower[None], space.upper[None], best])
        signed = partial(_signed, context, objective, sign)
        found = evolve(space, signed, n_objectives=1, population=50, generations=12, start=start, seed=0)
        ends.append(sign * float(signed(found).min()))
    return Span(objective, ends[0], float(np.median(values)), ends[1])


def _signed(context: RunContext, objective: Objective, sign: int, genomes: Genomes) -> NDArray[np.float64]:
    return sign * exact([objective], context.costs, genomes)


def _latencies(context: RunContext, networks: SuperNetworks, every: Sequence[Objective]) -> Span:
    """Of the smallest, of the largest, and of a few networks between them."""
    (latency,) = (each for each in every if each.name == "latency")
    least, most = latency_of_ends(context.evaluator, networks, context.space, latency)
    generator = numpy_generator(context.config.seed, "latencies")
    between = [
        context.evaluator.latency(extract(networks[arch.width], arch)).median
        for arch in context.space.sample_distinct(5, generator)
    ]
    return Span(latency, min(least, *between), float(np.median(between)), max(most, *between))


def _untrained(context: RunContext, number: int) -> SuperNetwork:
    generator = torch_generator(context.config.seed, "weights")
    return channels_last(SuperNetwork(context.macros[number], generator=generator), context.processes.device)


def _seconds(context: RunContext, networks: Sequence[SuperNetwork]) -> dict[str, float]:
    """Time of each stage: a few steps of each kind are made, and multiplied."""
    config, train = context.config, context.dataset.train
    training = 0.0
    for network in networks:
        space = dataclasses.replace(context.space, widths=(network.macro.width,))
        batch_size = batch_size_for(config.shrink.batch_size, len(train))
        counts = [phase.length(len(train), batch_size).steps for phase in phases_for(space, config.phases)]
        taken = _phase_seconds(context, network, space)
        training += sum(count * each for count, each in zip(counts, taken, strict=True))
    evaluating, measuring = _evaluation_seconds(context, networks)
    adapts = config.adapt.adapts
    saved = sum(count * (1 - share) for count, share in config.search.rungs)
    searching = (config.search.evaluations(adapts=adapts) - saved) * evaluating + config.search.networks * measuring
    searching += config.search.generations * _GENERATION_SECONDS
    if adapts and config.search.generations:
        steps = config.adapt.length(len(train)).steps
        searching += config.search.generations * steps * _adaptation_seconds(context, networks)
    exporting = _EXPORT_SECONDS + _PT2_SECONDS * config.pt2
    polishing = config.networks * sum(exporting + each for each in _finetuning_seconds(context, networks[0]))
    return {"train": training, "search": searching, "fine-tune and export": polishing}


def _few(split: Split, batch_size: int | None) -> Split:
    """Images for a few steps."""
    size = batch_size_for(batch_size, len(split))
    return split.part(torch.linspace(0, len(split) - 1, min(len(split), _STEPS * size)).round().long())


def _few_steps(context: RunContext, batch_size: int | None, name: str, watch: _Stopwatch) -> TrainingContext:
    """What a training loop of a few steps is given, which nobody resumes."""
    training = context.training(context.folder.state / f"{name}.safetensors", unit="")
    few = _few(context.dataset.train, batch_size)
    return dataclasses.replace(training, split=few, processes=ALONE, interval=1e9, progress=watch)


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
    return float(np.median(taken[1:] if len(taken) > 1 else taken))


def _phase_seconds(context: RunContext, network: SuperNetwork, space: SearchSpace) -> list[float]:
    """Of a step of each phase."""
    config = context.config
    phases = tuple(
        dataclasses.replace(phase, epochs=1, steps=None, warmup_epochs=0, warmup_steps=None) for phase in config.phases
    )
    watch = _Stopwatch()
    settings = dataclasses.replace(config.shrink, corners=0, teacher="progressive")
    training = _few_steps(context, config.shrink.batch_size, f"profile-{network.macro.width}", watch)
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
    evaluate = context.evaluator.evaluate(by_width, context.objectives)
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
    training = _few_steps(context, config.adapt.batch_size, "profile-adapt", watch)
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
    """Of both phases of a network of middling size, for each of its variants."""
    config = context.config.finetune
    few = _few(context.dataset.train, config.batch_size)
    genomes = context.space.sample(101, numpy_generator(context.config.seed, "finetune"))
    genomes[:, 1] = 0  # the narrowest width, whose network this is
    order = np.argsort(
        exact([each for each in context.quantities if each.name == "macs"], context.costs, genomes)[:, 0]
    )
    arch = context.space.decode(genomes[order[25]])  # what is returned is rather small
    return [
        _variant_seconds(context, network, arch, exits, few) if config.length(len(few)).steps else 0.0
        for exits in variants(network.macro, arch, config)
    ]


def _variant_seconds(
    context: RunContext, network: SuperNetwork, arch: Arch, exits: tuple[int, ...], few: Split
) -> float:
    """Of both phases with some exits, as long as they may last."""
    config, watch = context.config.finetune, _Stopwatch()
    finetune(
        extract(network, arch, context.evaluator.statistics(network, arch, exits=exits), exits=exits),
        few,
        dataclasses.replace(config, epochs=2, steps=None),
        _few_steps(context, config.batch_size, f"profile-finetune-{len(exits)}", watch),
    )
    epoch = min(taken for taken in np.diff(watch.laps[0]) if taken > 1e-3)  # the others were found done
    steps = config.length(len(context.dataset.train)).steps * (2 if config.restart else 1)
    return steps * epoch / config.length(len(few)).epoch
