"""The stages of a run: training, search, and what is reported at the end; each continues where it was killed."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from nat2.errors import ArchError, ConfigError, RunError
from nat2.files import load_tensors, save_tensors, write_csv
from nat2.nas.archive import Archive, Evaluation
from nat2.nas.front import front
from nat2.nas.functions import SearchFunctions
from nat2.nas.generation import Generation
from nat2.nas.nat import run_search
from nat2.nas.objectives import ERRORS, Objective, ShareNoise
from nat2.nas.search_result import SearchResult
from nat2.nas.task import Task
from nat2.pipeline.context import RunContext
from nat2.pipeline.learning import nothing_predicted, nothing_trained
from nat2.pipeline.pretrained import begin_with
from nat2.pipeline.returned import ENSEMBLE
from nat2.processes import Processes
from nat2.reports.curves import write_curves
from nat2.reports.page import write_page
from nat2.reports.plots import plot_pareto
from nat2.runs.accuracy import Accuracy
from nat2.runs.folder import RunFolder
from nat2.runs.plan import RunPlan
from nat2.runs.read import read_run
from nat2.runs.results import Result
from nat2.seeds import torch_generator
from nat2.space import Arch, Macro, SearchSpace
from nat2.supernet import SuperNetwork, SuperNetworks, store_statistics
from nat2.supernet.checkpoint import load_weights
from nat2.supernet.static import channels_last
from nat2.training.adapt import Adaptation
from nat2.training.length import batch_size_for
from nat2.training.optimise import has_state
from nat2.training.shrink import (
    PhaseOutcome,
    TeacherSource,
    phases_for,
    shrink,
    teacher_file,
)
from nat2.training.teacher import largest_as_teacher

_SAME_IMAGES = 4
"""By what factor evaluating all sub-networks on the same images reduces the variance of their errors' differences:
they share weights and misclassify mostly the same images. Measured: 4.2, with 70 sub-networks on 1,200 images."""


def train_supernets(context: RunContext, networks: Sequence[SuperNetwork]) -> SuperNetworks:
    """Stage 1: progressive shrinking of the super-network of each width; reads those that were trained before.

    Args:
        context: What the stages share.
        networks: Those to begin with, narrowest first; none if the run was begun before.
    """
    config = context.config
    images = len(context.dataset.train)
    batch_size = batch_size_for(config.shrink.batch_size, images)
    steps = sum(phase.length(images, batch_size).steps for phase in phases_for(context.space, config.phases))
    missing = sum(not context.folder.trained(macro.width).exists() for macro in context.macros)
    if missing:
        context.progress.stage("train", steps=steps * missing)
    given: Sequence[SuperNetwork | None] = networks or [None] * len(context.macros)
    # The widest first: it may teach the others.
    pairs = list(zip(context.macros, given, strict=True))[::-1]
    trained = [_train_supernet(context, macro, network) for macro, network in pairs]
    return SuperNetworks(trained[::-1])


def new_supernet(plan: RunPlan, macro: Macro, processes: Processes) -> tuple[SuperNetwork, list[str]]:
    """The super-network of a width with random or given weights, and what of these was not taken as it is."""
    generator = torch_generator(plan.config.seed, "weights")
    network = SuperNetwork(macro, dropout=plan.config.dropout, generator=generator)
    notes: list[str] = []
    if plan.pretrained:
        path = plan.pretrained[plan.macros.index(macro)]
        notes = [f"{path}: {note}" for note in begin_with(network, path)]
    return channels_last(network, processes.device), notes


def _train_supernet(context: RunContext, macro: Macro, network: SuperNetwork | None) -> SuperNetwork:
    config, processes = context.config, context.processes
    trained, state = context.folder.trained(macro.width), context.folder.shrinking(macro.width)
    if trained.exists():
        network = channels_last(SuperNetwork(macro, dropout=config.dropout), processes.device)
        load_weights(network, load_tensors(trained)[0])
        return network.eval()
    if network is None:
        begun = dataclasses.replace(context.plan, pretrained=()) if has_state(state) else context.plan
        network, notes = new_supernet(begun, macro, processes)
        for note in notes:
            context.progress.say(note)
    space = dataclasses.replace(context.space, widths=(macro.width,))
    title = "train" if len(context.macros) == 1 else f"train width {macro.width}"
    widest, teacher_of = context.macros[-1], None
    if config.shrink.teacher == "widest" and macro is not widest:
        teacher_of = TeacherSource(widest, teacher_file(context.folder.shrinking(widest.width)))

    phases = phases_for(space, config.phases)
    outcomes = shrink(
        network,
        space,
        config.phases,
        config.shrink,
        context.training(state, unit="steps"),
        supported=space.expands if context.plan.pretrained else (),
        teacher_of=teacher_of,
        validate=lambda network, arch: 1 - context.evaluator.error(network, arch),
    )
    for outcome in outcomes:
        ends = _ends(context, network, space)
        context.progress.say(f"{title}: {_phase_summary(outcome, *ends)}")
        if outcome.phase == phases[-1]:
            loss = None if len(phases) > 1 and config.shrink.kd_ratio else outcome.loss
            warning = nothing_trained(loss, macro.classes, ends)
            if warning:
                context.progress.say(f"warning: {warning}")
        context.clock.lap()
    processes.once(lambda: save_tensors(trained, network.state_dict()))
    return network.eval()


def _ends(context: RunContext, network: SuperNetwork, space: SearchSpace) -> tuple[Accuracy, Accuracy]:
    """How good the largest and the smallest network are now, on validation images."""
    ends = (space.largest, space.smallest)
    measured = context.processes.spread(lambda arch: context.evaluator.error(network, arch), ends, costs=(1, 1))
    counts = context.folder.images().get("val", ())
    largest, smallest = (Accuracy.over(1 - error, counts) for _, error, _ in measured)
    return largest, smallest


def _phase_summary(outcome: PhaseOutcome, largest: Accuracy, smallest: Accuracy) -> str:
    """What came of a phase."""
    chance, parts = "" if largest.beats_chance else ", no better than chance", outcome.length.parts
    kept = f", epoch {outcome.kept} of {parts} kept" if outcome.kept < parts else ""
    return (
        f"{outcome.phase.name} done{kept}, learning rate {outcome.learning_rate:.3g}, loss "
        f"{outcome.loss:.3f}, validation accuracy {largest.percent} % (largest network{chance}), "
        f"{smallest.percent} % (smallest)"
    )


def search_networks(context: RunContext, networks: SuperNetworks, archive: Archive[Arch]) -> SearchResult[Arch]:
    """Stage 2: NAT2's loop, with adaptation. The networks hold the adapted weights afterwards."""
    config, folder, processes = context.config, context.folder, context.processes
    widest = networks[context.space.largest.width]
    teacher = largest_as_teacher(widest, context.space, context.dataset.train, context.pipeline, config.shrink)
    adapts = config.adapt.adapts
    training = config.search.generations * config.adapt.length(len(context.dataset.train)).steps
    context.progress.stage("search", evaluations=config.search.evaluations(adapts=adapts), steps=training)
    adaptation = Adaptation(
        networks,
        context.space,
        teacher,
        config.adapt,
        context.training(folder.state / "adapt.safetensors", unit="steps"),
        generations=config.search.generations,
    )
    processes.once(lambda: _note_latency(context, archive))
    evaluator = context.evaluator
    functions = SearchFunctions(
        evaluator.evaluate(networks, context.quantities),
        exact=context.costs,
        measured=evaluator.measurements(networks, context.quantities),
        adapt=adaptation.advance if adapts else None,
    )
    task = Task(
        space=context.space,
        functions=functions,
        objectives=with_noise(context.objectives, len(evaluator.validation)),
        recorded=with_noise(context.recorded, len(evaluator.validation)),
        settings=config.search,
        archive=archive,
        seed=config.seed,
        processes=processes,
        progress=context.progress,
    )
    generations = []
    for generation in run_search(task):
        generations.append(generation)
        processes.once(lambda: _log(context, archive.generations()))
        context.progress.say(f"search: {generation.summary(config.search.generations)}")
        context.clock.lap()
    taus = [each.facts.quality.tau for each in generations if each.facts.quality is not None]
    warning = nothing_predicted(taus, len(context.dataset.val))
    if warning:
        context.progress.say(f"warning: {warning}")
    return SearchResult.of(task, generations)


