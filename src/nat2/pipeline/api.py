"""The verbs: a run, or a part of one. Each continues what was begun before in its folder, and prints a summary."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, overload

from nat2.allocator import keep_freed_memory
from nat2.data.dataset import Dataset, name_of
from nat2.errors import ConfigError
from nat2.launcher import launch, launched, may_restart, restarted
from nat2.nas.archive import Archive, Evaluation
from nat2.nas.functions import Evaluate, SearchFunctions
from nat2.nas.nat import search as search_space
from nat2.nas.objectives import Objective
from nat2.nas.search_result import SearchResult
from nat2.pipeline.context import RunContext
from nat2.pipeline.evaluation import latency_of_ends, try_objectives
from nat2.pipeline.export import check_target, export, has_files_for
from nat2.pipeline.finetune import finetune_networks, select_networks, works_for
from nat2.pipeline.planning import account, left_open, plan_for, recall_lengths
from nat2.pipeline.prepare import prepare
from nat2.pipeline.pretrained import recalled, remarks
from nat2.pipeline.remaining import affordable, corrected, extended
from nat2.pipeline.returned import remeasure
from nat2.pipeline.stages import (
    adapted,
    measured_front,
    new_supernet,
    report_networks,
    resolve_networks,
    save_supernets,
    search_networks,
    train_supernets,
)
from nat2.processes import Processes, checked_kind, connect, disconnected
from nat2.progress import Progress
from nat2.reports.return_values import Front, Results, Supernets
from nat2.reports.terminal import networks_summary, search_summary, time_plan_table, training_summary
from nat2.runs.config import RunConfig
from nat2.runs.folder import RunFolder, check_place, was_cleared
from nat2.runs.read import read_run
from nat2.runs.results import Result
from nat2.runs.timeplan import TimePlan
from nat2.space import Arch
from nat2.space.boards import ANYWHERE
from nat2.space.searchable import A, Searchable
from nat2.supernet import SuperNetwork, SuperNetworks
from nat2.validation import user_path

Stage = Literal["train", "search", "finetune"]


def run(config: RunConfig, *, out: Path | str | None = None, fresh: bool = False, quiet: bool = False) -> list[Result]:
    """Train, search, fine-tune, export and report; or continue a run that was interrupted.

    Args:
        config: What to do.
        out: The run folder; ``runs/<name of the data>`` by default.
        fresh: Discard what the folder holds of an earlier run.
        quiet: Print nothing.

    Returns:
        The networks, smallest first.

    Raises:
        Nat2Error: something the user can correct; nothing that was computed is lost.
    """
    results = Results(_start(config, out, fresh, quiet, "finetune").results)
    _write_for_target(config, out, results, quiet)
    return results


def train(config: RunConfig, *, out: Path | str | None = None, fresh: bool = False, quiet: bool = False) -> list[Path]:
    """The first stage of a run: train its super-networks, or go on with that.

    Takes and raises what `run` does.

    Returns:
        Their files, narrowest first.
    """
    return Supernets(_start(config, out, fresh, quiet, "train").supernets)


@overload
def search(
    space: RunConfig, *, out: Path | str | None = None, fresh: bool = False, quiet: bool = False
) -> list[Evaluation[Arch]]: ...


@overload
def search(
    space: Searchable[A], evaluate: Evaluate[A] | SearchFunctions[A], objectives: Sequence[Objective], **options: Any
) -> SearchResult[A]: ...


def search(space: RunConfig | Searchable[Any], *arguments: Any, **options: Any) -> object:
    """Search the run of a configuration (`search_run`), or any space with an evaluation (`nat2.nas.nat.search`)."""
    if isinstance(space, RunConfig):
        return search_run(space, *arguments, **options)
    return search_space(space, *arguments, **options)


def search_run(
    config: RunConfig, *, out: Path | str | None = None, fresh: bool = False, quiet: bool = False
) -> list[Evaluation[Arch]]:
    """The second stage of a run: search its super-networks, which are trained first if they are not.

    Takes and raises what `run` does.

    Returns:
        The networks that no other beats.
    """
    return Front(_start(config, out, fresh, quiet, "search").front)


def finetune(
    config: RunConfig, *, networks: str | Sequence[str] = (), out: Path | str | None = None, quiet: bool = False
) -> list[Result]:
    """The last stage of a run: fine-tune, test and export the networks it returns, and others of your choice.

    Takes and raises what `run` does, and makes the stages before it if they are not yet made.

    Args:
        config: Of the run.
        networks: Further ones: ids of networks in the archive, or any architecture's key; also of a finished run.
        out: The run folder; ``runs/<name of the data>`` by default.
        quiet: Print nothing.

    Returns:
        All networks of the run, smallest first.
    """
    names = (networks,) if isinstance(networks, str) else tuple(networks)
    results = Results(_start(config, out, False, quiet, "finetune", names).results)
    _write_for_target(config, out, results, quiet)
    return results


def _place(config: RunConfig, out: Path | str | None) -> Path:
    """The run folder."""
    given = user_path(out or ".", "--out")
    return Path("runs") / name_of(config.data) if given == Path() else given


def _write_for_target(config: RunConfig, out: Path | str | None, results: Sequence[Result], quiet: bool) -> None:
    """Write the files for the target of a run that its networks lack; of several processes the first does it."""
    if config.target == ANYWHERE or (launched() and int(os.environ.get("RANK", "0"))):
        return
    place = _place(config, out)
    missing = [each.id for each in results if not has_files_for(place / "networks" / each.id, config.target)]
    if missing:
        export(place, missing, target=config.target, quiet=quiet)


@dataclass
class _Outcome:
    """What a verb has reached."""

    supernets: list[Path] = field(default_factory=list)
    front: list[Evaluation[Arch]] = field(default_factory=list)
    results: list[Result] = field(default_factory=list)


@dataclass(frozen=True)
class _Order:
    """What a verb was asked to do, for every process that does it."""

    config: RunConfig
    out: Path
    fresh: str
    """Names the command that discards what there is; empty if none does."""
    quiet: bool
    until: Stage
    networks: tuple[str, ...]


def _start(
    config: RunConfig, out: Path | str | None, fresh: bool, quiet: bool, until: Stage, networks: tuple[str, ...] = ()
) -> _Outcome:
    if fresh and may_restart():
        raise ConfigError(
            "--fresh would discard the run again whenever torchrun starts its processes again; leave out --fresh or "
            "--max-restarts, or remove the run folder yourself"
        )
    if until == "finetune" and config.target != ANYWHERE:
        check_target(config.target)
    out = _place(config, out)
    check_place(out)
    order = _Order(config, out, uuid.uuid4().hex if fresh else "", quiet, until, networks)
    count = config.devices * config.processes_per_gpu
    if count > 1 and not launched():
        checked_kind(config.accelerator, count, config.processes_per_gpu)
        return launch(_work, order, devices=count)
    return _work(order)


def _work(order: _Order) -> _Outcome:
    """What each process does."""
    keep_freed_memory()
    config, out = order.config, order.out
    processes = connect(
        accelerator=config.accelerator,
        precision=config.precision,
        per_gpu=config.processes_per_gpu,
        cuda_graphs=config.cuda_graphs,
        timeout=config.process_timeout,
    )
    with Progress(quiet=order.quiet or not processes.first) as progress, disconnected(processes):
        if restarted():
            progress.say("a process was lost; all were started again and go on")
        if config.data != "digits" and out.resolve().is_relative_to(Path(config.data).resolve()):
            raise ConfigError(
                f"the run folder {out} lies inside the images in {config.data} and would be read as one of their "
                "classes; choose another folder with --out"
            )
        progress.say(f"reading {config.data}")
        begun = (out / "config.yaml").exists() and (not order.fresh or was_cleared(out, order.fresh))
        began, given = time.monotonic(), config
        if begun:
            given = recall_lengths(recalled(config, out / "config.yaml"), out / "config.yaml")
        plan, dataset = prepare(given, processes, progress=progress)
        time_plan = None
        if config.time and not begun and left_open(config):
            plan, dataset, time_plan = plan_for(config, plan, dataset, processes, progress=progress, began=began)
        reading = time.monotonic() - began
        # Whether weights to begin with are there and fit is known before the run folder is touched.
        notes: list[str] = []
        if plan.pretrained and not begun:
            notes += remarks(given, plan, dataset)
        built = [] if begun else [new_supernet(plan, macro, processes) for macro in plan.macros]
        networks = tuple(network for network, _ in built)
        notes += [note for _, found in built for note in found]
        with _open_folder(order, plan.config, dataset, processes, time_plan) as folder:
            context = RunContext.of(plan, dataset, folder, progress, processes)
            finished = processes.once(lambda: folder.finished)
            if finished and not order.networks:
                progress.say(f"{out} holds the finished run of this configuration; --fresh starts over")
                results, front = processes.once(lambda: (folder.results(), read_run(out).front))
                outcome = _Outcome([folder.supernet(width) for width in plan.widths], front, results)
            else:
                if processes.first:
                    folder.add_seconds("read", reading)
                for name, text in (*context.introduction, *(("weights", note) for note in notes)):
                    progress.say(f"{name}: {text}")
                if time_plan is not None:
                    progress.show(time_plan_table(time_plan))
                else:
                    progress.say(f"plan: {account(plan, len(dataset.train)).sentence}")
                if networks:
                    processes.once(lambda: _try_measuring(context, SuperNetworks(networks)))
                outcome = _add(context, order.networks) if finished else _stages(context, networks, order)
            progress.rest()
            if processes.first:
                _tell(outcome, folder, progress)
            return outcome


def _tell(outcome: _Outcome, folder: RunFolder, progress: Progress) -> None:
    if outcome.results:
        parts = networks_summary(outcome.results, folder)
    elif outcome.front:
        parts = search_summary(outcome.front, folder)
    else:
        parts = training_summary(outcome.supernets, folder)
    for part in parts:
        progress.show(part)


def _open_folder(
    order: _Order, config: RunConfig, dataset: Dataset, processes: Processes, time_plan: TimePlan | None
) -> RunFolder:
    """The run folder, claimed by the first process and seen by the others."""
    opened: list[RunFolder] = []

    def claim() -> None:
        with ExitStack() as held:  # which lets go of a folder that cannot be claimed
            folder = held.enter_context(RunFolder(order.out, fresh=order.fresh))
            folder.claim(config, dataset, time_plan)
            held.pop_all()
        opened.append(folder)

    processes.once(claim)
    return opened[0] if opened else RunFolder(order.out, shared=True)


def _stages(context: RunContext, networks: tuple[SuperNetwork, ...], order: _Order) -> _Outcome:
    """One stage after the other, up to the one that was asked for."""
    outcome, searching = _Outcome(), context.processes.once(context.folder.archive.exists)
    wanted = context.processes.once(lambda: resolve_networks(context, order.networks))
    with context.clock.timed("train"):
        trained = train_supernets(context, networks)
        if order.until == "train":
            outcome.supernets = [context.folder.supernet(width) for width in context.plan.widths]
            if not searching:  # then they are the adapted ones
                save_supernets(context, trained)
            return outcome
    if not networks and not searching:  # objectives and budget may have been given only now
        context.processes.once(lambda: _try_measuring(context, trained))
    with open_archive(context) as archive:
        with context.clock.timed("search"):
            found = search_networks(context, trained, archive)
            outcome.supernets, outcome.front = save_supernets(context, trained), measured_front(context, found)
        if order.until == "search":
            context.processes.once(lambda: report_networks(context.folder, []))
            return outcome
        with context.clock.timed("fine-tune and export"):
            context = affordable(context, trained, found)
            chosen = context.processes.once(lambda: select_networks(context, found))
            known = {evaluation.arch for evaluation in chosen}
            further = [arch for arch in wanted if arch not in known]
            outcome.results = finetune_and_report(context, trained, chosen, further)
    context.processes.once(lambda: context.folder.finish(outcome.results))
    return outcome


def _add(context: RunContext, names: Sequence[str]) -> _Outcome:
    """Further networks of a finished run."""
    wanted = context.processes.once(lambda: resolve_networks(context, names))
    with context.clock.timed("fine-tune and export"):
        made = finetune_and_report(context, adapted(context), [], wanted)
    context.processes.once(lambda: context.folder.finish(made))
    return _Outcome(results=made)


def finetune_and_report(
    context: RunContext,
    networks: SuperNetworks,
    chosen: Sequence[Evaluation[Arch]],
    further: Sequence[Arch],
) -> list[Result]:
    """Fine-tune what the search chose and what the user named in addition, measure latencies, and report.

    Returns:
        All networks of the run, those among them that were asked for before.

    Raises:
        ConfigError: there are none, because no network with several exits keeps the budget.
    """
    asked = [context.evaluated(networks, arch) for arch in further]
    works = works_for(context, networks, chosen, asked)
    context = corrected(context, networks, works)
    results = finetune_networks(
        context,
        networks,
        works,
        asked=set(further),
        extend=lambda context, works: extended(context, networks, works),
    )
    if not results:
        raise ConfigError(
            "no network with all its exits keeps the budget; choose --finetune.variant both or --finetune.prune true"
        )
    results = context.processes.once(context.folder.finished_networks)
    context.clock.lap()
    context.processes.once(lambda: remeasure(context, results))
    context.processes.once(lambda: report_networks(context.folder, results))
    return results


def _try_measuring(context: RunContext, networks: SuperNetworks) -> None:
    """Refuse a latency that no network has, and functions that do not work, before hours of work."""
    every = context.quantities
    try_objectives(context.evaluator, networks, context.space, every)
    for each in every:
        if each.name == "latency" and each.bounded:
            latency_of_ends(context.evaluator, networks, context.space, each)


def open_archive(context: RunContext) -> Archive[Arch]:
    """The archive on disk in the first process, a copy in memory in the others."""
    opened: list[Archive[Arch]] = []

    def open_file() -> bytes:
        opened.append(Archive(context.folder.archive, context.columns, restart="begin again with --fresh"))
        return opened[0].content() if context.processes.size > 1 else b""

    content = context.processes.once(open_file)
    return opened[0] if opened else Archive.copy(content, context.columns)
