"""What a run for a given time decides when its fine-tuning begins, by the time that is left."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import replace

from nat2.nas.search_result import SearchResult
from nat2.pipeline.context import RunContext
from nat2.pipeline.finetune import chosen_of
from nat2.pipeline.planning import CLOSING_SECONDS, longest_finetuning, most_steps
from nat2.pipeline.returned import Work
from nat2.pipeline.speed import closing_seconds, step_seconds
from nat2.runs.timeplan import TimePlan
from nat2.space import Arch
from nat2.supernet import SuperNetworks
from nat2.training.settings import FinetuneSettings

_LEAST_SHARE = 4  # of the planned steps of the fine-tuning one in so many is made, however late the run is
_ENOUGH_STEPS = 400  # of the fine-tuning, for large networks to become better than small ones


def affordable(context: RunContext, networks: SuperNetworks, found: SearchResult[Arch]) -> RunContext:
    """The same run without the networks that are too large to be fine-tuned in the time that is left.

    In few steps small networks become better than large ones, which take most of the time besides. So the largest are
    left out as long as those chosen would get less than 400 steps each in the mean.

    Args:
        context: Of the run.
        networks: With the adapted weights.
        found: Of the search.
    """
    planned, config = context.folder.time_plan(), context.config
    settings = config.finetune
    if planned is None or planned.settled or settings.restart or settings.most_macs is not None:
        return context

    def decide() -> int:
        sizes = sorted({int(each["macs"]) for each in found.front}, reverse=True)
        enough = min(_ENOUGH_STEPS, settings.length(len(context.dataset.train)).steps)
        rate = 0.0
        for place, most in enumerate(sizes):
            chosen = chosen_of(_settled(context, replace(settings, most_macs=most)), found)
            works = [Work(each, (each.arch.exit,)) for each in chosen]
            macs = sum(work.evaluation["macs"] for work in works)
            rate = rate or sum(_seconds_of_steps(context, networks, works)) / macs
            left = _left(context) - len(works) * closing_seconds(pt2=config.pt2)
            if left >= enough * rate * macs or len(sizes) - place <= config.networks:
                break
        return most

    most = context.processes.once(decide)
    return _settle(context, replace(settings, most_macs=most), planned)


def corrected(context: RunContext, networks: SuperNetworks, works: Sequence[Work]) -> RunContext:
    """The same run with the length of the fine-tuning by the time that is left before it, if it runs for a given time.

    The networks are known now, and how long the stages before have taken.

    Args:
        context: Of the run.
        networks: With the adapted weights.
        works: The networks to fine-tune.
    """
    planned = context.folder.time_plan()
    if planned is None or planned.settled or not works:
        return context
    config, images = context.config, len(context.dataset.train)

    def decide() -> FinetuneSettings:
        each = _seconds_of_steps(context, networks, works)
        fewest = config.finetune.length(images).steps // _LEAST_SHARE
        return longest_finetuning(config, images, each, _left(context), fewest=fewest)

    settled = context.processes.once(decide)
    planned_steps, steps = config.finetune.length(images).steps, settled.length(images).steps
    if steps < planned_steps:
        context.progress.say(f"fine-tune: {steps:,} steps instead of {planned_steps:,}, by the time that is left")
    return _settle(context, settled, replace(planned, settled=True))


def extended(context: RunContext, networks: SuperNetworks, works: Sequence[Work]) -> RunContext:
    """The same run with the second phase of its fine-tuning as long as the time that is left before it.

    Those that are not trained further have left some of it.

    Args:
        context: Of the run.
        networks: With the adapted weights.
        works: The networks that are trained further.
    """
    planned = context.folder.time_plan()
    if planned is None or planned.extended or not works:
        return context
    settings, images = context.config.finetune, len(context.dataset.train)
    first, second = (phase.steps for phase in settings.phases(images))

    def decide() -> FinetuneSettings:
        seconds = sum(_seconds_of_steps(context, networks, works))
        left = _left(context) - len(works) * closing_seconds(pt2=context.config.pt2)
        steps = min(max(second // _LEAST_SHARE, int(left / seconds)), most_steps(settings, images) - first)
        total = first + max(steps, 1)
        return replace(settings, steps=total, measured_at=first / total)

    settled = context.processes.once(decide)
    steps = settled.phases(images)[1].steps
    if steps > second:
        context.progress.say(f"fine-tune: {steps:,} further steps instead of {second:,}, by the time that is left")
    return _settle(context, settled, replace(planned, extended=True))


def _settle(context: RunContext, settings: FinetuneSettings, time_plan: TimePlan) -> RunContext:
    """The run with a fine-tuning that was decided by its time, written down."""
    context = _settled(context, settings)
    context.processes.once(lambda: context.folder.settle(context.config, time_plan))
    return context


def _settled(context: RunContext, settings: FinetuneSettings) -> RunContext:
    plan = replace(context.plan, config=replace(context.config, finetune=settings))
    return dataclasses.replace(context, plan=plan)


def _left(context: RunContext) -> float:
    """Seconds from now until the run begins to close."""
    return context.config.seconds - context.clock.spent() - CLOSING_SECONDS


def _seconds_of_steps(context: RunContext, networks: SuperNetworks, works: Sequence[Work]) -> list[float]:
    """Of a step of each network's fine-tuning, times those it makes for each of the mean, as far as the processes share
    the networks."""
    shared = min(context.processes.size, len(works))
    return [
        step_seconds(context, networks[work.evaluation.arch.width], work.evaluation.arch, work.exits)
        * work.length
        / shared
        for work in works
    ]
