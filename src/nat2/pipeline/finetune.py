"""The last stage of a run: which networks are returned, and their fine-tuning, test and export."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence, Set
from functools import lru_cache

from nat2.nas.archive import Evaluation
from nat2.nas.budget import format_bound, format_value
from nat2.nas.front import minimised
from nat2.nas.objectives import ERRORS
from nat2.nas.search_result import SearchResult
from nat2.nas.select import continued, recommend, spread_out
from nat2.pipeline.context import RunContext
from nat2.pipeline.evaluation import BYTES
from nat2.pipeline.pretrained import begin_with
from nat2.pipeline.returned import Work, measure_and_export
from nat2.processes import ALONE
from nat2.progress import FoundDone
from nat2.runs.accuracy import Accuracy, standard_error
from nat2.runs.results import Result
from nat2.seeds import torch_generator
from nat2.shipped import SHIPPED
from nat2.space import Arch, Macro, cost
from nat2.supernet import SuperNetwork, SuperNetworks, extract
from nat2.supernet.static import channels_last
from nat2.training.context import TrainingContext
from nat2.training.continued import ContinuedFinetuning
from nat2.training.distill import Teacher
from nat2.training.finetune import finetune
from nat2.training.settings import FinetuneSettings
from nat2.training.teacher import largest_as_teacher
from nat2.wording import counted

_OF_EXITS = ("error", "params", "macs", "memory", "latency")
"""What is known of a network with several exits; a bound on anything else excludes those."""
_KEPT, _KEPT_IN_TIME = 3, (2, 4)
"""How many networks are trained further, at least, unless others beat them by more than the standard error. In runs for
a given time, where they take time from the others: in the shortest, and where all get the usual steps."""
_WORTH = 0.25  # of the way from chance to no error at all, which inherited weights have to have made


def select_networks(context: RunContext, found: SearchResult[Arch]) -> list[Evaluation[Arch]]:
    """The networks of the front to fine-tune, smallest first; says how many there are."""
    chosen = chosen_of(context, found)
    context.progress.say(f"fine-tune: {len(chosen)} of the {counted(len(found.front), 'network')} that no other beats")
    if not found.feasible:
        bounds = [each for each in context.quantities if each.bounded]
        nearest = min(found.front, key=lambda evaluation: evaluation["macs"])
        values = ", ".join(f"{each.name} {format_value(nearest[each.name], each.unit)}" for each in bounds)
        context.progress.say(
            f"no network that was evaluated keeps the budget ({', '.join(map(format_bound, bounds))}); the nearest are "
            f"returned, the first with {values}"
        )
    return chosen


def chosen_of(context: RunContext, found: SearchResult[Arch]) -> list[Evaluation[Arch]]:
    """The networks of the front to fine-tune, smallest first, with what was measured of them.

    They are chosen by the values to expect of them: many that seem best on the validation images are only lucky.
    """
    settings = context.config.finetune
    # Of networks that are otherwise equal, the faster.
    candidates = sorted(found.front, key=lambda evaluation: evaluation["macs"])
    if settings.most_macs is not None:
        candidates = [each for each in candidates if each["macs"] <= settings.most_macs] or candidates[:1]
    values = minimised(candidates, context.objectives)
    # What a predictor expects may lie beyond 0 and 1.
    share = min(1.0, max(0.0, 1 - float(values[:, 0].min())))
    noise = standard_error(share, len(context.evaluator.validation))
    choose = spread_out if settings.choice == "spread" else recommend
    measured = {each.arch: each for each in found.evaluated}
    chosen = [measured[candidates[index].arch] for index in choose(values, context.config.networks, noise=noise)]
    return sorted(chosen, key=lambda evaluation: (evaluation["params"], evaluation["macs"]))


def variants(macro: Macro, arch: Arch, settings: FinetuneSettings) -> list[tuple[int, ...]]:
    """The exits with which a network is fine-tuned: its own alone, all up to it, or once each."""
    every = tuple(number for number in macro.exits if number <= arch.exit)
    variant = settings.variant
    if variant == "auto":
        variant = "both" if settings.restart else "single"
    made: list[tuple[int, ...]] = []
    if variant != "ensemble" or len(every) == 1:
        made.append((arch.exit,))
    if variant != "single" and len(every) > 1:
        made.append(every)
    return made


def works_for(
    context: RunContext,
    networks: SuperNetworks,
    chosen: Sequence[Evaluation[Arch]],
    asked: Sequence[Evaluation[Arch]] = (),
) -> list[Work]:
    """Each network with its own exit, with several, or once each, as the settings say.

    Args:
        context: What the stages share.
        networks: With the adapted weights.
        chosen: From the front; by these is decided how much longer cheap networks are trained than costly ones.
        asked: Named by the user.
    """
    settings = context.config.finetune
    lengths = lengths_for([each["macs"] for each in chosen], 0.0 if settings.restart else settings.cost_exponent)
    pairs = list(zip((*chosen, *asked), (*lengths, *[1.0] * len(asked)), strict=True))
    unknown = [each.name for each in context.quantities if each.bounded and each.name not in _OF_EXITS]
    if unknown:
        context.progress.say(f"networks with several exits are left out, because they have no {', '.join(unknown)}")
    return [
        Work(evaluation, exits, length)
        for evaluation, length in pairs
        for exits in variants(networks[evaluation.arch.width].macro, evaluation.arch, context.config.finetune)
        if len(exits) == 1 or not unknown
    ]


def lengths_for(macs: Sequence[float], exponent: float) -> list[float]:
    """Steps of networks relative to their mean, so that all together take as long as with equal ones.

    The time of a step is in proportion to the multiply-accumulates. If the error that training leaves falls like one
    over the steps, its sum is least in a given time for steps in proportion to the square root of one over the cost.

    Args:
        macs: Multiply-accumulates of each network.
        exponent: Steps are in proportion to the multiply-accumulates to the power of minus this.
    """
    relative = [each**-exponent for each in macs]
    cost = sum(each * length for each, length in zip(macs, relative, strict=True))
    return [sum(macs) * each / cost for each in relative]


def steps_of(context: RunContext, work: Work) -> FinetuneSettings:
    """The settings of a network's fine-tuning, with its own number of steps."""
    return context.config.finetune.scaled(work.length, len(context.dataset.train))