def with_noise(quantities: Sequence[Objective], images: int) -> tuple[Objective, ...]:
    """The same quantities; errors with the standard error that they have, relative to each other, on so many images."""
    noise = ShareNoise(_SAME_IMAGES * images)
    return tuple(dataclasses.replace(each, noise=noise) if each.name in ERRORS else each for each in quantities)


def measured_front(context: RunContext, found: SearchResult[Arch]) -> list[Evaluation[Arch]]:
    """The archive's networks that no other beats by what was measured, as the run folder shows them."""
    return [found.members[number] for number in front(found.members, context.objectives, context.quantities)]


def save_supernets(context: RunContext, networks: SuperNetworks) -> list[Path]:
    """Write the super-networks as they are now, one file per width.

    What their own batch norms hold is what sub-networks inherit before they are calibrated: statistics of the largest.
    """
    for network in networks:
        largest = dataclasses.replace(context.space.largest, width=network.macro.width)
        store_statistics(network, context.evaluator.statistics(network, largest, exits=network.macro.exits))

    def save() -> None:
        for network in networks:
            metadata = {"macro": dataclasses.asdict(network.macro)}
            save_tensors(context.folder.supernet(network.macro.width), network.state_dict(), metadata)

    context.processes.once(save)
    return [context.folder.supernet(network.macro.width) for network in networks]


