"""The stages of a run: training, search, and what is told at the end; each continues where it was killed."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from nat2.data.transform import steps_per_epoch
from nat2.errors import ArchError, ConfigError, RunError
from nat2.files import load_tensors, save_tensors, write_csv
from nat2.nas.archive import Archive, Generation
from nat2.nas.found import Found
from nat2.nas.nat import search
from nat2.pipeline.context import Job
from nat2.pipeline.finetune import ENSEMBLE
from nat2.pipeline.pretrained import begin_with, files_of
from nat2.processes import Processes
from nat2.reports.curves import write_curves
from nat2.reports.page import write_page
from nat2.reports.plots import plot_pareto
from nat2.runs.accuracy import Accuracy
from nat2.runs.config import RunConfig, parse_widths
from nat2.runs.folder import RunFolder
from nat2.runs.read import read_run
from nat2.runs.results import Result
from nat2.seeds import torch_generator
from nat2.space import Arch, Macro
from nat2.supernet import SuperNetwork, SuperNetworks, store_statistics
from nat2.supernet.checkpoint import load_weights
from nat2.supernet.static import channels_last
from nat2.training.adapt import Adaptation
from nat2.training.optimise import has_state
from nat2.training.shrink import (
    PhaseOutcome,
    TeacherSource,
    largest_as_teacher,
    phases_for,
    shrink,
    teacher_file,
)


def train_supernets(job: Job, networks: Sequence[SuperNetwork], lap: Callable[[], None]) -> SuperNetworks:
    """Stage 1: progressive shrinking of the super-network of each width; reads those that were trained before.

    Args:
        job: What the stages share.
        networks: Those to begin with, narrowest first; none if the run was begun before.
        lap: Called behind each phase.
    """
    config = job.config
    steps = steps_per_epoch(len(job.dataset.train), config.shrink.batch_size)
    epochs = sum(phase.epochs for phase in phases_for(job.space, config.phases))
    missing = sum(not job.folder.trained(macro.width).exists() for macro in job.macros)
    if missing:
        job.progress.stage("train", steps=epochs * steps * missing)
    given: Sequence[SuperNetwork | None] = networks or [None] * len(job.macros)
    # The widest first: it may teach the others.
    pairs = list(zip(job.macros, given, strict=True))[::-1]
    trained = [_train_supernet(job, macro, network, lap) for macro, network in pairs]
    return SuperNetworks(trained[::-1])


def new_supernet(
    config: RunConfig, macro: Macro, processes: Processes, say: Callable[[str], None] = lambda line: None
) -> SuperNetwork:
    """The super-network of a width with random or given weights."""
    generator = torch_generator(config.seed, "weights")
    network = SuperNetwork(macro, dropout=config.dropout, generator=generator)
    if config.pretrained:
        path = files_of(config)[parse_widths(config.width).index(macro.width)]
        for note in begin_with(network, path):
            say(f"{path}: {note}")
    return channels_last(network, processes.device)


def _train_supernet(job: Job, macro: Macro, network: SuperNetwork | None, lap: Callable[[], None]) -> SuperNetwork:
    config, processes = job.config, job.processes
    trained, state = job.folder.trained(macro.width), job.folder.shrinking(macro.width)
    if trained.exists():
        network = channels_last(SuperNetwork(macro, dropout=config.dropout), processes.device)
        load_weights(network, load_tensors(trained)[0])
        return network.eval()
    if network is None:
        begun = dataclasses.replace(config, pretrained="") if has_state(state) else config
        network = new_supernet(begun, macro, processes, job.progress.say)
    space = dataclasses.replace(job.space, widths=(macro.width,))
    title = "train" if len(job.macros) == 1 else f"train width {macro.width}"
    widest, teacher_of = job.macros[-1], None
    if config.shrink.teacher == "widest" and macro is not widest:
        teacher_of = TeacherSource(widest, teacher_file(job.folder.shrinking(widest.width)))

    def report(outcome: PhaseOutcome, network: SuperNetwork) -> None:
        ends = (space.largest, space.smallest)
        measured = processes.spread(lambda arch: job.evaluator.error(network, arch), ends, costs=(1, 1))
        counts = job.folder.images().get("val", ())
        largest, smallest = (Accuracy.over(1 - error, counts) for _, error, _ in measured)
        chance = "" if largest.beats_chance else ", no better than chance"
        kept = f", epoch {outcome.kept} kept" if outcome.kept < outcome.phase.epochs else ""
        job.progress.say(
            f"{title}: {outcome.phase.name} done{kept}, learning rate {outcome.learning_rate:.3g}, loss "
            f"{outcome.loss:.3f}, validation accuracy {largest.percent} % (largest network{chance}), "
            f"{smallest.percent} % (smallest)"
        )
        lap()

    shrink(
        network,
        space,
        job.dataset.train,
        job.pipeline,
        config.phases,
        config.shrink,
        state=state,
        seed=config.seed,
        supported=space.expands if config.pretrained else (),
        teacher_of=teacher_of,
        processes=processes,
        interval=config.checkpoint_seconds,
        validate=lambda network, arch: 1 - job.evaluator.error(network, arch),
        report=report,
        say=job.progress.say,
        tick=job.progress.step,
    )
    processes.once(lambda: save_tensors(trained, network.state_dict()))
    return network.eval()


def search_networks(job: Job, networks: SuperNetworks, archive: Archive[Arch], lap: Callable[[], None]) -> Found[Arch]:
    """Stage 2: NAT2's loop, with adaptation. The networks hold the adapted weights afterwards."""
    config, folder, processes = job.config, job.folder, job.processes
    widest = networks[job.space.largest.width]
    teacher = largest_as_teacher(widest, job.space, job.dataset.train, job.pipeline, config.shrink)
    steps = steps_per_epoch(len(job.dataset.train), config.adapt.batch_size)
    adapts = config.adapt.epochs > 0
    training = config.search.generations * config.adapt.epochs * steps
    job.progress.stage("search", evaluations=config.search.evaluations(adapts=adapts), steps=training)
    adaptation = Adaptation(
        networks,
        job.space,
        job.dataset.train,
        job.pipeline,
        teacher,
        config.adapt,
        generations=config.search.generations,
        state=folder.state / "adapt.safetensors",
        seed=config.seed,
        processes=processes,
        interval=config.checkpoint_seconds,
        say=job.progress.say,
        tick=partial(job.progress.step, unit="steps"),
    )

    def report(generation: Generation) -> None:
        processes.once(lambda: _log(job, archive.generations()))
        job.progress.say(f"search: {generation.told(config.search.generations)}")
        lap()

    processes.once(lambda: _note_latency(job, archive))
    evaluator = job.evaluator
    tied = evaluator.tied(networks, (*job.objectives, *job.also))
    found = search(
        job.space,
        evaluator.evaluate(networks, job.objectives),
        tied[: len(job.objectives)],
        also=tied[len(job.objectives) :],
        settings=config.search,
        archive=archive,
        adapt=adaptation.advance if adapts else None,
        seed=config.seed,
        processes=processes,
        tick=partial(job.progress.step, unit="evaluations"),
        report=report,
        say=job.progress.say,
    )
    return found


