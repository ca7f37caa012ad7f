"""The whole way, from labelled images to networks ready to ship; every stage continues where it was killed."""

from __future__ import annotations

import dataclasses
import json
import shlex
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from nat2.allocator import keep_freed_memory
from nat2.config import RunConfig, parse_widths
from nat2.data.dataset import Dataset, name_of
from nat2.data.transform import steps_per_epoch
from nat2.errors import ConfigError, RunError
from nat2.evaluation import latency_of_ends, try_objectives
from nat2.files import load_tensors, save_tensors, write_csv
from nat2.folder import RunFolder, check_place, was_cleared
from nat2.job import Job
from nat2.nas.archive import Archive, Generation
from nat2.nas.found import Found
from nat2.nas.nat import search
from nat2.parallel import Processes, connect, disconnected, launch, launched, may_restart, restarted
from nat2.polish import polish_networks
from nat2.prepare import prepare
from nat2.progress import Progress, duration
from nat2.reports.curves import write_curves
from nat2.reports.page import write_page
from nat2.reports.plots import plot_pareto
from nat2.reports.results import Result, picks, table
from nat2.seeds import torch_generator
from nat2.space import Arch, Macro
from nat2.supernet import SuperNetwork, SuperNetworks, store_statistics
from nat2.supernet.checkpoint import load_pretrained, load_weights, read_checkpoint
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


def run(config: RunConfig, *, out: Path | None = None, fresh: bool = False, quiet: bool = False) -> list[Result]:
    """Train, search, fine-tune, export and report; or continue a run that was interrupted.

    Args:
        config: What to do.
        out: The run folder; ``runs/<name of the data>`` by default.
        fresh: Discard what the folder holds of an earlier run.
        quiet: Print nothing.

    Returns:
        The networks, smallest first.

    Raises:
        Nat2Error: something the user can mend; nothing that was computed is lost.
    """
    check_place(out or Path())
    if fresh and may_restart():
        raise ConfigError(
            "--fresh would discard the run again whenever torchrun starts its processes again; leave out --fresh or "
            "--max-restarts, or remove the run folder yourself"
        )
    token = uuid.uuid4().hex if fresh else ""
    if config.devices > 1 and not launched():
        return launch(_run_here, config, out, token, quiet, devices=config.devices)
    return _run_here(config, out, token, quiet)


def _run_here(config: RunConfig, out: Path | None, fresh: str, quiet: bool) -> list[Result]:
    """What each process of a run does; `fresh` names the command that discards what there is."""
    keep_freed_memory()
    processes = connect(accelerator=config.accelerator, precision=config.precision)
    out = out or Path("runs") / name_of(config.data)
    with Progress(quiet=quiet or not processes.first) as progress, disconnected():
        if restarted():
            progress.say("a process was lost; all were started again and go on")
        if config.data != "digits" and out.resolve().is_relative_to(Path(config.data).resolve()):
            raise ConfigError(
                f"the run folder {out} lies inside the images in {config.data} and would be read as one of their "
                "classes; choose another folder with --out"
            )
        progress.say(f"reading {config.data}")
        config, dataset, macros = prepare(config, processes)
        # Whether weights to begin with are there and fit is known before the run folder is touched.
        begun = (out / "config.yaml").exists() and (not fresh or was_cleared(out, fresh))
        notes: list[str] = []
        networks = () if begun else tuple(_new_supernet(config, macro, processes, notes.append) for macro in macros)
        with _open_folder(out, fresh, config, dataset, processes) as folder:
            if processes.once(lambda: folder.finished):
                progress.say(f"{out} holds the finished run of this configuration; --fresh starts over")
            else:
                job = Job.of(config, dataset, macros, folder, progress, processes)
                for name, text in (*job.introduction, *(("weights", note) for note in notes)):
                    progress.say(f"{name}: {text}")
                if networks:
                    processes.once(lambda: _try_measuring(job, SuperNetworks(networks)))
                results = _stages(job, networks)
                processes.once(lambda: folder.finish(results))
            results = processes.once(folder.results)
            progress.rest()
            if processes.first:
                _tell(results, folder, progress)
            return results


def _open_folder(out: Path, fresh: str, config: RunConfig, dataset: Dataset, processes: Processes) -> RunFolder:
    """The run folder, claimed by the first process and seen by the others."""
    opened: list[RunFolder] = []

    def claim() -> None:
        opened.append(RunFolder(out, fresh=fresh))
        opened[0].claim(config, dataset)

    processes.once(claim)
    return opened[0] if opened else RunFolder(out, shared=True)


def _stages(job: Job, networks: tuple[SuperNetwork, ...]) -> list[Result]:
    with _timed(job, "train") as lap:
        trained = train_supernets(job, networks, lap)
    with _open_archive(job) as archive:
        with _timed(job, "search") as lap:
            found = search_networks(job, trained, archive, lap)
        with _timed(job, "fine-tune and export") as lap:
            results = polish_networks(job, trained, found, lap)
        with _timed(job, "report"):
            job.processes.once(lambda: _report(job, found, results, archive.generations()))
    return results


def _try_measuring(job: Job, networks: SuperNetworks) -> None:
    """Refuse a latency that no network has, and functions that do not work, before hours of work."""
    every = (*job.objectives, *job.also)
    try_objectives(job.evaluator, networks, job.space, every)
    for each in every:
        if each.name == "latency" and each.bounded:
            latency_of_ends(job.evaluator, networks, job.space, each)