def finetune_networks(
    context: RunContext,
    networks: SuperNetworks,
    works: Sequence[Work],
    *,
    asked: Set[Arch] = frozenset(),
    extend: Callable[[RunContext, Sequence[Work]], RunContext] = lambda context, _: context,
) -> list[Result]:
    """Stage 3: fine-tune, test and export networks, each by one process.

    Unless they are trained twice (`restart`), all are measured after the first phase of their fine-tuning; those that
    others beat there are not trained further, and not returned, unless the user named them or fewer than three (two to
    four in a run for a given time, by its length) would be left and the difference is within the standard error.

    Args:
        context: What the stages share.
        networks: With the adapted weights.
        works: What to fine-tune, see `works_for`.
        asked: Those that the user named.
        extend: Decides again how long the second phase is, once it is known who is trained further.
    """
    settings, config = context.config.finetune, context.config
    unit = "epochs" if settings.restart else "steps"
    context.progress.stage("fine-tune", **{unit: sum(amounts(context, work)[settings.restart] for work in works)})
    widest, teacher = networks[context.space.largest.width], None
    if settings.kd_ratio and works:
        teacher = largest_as_teacher(widest, context.space, context.dataset.train, context.pipeline, config.shrink)
    if not settings.restart:
        beaten = _beaten(context, networks, works, teacher, asked)
        works = [work for work in works if work.id not in beaten]
        context = extend(context, works)
        context.progress.stage("fine-tune", steps=sum(amounts(context, work)[1] for work in works))
    here = set[str]()

    def finish(work: Work) -> tuple[Result | None, float | None]:
        here.add(work.id)
        return finetune_network(context, networks[work.evaluation.arch.width], work, teacher=teacher)

    results = []
    for work, (result, difference), _ in context.processes.spread(finish, works, costs=_costs(works)):
        if work.id not in here:
            context.progress.step(FoundDone(amounts(context, work)[1]))
        if result is None:
            context.progress.say(
                f"{work.evaluation.arch.id}: its exits {work.exits} together do not keep the budget; left out"
            )
            continue
        results.append(result)
        if difference is not None:
            chance = "" if result.test_beats_chance else ", no better than chance"
            context.progress.say(
                f"exported {result.id}: {result.params:,} parameters, {result.tested.percent} % on the test "
                f"images{chance}; ONNX Runtime agrees with torch to {difference:.0e}"
            )
        context.clock.lap()
    return results


