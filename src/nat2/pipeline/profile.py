"""What a run will be, before it begins: the space, whether the budget can be met, and how long it takes."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nat2.allocator import keep_freed_memory
from nat2.nas.evolve import evolve
from nat2.nas.feasible import exact
from nat2.nas.objectives import Objective, violation
from nat2.pipeline.context import RunContext
from nat2.pipeline.evaluation import latency_of_ends, try_objectives
from nat2.pipeline.planning import preview
from nat2.pipeline.prepare import prepare
from nat2.pipeline.pretrained import remarks
from nat2.pipeline.speed import measure_speed, stage_seconds, untrained
from nat2.processes import connect
from nat2.progress import SILENT, Reporter
from nat2.runs.config import RunConfig
from nat2.runs.folder import RunFolder
from nat2.runs.profile import Profile, Span
from nat2.seeds import numpy_generator
from nat2.space import Genomes
from nat2.space.boards import board_named
from nat2.supernet import SuperNetworks, extract

_DRAWN = 10_000
_TIMES = ("5m", "15m", "1h")  # for which plans are shown


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
    processes = connect(accelerator=config.accelerator, precision=config.precision, cuda_graphs=config.cuda_graphs)
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
        networks = [untrained(context, number) for number in range(len(plan.macros))]
        try_objectives(context.evaluator, SuperNetworks(networks), context.space, every)
        if "latency" in {each.name for each in every}:
            progress.say("measuring latencies")
            spans.append(_latencies(context, SuperNetworks(networks), every))
        progress.say("training and evaluating a little")
        speed = measure_speed(context, networks)
        seconds = {"read": reading, **stage_seconds(plan, len(dataset.train), speed)}
        plans = preview(config, plan, len(dataset.train), speed, [config.time] if config.time else _TIMES)
    return Profile(
        facts=(*context.introduction, *(("weights", note) for note in notes)),
        size=context.space.size,
        spans=tuple(spans),
        bounds=plan.bounds,
        kept=float((violation(known, values) <= 0).mean()),
        seconds=seconds,
        plans=tuple(plans),
        board=board_named(config.device) if config.device else None,
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
