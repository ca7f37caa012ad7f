"""report.html: one self-contained page that works without a network; of one run, or of several side by side."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path

import plotly.offline

from nat2.files import write_text
from nat2.nas.budget import format_bound, format_value
from nat2.progress import duration
from nat2.reports.genes import genes_html
from nat2.reports.markup import NONE, NUMBER, percent, table
from nat2.reports.mistakes import mistakes_html
from nat2.reports.payload import common_hypervolume, labels, page_data, script_json, values_of
from nat2.reports.references import Reference
from nat2.runs.read import RunReport
from nat2.runs.results import ONNX, Result, chance_warning, guessing
from nat2.runs.rounding import milliseconds
from nat2.space.arch import Arch
from nat2.wording import counted

GENERATOR = '<meta name="generator" content="nat2 report">'
"""In the head of every page that we write."""


def write_page(path: Path, runs: Sequence[RunReport], *, references: Sequence[Reference] = ()) -> None:
    """Write the page of one run, or the comparison of several.

    Args:
        path: Where to.
        runs: At least one.
        references: Networks from elsewhere, to compare with.

    Raises:
        RunError: the file cannot be written.
    """
    single = len(runs) == 1
    content = _single(runs[0]) if single else _comparison(runs)
    scripts = ("plots.js", "picture.js", "report.js") if single else ("plots.js", "comparison.js")
    content |= {
        "GENERATOR": GENERATOR,
        "STYLE": _web("style.css"),
        "DATA": script_json(page_data(runs, references)),
        "PLOTLY": plotly.offline.get_plotlyjs(),
        "SCRIPT": "\n".join(map(_web, scripts)),
    }
    page = _web("report.html" if single else "comparison.html")
    write_text(path, re.sub(r"<!--([A-Z]+)-->", lambda match: content[match[1]], page))


def _web(name: str) -> str:
    return files("nat2.reports").joinpath("web", name).read_text(encoding="utf-8")


def _single(run: RunReport) -> dict[str, str]:
    good = [evaluation.arch for evaluation in run.front]
    return {
        "TITLE": html.escape(run.name),
        "LEAD": _lead(run).replace(" ± ", "&nbsp;±&nbsp;"),
        "STATE": "".join(f"<p class='notice' role='status'>{html.escape(text)}</p>" for text in _notices(run)),
        "NETWORKS": _networks(run) if run.results else "<p>No network is fine-tuned yet.</p>",
        "LATENCY": _timings(run) if run.timings else "",
        "FILES": _files(run),
        "MISTAKES": mistakes_html(run),
        "GOOD": counted(len(good), "network"),
        "GENES": genes_html(good, [evaluation.arch for evaluation in run.members()]),
        "FACTS": _pairs(run.facts),
        "STAGES": _stages(run.seconds),
        "VERSIONS": _versions(run),
        "CONFIG": html.escape(run.config_text),
    }


def _notices(run: RunReport) -> list[str]:
    """What a reader has to know before anything else."""
    if run.results:
        warning = chance_warning(run.results)
    else:
        found = run.found(min(run.members(), key=lambda each: each["error"]))
        warning = "" if found.beats_chance else f"no network beats chance so far: {guessing(found, 'validation')}"
    return [*([run.state] if run.state else []), *([f"{warning[0].upper()}{warning[1:]}."] if warning else [])]


def _lead(run: RunReport) -> str:
    """The outcome in a sentence."""
    tested = f"{sum(run.data['images']['test'].values()):,}"
    if not run.results:
        lowest = run.found(min(run.members(), key=lambda each: each["error"]))
        return (
            f"{len({evaluation.arch for evaluation, _ in run.evaluations}):,} networks have been measured so far. The "
            f"most accurate classifies {lowest.percent} % of the validation images correctly, before fine-tuning."
        )
    best = max(run.results, key=lambda each: (each.val_accuracy, -each.params))
    outcome = f"classifies {best.tested.percent} % of {tested} test images correctly with {best.params:,} parameters"
    if len(run.results) == 1:
        return f"This search returned one network. It {outcome}."
    smallest = run.results[0]
    return (
        f"This search returned {len(run.results)} networks, from small to large. The most accurate {outcome}; the "
        f"smallest {smallest.tested.percent} % with {smallest.params:,}."
    )


def _pairs(pairs: Sequence[tuple[str, str]]) -> str:
    return "".join(f"<dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd>" for name, value in pairs)


def _networks(run: RunReport) -> str:
    """The returned networks: accuracies from inherited to tested, then costs."""
    fixed = ("error", "params", "macs", "latency_spread")
    others = [(each.name, each.name.replace("_", " "), each.unit) for each in run.quantities if each.name not in fixed]
    if any(timing.runtime == "onnx" for timing in run.timings):
        others = [(n, "latency in the search" if n == "latency" else title, unit) for n, title, unit in others]
        others.append(("deployed_latency", "latency", "ms"))
    if any(ONNX in result.files for result in run.results):
        others.append(("file_size", ONNX, "bytes"))
    balanced = any(result.test_balanced for result in run.results)
    int8 = any(result.int8_test_accuracy is not None for result in run.results)
    head = [
        *(("network", False), ("pixels", True), ("exits", True), ("parameters", True), ("MACs", True)),
        *((html.escape(title), True) for _, title, _ in others),
        *(("inherited", True), ("calibrated", True), ("fine-tuned", True), ("test", True)),
        *([("balanced validation", True), ("balanced test", True)] if balanced else []),
        *([("int8 test", True)] if int8 else []),
    ]

    def row(result: Result) -> str:
        arch = Arch.from_key(result.arch)
        values = values_of(run, result)
        extra = [format_value(values[name], unit) if name in values else NONE for name, _, unit in others]
        shares = (result.inherited_val_accuracy, result.calibrated_val_accuracy)
        accuracies = [*map(result.on_validation, shares), result.validated, result.tested]
        numbers = [
            *(str(arch.resolution), " + ".join(map(str, result.exits)), f"{result.params:,}", f"{result.macs:,}"),
            *extra,
            *(each.percent for each in accuracies),
            *([percent(result.val_balanced), percent(result.test_balanced)] if balanced else []),
            *([percent(result.int8_tested)] if int8 else []),
        ]
        name = html.escape(result.id)
        return (
            f"<tr data-id='{name}'><th scope='row'><button type='button' class='choose' data-id='{name}' "
            f"title='show a picture of it'>{name}</button></th>"
            + "".join(f"<td{NUMBER}>{number}</td>" for number in numbers)
            + "</tr>"
        )

    caption = "Returned networks, smallest first; accuracies in percent, ± one standard error"
    return table(caption, head, "".join(map(row, run.results))) + _layers(run.results)


def _layers(results: Sequence[Result]) -> str:
    """The layers of each network, stage by stage."""
    archs = [(result.id, Arch.from_key(result.arch)) for result in results]
    count = max(len(arch.stages) for _, arch in archs)

    def row(name: str, arch: Arch) -> str:
        stages = [" ".join(map(str, stage)) for stage in arch.stages] + [NONE] * (count - len(arch.stages))
        cells = "".join(f"<td class='arch'>{stage}</td>" for stage in stages)
        return f"<tr><th scope='row' class='arch'>{html.escape(name)}</th>{cells}</tr>"

    head = [("network", False), *((f"stage {number + 1}", False) for number in range(count))]
    rows = "".join(row(name, arch) for name, arch in archs)
    return f"<details><summary>Layers, stage by stage</summary>{table('Layers of each network', head, rows)}</details>"


def _timings(run: RunReport) -> str:
    rows = "".join(
        f"<tr><th scope='row'>{html.escape(each.id)}</th><td>{html.escape(_RUNTIMES.get(each.runtime, each.runtime))}"
        f"</td><td{NUMBER}>{each.batch}</td><td{NUMBER}>{each.threads}</td><td>{html.escape(each.device)}</td>"
        f"<td{NUMBER}>{milliseconds(each.latency.median, each.latency)}</td><td{NUMBER}>"
        f"{milliseconds(each.latency.lower, each.latency)} to {milliseconds(each.latency.upper, each.latency)}</td>"
        f"<td{NUMBER}>{each.latency.runs}</td></tr>"
        for each in run.timings
    )
    head = [("network", False), ("runtime", False), ("batch", True), ("threads", True), ("device", False)]
    head += [("median ms", True), ("quartiles ms", True), ("runs", True)]
    shown = table("Latency of the exported networks on the machine of the run", head, rows)
    return f"<details><summary>Latencies, all runtimes</summary>{shown}</details>"


def _files(run: RunReport) -> str:
    """The size of each exported file; empty if version 0.1.0 exported the networks."""
    names = sorted({name for result in run.results for name in result.files})
    if not names:
        return ""
    rows = "".join(
        f"<tr><th scope='row'>{html.escape(result.id)}</th>"
        + "".join(
            f"<td{NUMBER}>{result.files[name]:,}</td>" if name in result.files else f"<td{NUMBER}>{NONE}</td>"
            for name in names
        )
        + "</tr>"
        for result in run.results
    )
    shown = table(
        "Files of the networks, sizes in bytes",
        [("network", False), *((html.escape(name), True) for name in names)],
        rows,
    )
    return f"<details><summary>Files and their sizes</summary>{shown}</details>"


_RUNTIMES = {"onnx": "ONNX Runtime", "int8": "ONNX Runtime, int8", "torch": "PyTorch"}


def _stages(seconds: Mapping[str, float]) -> str:
    total = sum(seconds.values())
    if not total:
        return "<p>No times were recorded for this run.</p>"
    rows = "".join(
        f"<tr><th scope='row' class='words'>{html.escape(name)}</th><td class='n'>{duration(value)}</td>"
        f"<td class='wide'><span class='bar' style='--share:{value / total:.4f}'></span></td>"
        f"<td class='n'>{100 * value / total:.0f}&nbsp;%</td></tr>"
        for name, value in seconds.items()
    )
    rows += f"<tr class='total'><th scope='row'>total</th><td class='n'>{duration(total)}</td><td></td><td></td></tr>"
    head = [("stage", False), ("time", True), ("share", False), ("", True)]
    return table("Time by stage, excluding interruptions", head, rows)


def _versions(run: RunReport) -> str:
    known = run.environment
    machine = [(name, str(known[name])) for name in ("python", "platform", "processors", "threads") if name in known]
    packages = [(str(name), str(value)) for name, value in known["packages"].items()]
    rows = "".join(
        f"<tr><th scope='row'>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>"
        for name, value in machine + packages
    )
    return table("Machine and versions", [("item", False), ("value", False)], rows)


def _comparison(runs: Sequence[RunReport]) -> dict[str, str]:
    common = common_hypervolume(runs)
    names = labels(runs)
    rows = "".join(
        _run_row(run, name, curve[-1]["hypervolume"])
        for run, name, curve in zip(runs, names, common["curves"], strict=True)
    )
    head = [("run", False), ("data", False), ("objectives", False), ("budget", False), ("evaluated", True)]
    head += [
        ("time", True),
        ("hypervolume", True),
        ("best validation", True),
        ("its test", True),
        ("its parameters", True),
    ]
    shared = ", ".join(common["objectives"])
    caption = f"The runs; accuracies in percent ± one standard error, hypervolume of {shared} in one box for all"
    return {
        "TITLE": html.escape(" · ".join(dict.fromkeys(run.name for run in runs))),
        "STATE": _warnings(runs, names),
        "RUNS": table(caption, head, rows),
        "OBJECTIVES": html.escape(shared),
    }


def _run_row(run: RunReport, name: str, volume: float) -> str:
    best = max(run.results, key=lambda each: (each.val_accuracy, -each.params), default=None)
    bounds = ", ".join(format_bound(each) for each in run.quantities if each.bounded)
    measured = len({evaluation.arch for evaluation, _ in run.evaluations})
    words = [run.name, ", ".join(each.name for each in run.objectives), bounds or "none"]
    numbers = [f"{measured:,}", duration(sum(run.seconds.values())), f"{volume:.4f}"]
    if best is None:
        numbers += [NONE] * 3
    else:
        numbers += [best.validated.percent, best.tested.percent, f"{best.params:,}"]
    cells = "".join(f"<td>{html.escape(word)}</td>" for word in words)
    return (
        f"<tr><th scope='row' class='words'>{html.escape(name)}</th>{cells}"
        + "".join(f"<td{NUMBER}>{number}</td>" for number in numbers)
        + "</tr>"
    )


def _warnings(runs: Sequence[RunReport], names: Sequence[str]) -> str:
    """Reasons why the runs cannot be compared as they are."""
    parts = []
    if len({run.data["fingerprint"] for run in runs}) > 1:
        groups: dict[str, list[str]] = {}
        for run, name in zip(runs, names, strict=True):
            groups.setdefault(run.data["fingerprint"], []).append(name)
        told_apart = "; ".join(", ".join(group) for group in groups.values())
        parts.append(
            "<b>These runs saw different images.</b> Accuracies of networks that were trained and tested on different "
            "images, or on the same ones split or sized differently, cannot be compared. Runs on the same "
            f"images: {html.escape(told_apart)}."
        )
    unfinished = [name for run, name in zip(runs, names, strict=True) if not run.finished]
    if unfinished:
        parts.append(f"Not finished yet: {html.escape(', '.join(unfinished))}.")
    warnings = [(name, chance_warning(run.results)) for run, name in zip(runs, names, strict=True)]
    parts += [html.escape(f"{name}: {warning}.") for name, warning in warnings if warning]
    return "".join(f"<p class='notice' role='status'>{part}</p>" for part in parts)