def _costs(works: Sequence[Work]) -> list[float]:
    return [work.length * work.evaluation["macs"] for work in works]


def amounts(context: RunContext, work: Work) -> tuple[int, int]:
    """Steps of a network's fine-tuning before and after it is measured; with `restart`, epochs of all of it."""
    settings, images = steps_of(context, work), len(context.dataset.train)
    if settings.restart:
        return 0, 2 * settings.length(images).parts
    first, second = settings.phases(images)
    return first.steps, second.steps


def _beaten(
    context: RunContext, networks: SuperNetworks, works: Sequence[Work], teacher: Teacher | None, asked: Set[Arch]
) -> set[str]:
    """Ids of the networks that are not trained further: after the first phase another is at least as accurate and costs
    no more."""
    here = set[str]()
    afresh = sum(not inherits(context, work) for work in works)
    if afresh:
        source = _shipped_weights(context, context.space.largest.width) or "random weights"
        context.progress.say(
            f"fine-tune: {counted(afresh, 'network')} of {len(works)} from {source}, since those of the "
            "super-network are hardly better than chance"
        )

    def measured(work: Work) -> float:
        here.add(work.id)
        done = context.folder.result(work.id)
        if done is not None:
            context.progress.step(FoundDone(amounts(context, work)[0]))
            return done.val_accuracy
        return _continued(context, networks[work.evaluation.arch.width], work, teacher).measured()

    compared: dict[str, Evaluation[Arch]] = {}
    for work, accuracy, _ in context.processes.spread(measured, works, costs=_costs(works)):
        if work.id not in here:
            context.progress.step(FoundDone(amounts(context, work)[0]))
        if len(work.exits) == 1 and work.evaluation.arch not in asked:
            values = {**work.evaluation.values, **dict.fromkeys(ERRORS, 1 - accuracy)}
            compared[work.id] = dataclasses.replace(work.evaluation, values=values)
    if not compared:
        return set()
    ids = list(compared)
    measurements = minimised(list(compared.values()), context.objectives)
    noise = standard_error(1 - measurements[:, 0].min(), len(context.dataset.val))
    beaten = set(ids) - {ids[number] for number in continued(measurements, least=how_many_kept(context), noise=noise)}
    if beaten:
        context.progress.say(
            f"fine-tune: {counted(len(beaten), 'network')} of {len(ids)} not trained further: others are as accurate "
            "and cost less"
        )
    return beaten


