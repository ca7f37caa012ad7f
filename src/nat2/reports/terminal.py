"""The closing lines of a command: what was found, what was written, and what to do next."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Table

from nat2.deploy.latency import Measured
from nat2.nas.archive import Evaluation
from nat2.nas.budget import format_value
from nat2.nas.objectives import OBJECTIVES
from nat2.progress import duration
from nat2.runs.accuracy import Accuracy
from nat2.runs.folder import RunFolder
from nat2.runs.results import Result, chance_warning, guessing, picks, precision_warning, table
from nat2.runs.rounding import milliseconds, rounded
from nat2.runs.timeplan import TimePlan
from nat2.space.arch import Arch
from nat2.wording import counted

_SHOWN = 12  # networks of a front


def time_plan_table(plan: TimePlan) -> Table:
    """What each stage of a run that is planned for a time does, and how long it is expected to take."""
    shown = Table("stage", "amount", "time", box=SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    shown.columns[2].justify = "right"
    for stage in plan.stages:
        shown.add_row(stage.name, stage.amount, duration(stage.seconds))
    shown.add_row("in all", "", duration(plan.seconds))
    shown.caption = f"planned for {plan.time}; settings that you give are kept" + (
        f"; {plan.resolutions}" if plan.resolutions else ""
    )
    return shown


def training_summary(supernets: Sequence[Path], folder: RunFolder) -> list[Table | str]:
    """After `nat2 train`."""
    return [
        "",
        _lines(
            ("super-network", ", ".join(map(str, supernets))),
            ("time", duration(sum(folder.seconds().values()))),
            ("next", f"nat2 search {shlex.quote(str(folder.path))}"),
        ),
    ]


def search_summary(front: Sequence[Evaluation[Arch]], folder: RunFolder) -> list[Table | str]:
    """After `nat2 search`."""
    columns = [name for name in front[0].values if name not in ("error", "params", "macs", "latency_spread")]
    shown = Table(
        "network", "pixels", "exit", "params", "MACs", *columns, "found %", box=SIMPLE_HEAD, collapse_padding=True,
        pad_edge=False,
    )  # fmt: skip
    for column in shown.columns[1:]:
        column.justify = "right"
    counts = folder.images().get("val", ())
    found = {evaluation.arch: Accuracy.over(1 - evaluation["error"], counts) for evaluation in front}
    ordered = sorted(front, key=lambda evaluation: (evaluation["params"], evaluation["macs"]))
    step = max(1, -(-len(ordered) // _SHOWN))
    for evaluation in ordered[::step]:
        arch = evaluation.arch
        shown.add_row(
            arch.id, str(arch.resolution), str(arch.exit), f"{evaluation['params']:,.0f}", f"{evaluation['macs']:,.0f}",
            *(_spelled(name, evaluation[name]) for name in columns), found[arch].percent,
        )  # fmt: skip
    beaten = "by accuracy on validation images, before fine-tuning"
    shown.caption = (
        f"{len(ordered[::step])} of {counted(len(ordered), 'network')} that no other beats, {beaten}; ±: standard error"
    )
    best = max(found.values(), key=lambda accuracy: accuracy.share)
    warning = f"no network beats chance by its standard error: {guessing(best, 'validation')}"
    return [
        "",
        shown,
        _lines(
            ("archive", f"{folder.archive}, {folder.log}"),
            ("report", f"{folder.page} (open it in a browser)"),
            ("time", duration(sum(folder.seconds().values()))),
            *([] if best.beats_chance else [("warning", warning)]),
            ("next", f"nat2 finetune {shlex.quote(str(folder.path))}"),
        ),
    ]


def networks_summary(results: Sequence[Result], folder: RunFolder) -> list[Table | str]:
    """After `nat2 run` and `nat2 finetune`."""
    chosen = picks(results)
    needs = [
        (
            need,
            f"{folder.network(result.id)}  ({result.validated.percent} % validation, {result.tested.percent} % test, "
            f"{result.params:,} parameters)",
        )
        for need, result in chosen.items()
    ]
    best = shlex.quote(str(folder.network(chosen["small and good"].id)))
    warning = chance_warning(results)
    hopeless = not any(result.test_beats_chance for result in results)
    following = f"nat2 predict {best} IMAGE"
    if hopeless:
        following = "check the labels, add images, or train longer (--finetune.steps, --fresh)"
    return [
        "",
        table(results, folder.milliseconds()),
        "",
        _lines(
            *needs,
            ("", ""),
            ("report", f"{folder.page} (open it in a browser), {folder.pareto}, {folder.plot}"),
            ("each network", _files(results)),
            ("time", duration(sum(folder.seconds().values()))),
            *(("warning", text) for text in (warning, precision_warning(results)) if text),
            ("next", following),
        ),
    ]


def latency_table(measured: Sequence[Measured]) -> Table:
    """After `nat2 latency`."""
    shown = Table(
        "network", "runtime", "device", "batch", "threads", "median ms", "quartiles", "images/s", box=SIMPLE_HEAD,
        collapse_padding=True, pad_edge=False,
    )  # fmt: skip
    for column in shown.columns[3:]:
        column.justify = "right"
    for each in measured:
        latency, rate = each.latency, 1000 * each.batch / each.latency.median
        median, lower, upper = (
            milliseconds(value, latency) for value in (latency.median, latency.lower, latency.upper)
        )
        shown.add_row(
            each.id, each.runtime, each.device, str(each.batch), str(each.threads), median,
            f"{lower}-{upper}", f"{rounded(rate, rate * latency.spread / latency.median):,.0f}",
        )  # fmt: skip
    return shown


def _files(results: Sequence[Result]) -> str:
    """The files that a network has, those to ship first."""
    names = {name for result in results for name in result.files} or {"model.onnx", "model.safetensors"}
    order = ("model.onnx", "model-int8.onnx", "model.pt2", "model.safetensors")
    return ", ".join([*(name for name in order if name in names), "arch.json", "preprocessing.json"])


def _spelled(name: str, value: float) -> str:
    known = OBJECTIVES.get(name)
    return format_value(value, known.unit if known else "")


def _lines(*pairs: tuple[str, str]) -> str:
    return "\n".join(f"{name:>18}: {text}" if name else "" for name, text in pairs)
