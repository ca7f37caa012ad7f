"""The last lines of a verb: what was found, what was written, and what to do next."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Table

from nat2.deploy.latency import Measured
from nat2.folder import RunFolder
from nat2.nas.archive import Evaluation
from nat2.nas.budget import spelled
from nat2.nas.objectives import OBJECTIVES
from nat2.progress import duration
from nat2.reports.results import Result, picks, table
from nat2.space.arch import Arch

_SHOWN = 12  # networks of a front


def tell_training(supernets: Sequence[Path], folder: RunFolder) -> list[Table | str]:
    """Behind `nat2 train`."""
    return [
        "",
        _lines(
            ("super-network", ", ".join(map(str, supernets))),
            ("time", duration(sum(folder.seconds().values()))),
            ("next", f"nat2 search {shlex.quote(str(folder.path))}"),
        ),
    ]


def tell_search(front: Sequence[Evaluation[Arch]], folder: RunFolder) -> list[Table | str]:
    """Behind `nat2 search`."""
    columns = [name for name in front[0].values if name not in ("error", "params", "macs", "latency_spread")]
    shown = Table(
        "network", "pixels", "exit", "params", "MACs", *columns, "found %", box=SIMPLE_HEAD, collapse_padding=True,
        pad_edge=False,
    )  # fmt: skip
    for column in shown.columns[1:]:
        column.justify = "right"
    ordered = sorted(front, key=lambda evaluation: (evaluation["params"], evaluation["macs"]))
    step = max(1, -(-len(ordered) // _SHOWN))
    for evaluation in ordered[::step]:
        arch = evaluation.arch
        shown.add_row(
            arch.id, str(arch.resolution), str(arch.exit), f"{evaluation['params']:,.0f}", f"{evaluation['macs']:,.0f}",
            *(_spelled(name, evaluation[name]) for name in columns), f"{100 * (1 - evaluation['error']):.1f}",
        )  # fmt: skip
    beaten = "by accuracy on validation images, before fine-tuning"
    shown.caption = (
        f"{min(len(ordered), len(ordered[::step]))} of {len(ordered)} networks that no other beats, {beaten}"
    )
    return [
        "",
        shown,
        _lines(
            ("archive", f"{folder.archive}, {folder.log}"),
            ("report", f"{folder.page} (open it in a browser)"),
            ("time", duration(sum(folder.seconds().values()))),
            ("next", f"nat2 finetune {shlex.quote(str(folder.path))}"),
        ),
    ]


def tell_networks(results: Sequence[Result], folder: RunFolder) -> list[Table | str]:
    """Behind `nat2 run` and `nat2 finetune`."""
    chosen = picks(results)
    needs = [
        (
            need,
            f"{folder.network(result.id)}  ({100 * result.test_accuracy:.1f} % on the test images, "
            f"{result.params:,} parameters)",
        )
        for need, result in chosen.items()
    ]
    best = shlex.quote(str(folder.network(chosen["small and good"].id)))
    return [
        "",
        table(results, folder.milliseconds()),
        "",
        _lines(
            *needs,
            ("", ""),
            ("report", f"{folder.page} (open it in a browser), {folder.pareto}, {folder.plot}"),
            ("each network", "model.onnx, model.pt2, model.safetensors, arch.json, preprocessing.json"),
            ("time", duration(sum(folder.seconds().values()))),
            ("next", f"nat2 predict {best} IMAGE"),
        ),
    ]


def tell_latencies(measured: Sequence[Measured]) -> Table:
    """Behind `nat2 latency`."""
    shown = Table(
        "network", "runtime", "device", "batch", "threads", "median ms", "quartiles", "images/s", box=SIMPLE_HEAD,
        collapse_padding=True, pad_edge=False,
    )  # fmt: skip
    for column in shown.columns[3:]:
        column.justify = "right"
    for each in measured:
        latency = each.latency
        shown.add_row(
            each.id, each.runtime, each.device, str(each.batch), str(each.threads), f"{latency.median:.3f}",
            f"{latency.lower:.3f}-{latency.upper:.3f}", f"{1000 * each.batch / latency.median:,.0f}",
        )  # fmt: skip
    return shown


def _spelled(name: str, value: float) -> str:
    known = OBJECTIVES.get(name)
    return spelled(value, known.unit if known else "")


def _lines(*pairs: tuple[str, str]) -> str:
    return "\n".join(f"{name:>18}: {text}" if name else "" for name, text in pairs)