def _open_archive(job: Job) -> Archive[Arch]:
    """The archive on disk in the first process, a copy in memory in the others."""
    opened: list[Archive[Arch]] = []

    def open_file() -> bytes:
        opened.append(Archive(job.folder.archive, job.columns))
        return opened[0].content() if job.processes.size > 1 else b""

    content = job.processes.once(open_file)
    return opened[0] if opened else Archive.copy(content, job.columns)


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
        job.progress.stage("train", epochs * steps * missing)
    given: Sequence[SuperNetwork | None] = networks or [None] * len(job.macros)
    # The widest first: it may teach the others.
    pairs = list(zip(job.macros, given, strict=True))[::-1]
    trained = [_train_supernet(job, macro, network, lap) for macro, network in pairs]
    return SuperNetworks(trained[::-1])


def _new_supernet(
    config: RunConfig, macro: Macro, processes: Processes, say: Callable[[str], None] = lambda line: None
) -> SuperNetwork:
    """The super-network of a width with random or given weights."""
    generator = torch_generator(config.seed, "weights")
    network = SuperNetwork(macro, dropout=config.dropout, generator=generator)
    if config.pretrained:
        path = config.pretrained.split(",")[parse_widths(config.width).index(macro.width)]
        for note in load_pretrained(network, read_checkpoint(path, width=macro.width)):
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
        network = _new_supernet(begun, macro, processes, job.progress.say)
    space = dataclasses.replace(job.space, widths=(macro.width,))
    title = "train" if len(job.macros) == 1 else f"train width {macro.width}"
    widest, teacher_of = job.macros[-1], None
    if config.shrink.teacher == "widest" and macro is not widest:
        teacher_of = TeacherSource(widest, teacher_file(job.folder.shrinking(widest.width)))

    def report(outcome: PhaseOutcome, network: SuperNetwork) -> None:
        ends = (space.largest, space.smallest)
        measured = processes.spread(lambda arch: job.evaluator.error(network, arch), ends, costs=(1, 1))
        largest, smallest = (1 - error for _, error, _ in measured)
        kept = f", epoch {outcome.kept} kept" if outcome.kept < outcome.phase.epochs else ""
        job.progress.say(
            f"{title}: {outcome.phase.name} done{kept}, learning rate {outcome.learning_rate:.3g}, loss "
            f"{outcome.loss:.3f}, validation accuracy {100 * largest:.1f} % (largest network), "
            f"{100 * smallest:.1f} % (smallest)"
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
    job.progress.stage("search", config.search.evaluations(adapts=adapts) + training)
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
        tick=job.progress.step,
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
        tick=job.progress.step,
        report=report,
        say=job.progress.say,
    )

    # What the super-network's own batch norms hold is what sub-networks inherit before they are calibrated.
    for network in networks:
        largest = dataclasses.replace(job.space.largest, width=network.macro.width)
        store_statistics(network, evaluator.statistics(network, largest, exits=network.macro.exits))

    def save() -> None:
        for network in networks:
            metadata = {"macro": dataclasses.asdict(network.macro)}
            save_tensors(folder.supernet(network.macro.width), network.state_dict(), metadata)

    processes.once(save)
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


def _report(job: Job, found: Found[Arch], results: list[Result], generations: list[Generation]) -> None:
    folder, dataset = job.folder, job.dataset
    objectives = [objective.name for objective in job.objectives]
    write_csv(folder.pareto, [result.row(objectives) for result in results])
    plot_pareto(folder.plot, found.members, results, cost="macs" if "params" not in objectives else "params")
    write_page(
        folder.page,
        title=dataset.name,
        facts=job.introduction,
        archive=found.members,
        results=results,
        generations=generations,
        seconds=folder.seconds(),
        config=folder.config.read_text(),
    )


@contextmanager
def _timed(job: Job, stage: str) -> Iterator[Callable[[], None]]:
    """Add what a stage takes to the folder's account: at its end, however it ends, and at each call of the result."""
    began = time.monotonic()

    def lap() -> None:
        nonlocal began
        now = time.monotonic()
        if job.processes.first:
            job.folder.add_seconds(stage, now - began)
        began = now

    try:
        yield lap
    finally:
        lap()


def _tell(results: list[Result], folder: RunFolder, progress: Progress) -> None:
    """The last lines: the table, what was written, which network to take, and what to do next."""
    lines = [
        f"{need:>18}: {folder.network(result.id)}  "
        f"({100 * result.test_accuracy:.1f} % on the test images, {result.params:,} parameters)"
        for need, result in picks(results).items()
    ]
    best = folder.network(picks(results)["small and good"].id)
    lines += [
        "",
        f"{'report':>18}: {folder.page} (open it in a browser), {folder.pareto}, {folder.plot}",
        f"{'each network':>18}: model.onnx, model.safetensors, arch.json (architecture, classes, input)",
        f"{'time':>18}: {duration(sum(folder.seconds().values()))}",
        f"{'next':>18}: nat2 predict {shlex.quote(str(best))} IMAGE",
    ]
    for part in ("", table(results), "", "\n".join(lines)):
        progress.show(part)