def save_supernets(job: Job, networks: SuperNetworks) -> list[Path]:
    """Write the super-networks as they are now, one file a width.

    What their own batch norms hold is what sub-networks inherit before they are calibrated: statistics of the largest.
    """
    for network in networks:
        largest = dataclasses.replace(job.space.largest, width=network.macro.width)
        store_statistics(network, job.evaluator.statistics(network, largest, exits=network.macro.exits))

    def save() -> None:
        for network in networks:
            metadata = {"macro": dataclasses.asdict(network.macro)}
            save_tensors(job.folder.supernet(network.macro.width), network.state_dict(), metadata)

    job.processes.once(save)
    return [job.folder.supernet(network.macro.width) for network in networks]


def adapted(job: Job) -> SuperNetworks:
    """The super-networks of a finished search.

    Raises:
        CheckpointError: a file is missing or damaged.
    """
    networks = []
    for macro in job.macros:
        network = channels_last(SuperNetwork(macro), job.processes.device)
        load_weights(network, load_tensors(job.folder.supernet(macro.width))[0])
        networks.append(network.eval())
    return SuperNetworks(networks)


def asked(job: Job, names: Sequence[str]) -> list[Arch]:
    """The networks that a user names: by the id of one in the archive, or by any architecture's key.

    Raises:
        ConfigError: there is no such network.
    """
    by_id: dict[str, Arch] = {}
    if names and job.folder.archive.exists():
        with Archive.snapshot(job.folder.archive) as archive:
            by_id = {evaluation.arch.id: evaluation.arch for evaluation, _ in archive.evaluations()}
    found = []
    for name in dict.fromkeys(names):
        arch = by_id.get(name.removesuffix(ENSEMBLE))
        if arch is None:
            try:
                arch = Arch.from_key(name)
                job.space.validate(arch)
            except ArchError as error:
                raise ConfigError(
                    f"{name!r} is neither the id of a network in {job.folder.archive} nor the key of one that can be "
                    f"searched ({error})"
                ) from error
        found.append(arch)
    return found


def _note_latency(job: Job, archive: Archive[Arch]) -> None:
    """Note what latencies are measured with; those of two devices cannot be compared."""
    config = job.config
    facts = {"batch": config.latency_batch, "threads": config.latency_threads, "device": job.processes.device.type}
    measured_with = json.dumps(facts)
    noted = archive.noted("latency")
    if "latency" in job.columns and noted not in (None, measured_with):
        raise RunError(
            f"the latencies in {job.folder.archive} were measured with {noted}, now it would be {measured_with}; "
            "continue on the same device (--accelerator), or begin again with --fresh"
        )
    archive.note("latency", measured_with)


def _log(job: Job, generations: Sequence[Generation]) -> None:
    write_csv(job.folder.log, [each.row() for each in generations])
    if job.config.tensorboard:
        write_curves(job.folder.curves, generations)


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