def adapted(context: RunContext) -> SuperNetworks:
    """The super-networks of a finished search.

    Raises:
        CheckpointError: a file is missing or damaged.
    """
    networks = []
    for macro in context.macros:
        network = channels_last(SuperNetwork(macro), context.processes.device)
        load_weights(network, load_tensors(context.folder.supernet(macro.width))[0])
        networks.append(network.eval())
    return SuperNetworks(networks)


def resolve_networks(context: RunContext, names: Sequence[str]) -> list[Arch]:
    """The networks that a user names: by the id of one in the archive, or by any architecture's key.

    Raises:
        ConfigError: there is no such network.
    """
    by_id: dict[str, Arch] = {}
    if names and context.folder.archive.exists():
        with Archive.snapshot(context.folder.archive) as archive:
            by_id = {evaluation.arch.id: evaluation.arch for evaluation, _ in archive.evaluations()}
    found = []
    for name in dict.fromkeys(names):
        arch = by_id.get(name.removesuffix(ENSEMBLE))
        if arch is None:
            try:
                arch = Arch.from_key(name)
                context.space.validate(arch)
            except ArchError as error:
                raise ConfigError(
                    f"{name!r} is neither the id of a network in {context.folder.archive} nor the key of a network "
                    f"that can be searched ({error})"
                ) from error
        found.append(arch)
    return found


def _note_latency(context: RunContext, archive: Archive[Arch]) -> None:
    """Note what latencies are measured with; those of two devices cannot be compared."""
    config = context.config
    facts = {"batch": config.latency_batch, "threads": config.latency_threads, "device": context.processes.device.type}
    measured_with = json.dumps(facts)
    noted = archive.noted("latency")
    if "latency" in context.columns and noted not in (None, measured_with):
        raise RunError(
            f"the latencies in {context.folder.archive} were measured with {noted}, now it would be {measured_with}; "
            "continue on the same device (--accelerator), or begin again with --fresh"
        )
    archive.note("latency", measured_with)


def _log(context: RunContext, generations: Sequence[Generation[Arch]]) -> None:
    write_csv(context.folder.log, [each.row() for each in generations])
    if context.config.tensorboard:
        write_curves(context.folder.curves, generations)


def report_networks(folder: RunFolder, results: list[Result]) -> None:
    """Write table, plot and page, from what the run folder holds."""
    if results:
        run = read_run(folder.path)
        objectives = [objective.name for objective in run.objectives]
        others = dict.fromkeys(name for result in results for name in result.others)
        files = sorted({name for result in results for name in result.files})
        plot_pareto(folder.plot, run.members(), results, cost="macs" if "params" not in objectives else "params")
        write_csv(folder.pareto, [result.row(objectives, others, files) for result in results])
    write_page(folder.page, [read_run(folder.path)])
