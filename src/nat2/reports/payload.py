"""What the page's scripts work with, as plain data."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from typing import TypedDict

import numpy as np

from nat2.deploy.latency import Measured
from nat2.nas.front import minimised
from nat2.nas.objectives import Direction, Objective, Unit
from nat2.nas.select import hypervolume
from nat2.reports.references import Reference
from nat2.runs.accuracy import chance_of
from nat2.runs.read import RunReport
from nat2.runs.results import ONNX, Result, picks
from nat2.runs.rounding import rounded
from nat2.space import Arch, Macro
from nat2.wording import counted

ACCURACIES = {
    "val_accuracy": "accuracy on validation images",
    "test_accuracy": "accuracy on test images (to report, not to choose by)",
    "found_accuracy": "accuracy found by the search (validation images, before fine-tuning)",
}
"""Choices for the vertical axis; the first is what networks are chosen by."""
_TITLES = {
    "params": "parameters",
    "macs": "multiply-accumulates for one image",
    "memory": "peak memory of activations",
    "flash": "flash on a microcontroller",
    "ram": "RAM on a microcontroller",
    "latency": "latency in the search",
    "latency_spread": "spread of the latency in the search",
    "deployed_latency": "latency of the exported network",
}
_SHORT = {
    "params": "Parameters",
    "macs": "Operations (MACs)",
    "memory": "Memory",
    "flash": "Flash",
    "ram": "RAM",
    "latency": "Latency",
}


class Axis(TypedDict):
    """A quantity that can be plotted."""

    key: str
    title: str
    unit: str
    direction: Direction
    accuracy: bool


class Limit(TypedDict):
    """A cost that a reader can put a limit on."""

    key: str
    title: str
    note: str
    unit: Unit
    direction: Direction
    steps: list[float]
    """From the tightest to the loosest."""


class NetworkData(TypedDict):
    """A returned network."""

    id: str
    arch: str
    exits: tuple[int, ...]
    values: dict[str, float]
    """By key of the axis."""
    guesses: bool
    """Whether it does not beat chance on test images."""
    anytime: list[dict[str, float | None]]


class RunData(TypedDict):
    """A run; evaluated networks are given by their index in `evaluations`."""

    label: str
    folder: str
    finished: bool
    images: dict[str, int]
    chance: dict[str, float]
    archs: list[list[str]]
    """Ids and keys."""
    evaluations: dict[str, list[int] | list[float]]
    """Columns of equal length."""
    members: list[int]
    front: list[int]
    results: list[NetworkData]
    picks: dict[str, str]
    limits: list[Limit]
    generations: list[dict[str, object]]
    macros: dict[str, dict[str, object]]


class CurvePoint(TypedDict):
    """A generation: how many networks were evaluated until then, and the hypervolume."""

    evaluations: int
    hypervolume: float


class CommonHypervolume(TypedDict):
    """Curves of several runs in one box."""

    objectives: list[str]
    curves: list[list[CurvePoint]]


class PageData(TypedDict):
    """Everything that the scripts of the page need."""

    axes: list[Axis]
    runs: list[RunData]
    references: list[dict[str, object]]
    common: CommonHypervolume | None
    """None for a single run."""


def axes(runs: Sequence[RunReport]) -> list[Axis]:
    """What can be plotted: the accuracies, then every quantity that a run recorded."""
    shown: list[Axis] = [
        {"key": key, "title": title, "unit": "percent", "direction": "max", "accuracy": True}
        for key, title in ACCURACIES.items()
    ]
    for name, unit, direction in _costs(runs):
        title = _TITLES.get(name, name.replace("_", " "))
        if name == "deployed_latency":
            timing = next(_deployed(run)[0] for run in runs if _deployed(run))
            title += f" (ONNX Runtime, batch {timing.batch}, {counted(timing.threads, 'thread')}, {timing.device})"
        shown.append({"key": name, "title": title, "unit": unit, "direction": direction, "accuracy": False})
    return shown


def _costs(runs: Sequence[RunReport]) -> list[tuple[str, Unit, Direction]]:
    """Name, unit and direction of the costs of all runs, each once; what was optimised comes first."""
    every = [each for run in runs for each in run.objectives] + [each for run in runs for each in run.recorded]
    found: dict[str, tuple[str, Unit, Direction]] = {}
    for each in every:
        if each.name != "error":
            found.setdefault(each.name, (each.name, each.unit, each.direction))
    costs = list(found.values())
    if any(_deployed(run) for run in runs):
        place = next((n for n, (name, _, _) in enumerate(costs) if name.startswith("latency")), len(costs))
        costs.insert(place, ("deployed_latency", "ms", "min"))
    return costs


def _deployed(run: RunReport) -> list[Measured]:
    return [timing for timing in run.timings if timing.runtime == "onnx"]


def limits(run: RunReport) -> list[Limit]:
    """The costs that a reader can put a limit on, with the steps of each from the tightest to the loosest."""
    hidden = {"latency_spread"} | ({"latency"} if _deployed(run) else set())
    sliders: list[Limit] = []
    for name, unit, direction in _costs([run]):
        values = [value for result in run.results if (value := values_of(run, result).get(name)) is not None]
        others = [_drawn(e.values, name) for e in run.members() if name in e.values]
        if name in hidden or not (values or others):
            continue
        ordered = _steps(values, others)
        title = _SHORT.get(name.removeprefix("deployed_"), name.replace("_", " ").capitalize())
        note = ""
        if name == "deployed_latency":
            timing = _deployed(run)[0]
            note = f"batch {timing.batch}, {counted(timing.threads, 'thread')}"
        sliders.append(
            {
                "key": name,
                "title": title,
                "note": note,
                "unit": unit,
                "direction": direction,
                "steps": ordered if direction == "min" else ordered[::-1],
            }
        )
    return sliders


def _steps(returned: Sequence[float], others: Sequence[float], count: int = 60) -> list[float]:
    """Steps of a slider, ascending: all values of returned networks, and enough of the others to fill a (log) grid."""
    every = np.unique(np.array([*returned, *others], dtype=np.float64))
    low, high = every[0], every[-1]
    grid = np.geomspace(low, high, count) if low > 0 else np.linspace(low, high, count)
    places = np.searchsorted(every, grid * (1 + 1e-9 * np.sign(grid)), side="right") - 1
    kept = {*every[np.clip(places, 0, None)].tolist(), *map(float, returned), float(high)}
    return sorted(kept)


def values_of(run: RunReport, result: Result) -> dict[str, float]:
    """Everything known about a returned network, by the key of its axis; accuracies in percent."""
    values = {
        "test_accuracy": 100 * result.test_accuracy,
        "val_accuracy": 100 * result.val_accuracy,
        "found_accuracy": 100 * (1 - result.error),
        "inherited_val_accuracy": 100 * result.inherited_val_accuracy,
        "calibrated_val_accuracy": 100 * result.calibrated_val_accuracy,
        "params": result.params,
        "macs": result.macs,
        **{name: _drawn(result.others, name) for name in result.others},
    }
    if result.test_balanced_accuracy is not None:
        values["test_balanced_accuracy"] = 100 * result.test_balanced_accuracy
    if result.int8_test_accuracy is not None:
        values["int8_test_accuracy"] = 100 * result.int8_test_accuracy
    if ONNX in result.files:
        values["file_size"] = result.files[ONNX]
    for timing in _deployed(run):
        if timing.id == result.id:
            values["deployed_latency"] = rounded(timing.latency.median, timing.latency.spread)
    return values


def _drawn(values: Mapping[str, float], name: str) -> float:
    """A value as displayed; latencies of the search are rounded to what their spread supports."""
    spread = values.get("latency_spread") if name == "latency" else None
    return values[name] if spread is None else rounded(values[name], spread)


def page_data(runs: Sequence[RunReport], references: Sequence[Reference]) -> PageData:
    """Everything that the scripts need."""
    named = axes(runs)
    latency = "deployed_latency" if any(each["key"] == "deployed_latency" for each in named) else "latency"
    return {
        "axes": named,
        "runs": [_run(run, label) for run, label in zip(runs, labels(runs), strict=True)],
        "references": [
            {
                "name": each.name,
                "accuracy": 100 * each.accuracy,
                **{latency if name == "latency" else name: value for name, value in each.costs.items()},
            }
            for each in references
        ],
        "common": common_hypervolume(runs) if len(runs) > 1 else None,
    }


def labels(runs: Sequence[RunReport]) -> list[str]:
    """A short name for each run: that of its folder, or its whole path where two folders share a name."""
    names = [run.folder.resolve().name for run in runs]
    return [name if names.count(name) == 1 else str(run.folder) for name, run in zip(names, runs, strict=True)]


def _run(run: RunReport, label: str) -> RunData:
    archs: dict[Arch, int] = {}
    for evaluation, _ in run.evaluations:
        archs.setdefault(evaluation.arch, len(archs))
    numbers = {id(evaluation): number for number, (evaluation, _) in enumerate(run.evaluations)}
    columns: dict[str, list[int] | list[float]] = {
        each.name: [_drawn(evaluation.values, each.name) for evaluation, _ in run.evaluations]
        for each in run.quantities
        if each.name != "error"
    }
    return {
        "label": label,
        "folder": quoted_folder(run),
        "finished": run.finished,
        "images": {split: sum(run.images(split)) for split in ("val", "test")},
        "chance": {split: 100 * (chance_of(run.images(split)) or 0.0) for split in ("val", "test")},
        "archs": [[arch.id, arch.key] for arch in archs],
        "evaluations": {
            "arch": [archs[evaluation.arch] for evaluation, _ in run.evaluations],
            "generation": [row.generation for _, row in run.evaluations],
            "found_accuracy": [round(100 * (1 - evaluation["error"]), 6) for evaluation, _ in run.evaluations],
            **columns,
        },
        "members": [numbers[id(evaluation)] for evaluation in run.members()],
        "front": [numbers[id(evaluation)] for evaluation in run.front],
        "results": [
            {
                "id": result.id,
                "arch": result.arch,
                "exits": result.exits,
                "values": values_of(run, result),
                "guesses": not result.test_beats_chance,
                "anytime": [
                    {
                        "threshold": point.threshold,
                        "macs": point.macs,
                        "val_macs": point.val_macs,
                        "test": 100 * point.test_accuracy,
                        "val": 100 * point.val_accuracy,
                    }
                    for point in result.anytime
                ],
            }
            for result in run.results
        ],
        "picks": {need: result.id for need, result in picks(run.results).items()} if run.results else {},
        "limits": limits(run),
        "generations": [
            {name: row[name] for name in ("hypervolume", "tau", "rho", "rmse", "predictor")} | {"number": each.number}
            for each in run.generations
            for row in (each.row(),)
        ],
        "macros": {str(macro.width): _macro(macro) for macro in run.macros},
    }


def quoted_folder(run: RunReport) -> str:
    """The run folder as a word of a shell command that is not taken for an option."""
    name = str(run.folder)
    return shlex.quote(f"./{name}" if name.startswith("-") else name)


def _macro(macro: Macro) -> dict[str, object]:
    """What the picture of an architecture needs besides its key."""
    return {
        "stem": macro.stem_channels,
        "stride": macro.stem_stride,
        "stages": [
            {
                "in": shapes[0].in_channels,
                "channels": shapes[0].out_channels,
                "stride": shapes[0].stride,
                "squeeze": shapes[0].squeeze_excite,
            }
            for shapes in macro.layer_shapes
        ],
        "exits": list(macro.exits),
        "classes": macro.classes,
    }


def common_hypervolume(runs: Sequence[RunReport]) -> CommonHypervolume:
    """Hypervolumes that can be compared: of what all runs optimise, or else error and parameters, in one box.

    The box reaches from 0 (from the best, where values are negative) to the worst of all archives. Budgets are
    ignored.
    """
    shared = [each for each in runs[0].objectives if all(_optimises(run, each) for run in runs)]
    if len(shared) < 2:
        shared = [next(each for each in runs[0].quantities if each.name == name) for name in ("error", "params")]
    clouds = [[minimised(run.members(place), shared) for place in range(len(run.generations) or 1)] for run in runs]
    every = np.concatenate([values for cloud in clouds for values in cloud])
    origin, worst = np.minimum(every.min(0), 0.0), every.max(0)
    box = worst + 0.01 * (worst - origin)
    return {
        "objectives": [each.name for each in shared],
        "curves": [
            [
                {"evaluations": evaluated, "hypervolume": hypervolume(values, box, origin)}
                for evaluated, values in zip(_evaluated(run), cloud, strict=True)
            ]
            for run, cloud in zip(runs, clouds, strict=True)
        ],
    }


def _optimises(run: RunReport, objective: Objective) -> bool:
    wanted = (objective.name, objective.direction)
    return any((each.name, each.direction) == wanted for each in run.objectives)


def _evaluated(run: RunReport) -> list[int]:
    """Different networks that were measured up to each generation."""
    if not run.generations:
        return [len({evaluation.arch for evaluation, _ in run.evaluations})]
    seen: set[Arch] = set()
    counts = []
    for generation in run.generations:
        seen |= {evaluation.arch for evaluation, row in run.evaluations if row.generation == generation.number}
        counts.append(len(seen))
    return counts


def script_json(data: object) -> str:
    """JSON that is safe inside a script element; numbers that are not finite become null."""
    return json.dumps(_finite(data), separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _finite(data: object) -> object:
    if isinstance(data, dict):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data