def how_many_kept(context: RunContext) -> int:
    """How many networks are trained further as far as the noise allows."""
    if not context.config.time:
        return _KEPT
    fewest, most = _KEPT_IN_TIME
    images = len(context.dataset.train)
    # Of the first phase, because the second is made longer once it is known how many are trained further.
    steps, usual = context.config.finetune.phases(images)[0].steps, FinetuneSettings().phases(images)[0].steps
    return min(most, max(fewest, most * steps // usual))


def inherits(context: RunContext, work: Work) -> bool:
    """Whether the super-network's weights are worth starting from.

    Weights that hardly beat chance have learned what does not generalise, and are a worse start than those that come
    with nat2, or random ones.
    """
    accuracy = Accuracy.over(1 - work.evaluation["error"], context.folder.images().get("val", ()))
    chance = accuracy.chance or 0.0
    return accuracy.share - chance >= _WORTH * (1 - chance)


def _shipped_weights(context: RunContext, width: float) -> str:
    """The weights that a run began with, if they are among those that come with nat2: files may be gone by now."""
    name = context.plan.pretrained[context.plan.widths.index(width)] if context.plan.pretrained else ""
    return name if name in SHIPPED else ""


def _continued(context: RunContext, network: SuperNetwork, work: Work, teacher: Teacher | None) -> ContinuedFinetuning:
    """The fine-tuning of a network, where it stands."""
    arch, exits = work.evaluation.arch, work.exits
    if inherits(context, work):
        start = extract(network, arch, context.evaluator.statistics(network, arch, exits=exits), exits=exits)
    else:
        generator = torch_generator(context.config.seed, "afresh", arch.key)
        fresh = SuperNetwork(network.macro, generator=generator)
        if shipped := _shipped_weights(context, arch.width):
            begin_with(fresh, shipped)
        start = extract(fresh, arch, exits=exits)
    return ContinuedFinetuning(
        channels_last(start, context.processes.device),
        context.dataset.val,
        steps_of(context, work),
        _training(context, work, "steps"),
        teacher=teacher,
    )


def _training(context: RunContext, work: Work, unit: str) -> TrainingContext:
    """What its fine-tuning is given; the processes divide the networks, not their batches."""
    training = context.training(context.folder.state / f"finetune-{work.id}.safetensors", unit=unit)
    return dataclasses.replace(training, processes=ALONE)


def finetune_network(
    context: RunContext, network: SuperNetwork, work: Work, *, teacher: Teacher | None = None
) -> tuple[Result | None, float | None]:
    """Fine-tune one network, test it once, export it; or read what was done before.

    Args:
        context: What the stages share.
        network: The super-network of its width.
        work: The network.
        teacher: Distils its answers, if asked for.

    Returns:
        What is reported of it (None if no subset of the exits keeps the budget), and the largest difference of a logit
        between ONNX Runtime and torch (None if it was done before).
    """
    arch, exits, settings = work.evaluation.arch, work.exits, context.config.finetune
    done = context.folder.result(work.id)
    allowed = _within_budget(context, network, arch)
    if done is not None or not (settings.prune or allowed(exits)):
        context.progress.step(FoundDone(amounts(context, work)[1]))
        return done, None
    if settings.restart:
        finetuned = finetune(
            extract(network, arch, context.evaluator.statistics(network, arch, exits=exits), exits=exits),
            context.dataset.val,
            settings,
            _training(context, work, "epochs"),
            allowed=allowed,
            teacher=teacher,
        )
    else:
        finetuned = _continued(context, network, work, teacher).finished(allowed=allowed)
        if not inherits(context, work):
            finetuned = dataclasses.replace(finetuned, calibrated_val_accuracy=1 - work.evaluation["error"])
    return measure_and_export(context, network, work, finetuned)


def _within_budget(context: RunContext, network: SuperNetwork, arch: Arch) -> Callable[[tuple[int, ...]], bool]:
    """Whether a network with some of its exits keeps the bounds, as far as it keeps them with its own."""
    bounds = [each for each in context.quantities if each.bounded and each.name in _OF_EXITS[1:]]

    def keeps_exact(exits: tuple[int, ...]) -> bool:
        spent = cost(network.macro, arch, exits=exits)
        values = {"params": spent.params, "macs": spent.macs, "memory": BYTES * spent.memory}
        return all(each.low <= values[each.name] <= each.high for each in bounds if each.name in values)

    @lru_cache
    def keeps(exits: tuple[int, ...]) -> bool:
        if exits == (arch.exit,) or not keeps_exact(exits):
            return exits == (arch.exit,)
        latencies = [each for each in bounds if each.name == "latency"]
        taken = context.evaluator.latency(extract(network, arch, exits=exits)).median if latencies else 0.0
        return all(each.low <= taken <= each.high for each in latencies)

    return keeps if keeps_exact((arch.exit,)) else lambda exits: True
