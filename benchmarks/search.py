"""How few evaluations a search needs, how well errors are predicted, and the overhead of a generation.

    python benchmarks/search.py macro         all 6,561 networks of NAS-Bench-Macro
    python benchmarks/search.py ofa           Once-For-All MobileNetV3, by published surrogates
    python benchmarks/search.py formula       spaces by formula, against Optuna's TPE and GPSampler too
    python benchmarks/search.py race          the same, and the spaces of the first two
    python benchmarks/search.py predictors    ranking of held-out networks
    python benchmarks/search.py auto          the predictor `auto` beside its members, on nine tables
    python benchmarks/search.py cost          seconds per generation

All but the last write a plot to ``--out``; those that need published data read it from ``--data``. With ``--keep`` each
search is kept in a file of that folder, and read from there when the command is repeated.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import worlds
from drawing import COLOURS, draw_curves, figure, grid, markdown
from matplotlib.axes import Axes
from numpy.typing import NDArray
from races import Course, Race, box_of, one_thread, races, spread
from scipy.stats import kendalltau
from table import Row, parser, show
from worlds import Box, Known, Values, World

from nat2.nas.functions import SearchFunctions
from nat2.nas.nat import search
from nat2.nas.objectives import Objective
from nat2.nas.predictors import AUTO, fit_ensemble
from nat2.nas.select import non_dominated
from nat2.nas.settings import PredictorName, SearchSettings
from nat2.seeds import numpy_generator
from nat2.space import CostTable, Macro, SearchSpace
from nat2.space.space import FeatureKind

NAMES = {"size": "size", "macs": "MACs", "params": "parameters", "latency": "latency"}
UNITS = {"macs": (1e-6, "multiply-accumulates (M)"), "latency": (1, "latency on a Note10 (ms)")}


def curves(done: dict[Race, Course], cost: str, box: Box) -> dict[str, list[Values]]:
    """Hypervolume against evaluations, one curve per contender and seed."""
    found: dict[str, list[Values]] = {}
    for race, course in done.items():
        if race.cost == cost:
            found.setdefault(race.name, []).append(box.shares(course.values))
    return found


# -- NAS-Bench-Macro


def macro(given: Any) -> list[Row]:
    """Evaluations until a search has found 99 % of the hypervolume of all 6,561 networks."""
    world, level = worlds.nas_bench_macro(given.data), 0.99
    done = races("macro", given, tuple(world.costs), range(given.seeds), given.evaluations or 400)
    rows, lines = [], []
    drawn, panels = figure(2)
    for cost, axes in zip(world.costs, panels[0], strict=True):
        found = curves(done, cost, world.box(cost))
        reached = {name: [_reached(curve, level) for curve in several] for name, several in found.items()}
        middle = {name: statistics.median(several) for name, several in reached.items()}
        for name in found:
            rows.append(Row(f"{cost}, {name}: evaluations to 99 %, median", middle[name]))
            rows.append(Row(f"{cost}, {name}: evaluations to 99 %, worst of {given.seeds}", max(reached[name])))
            ratios = [middle[name] / middle[other] for other in ("random", "NSGA-II")]
            if name not in ("random", "NSGA-II"):
                targets = (1 / 3, 1.0) if name != "nat" else (None, None)
                rows.append(Row(f"{cost}, {name}: median over random search's", ratios[0], targets[0]))
                rows.append(Row(f"{cost}, {name}: median over NSGA-II's", ratios[1], targets[1]))
            at = [f"{100 * statistics.median(c[min(n, len(c)) - 1] for c in found[name]):.1f} %" for n in (100, 200)]
            lines.append([f"{NAMES[cost]}, {name}", f"{middle[name]:,.0f}", f"{max(reached[name]):,.0f}", *at])
        draw_curves(axes, found, 20)
        axes.axhline(99, color="black", linewidth=0.8, linestyle=":")
        axes.set_ylim(86, 100.4)
        grid(axes, f"NAS-Bench-Macro: error and {NAMES[cost]}", "networks evaluated", "share of the hypervolume (%)")
    panels[0, 0].legend(loc="lower right", frameon=False)
    drawn.savefig(given.out / "search-macro.png")
    headings = ("", "evaluations to 99 %, median", "worst", "after 100, median", "after 200, median")
    markdown(headings, lines)
    return rows


def _reached(curve: Values, level: float) -> float:
    """How many evaluations a curve takes to reach a level."""
    over = np.flatnonzero(curve >= level)
    return float(over[0] + 1) if len(over) else math.inf


# -- Once-For-All


def ofa(given: Any) -> list[Row]:
    """Hypervolume by a number of evaluations, as a share of that of an evolution on the surrogates themselves."""
    world, evaluations = worlds.ofa(given.data), given.evaluations or (3750 if given.long else 1000)
    marks = [mark for mark in (100, 350, 1000, 3000, 3750) if mark <= evaluations]
    rows = [_agreement(world, given.data, cost) for cost in world.costs]
    done = races("ofa", given, tuple(world.costs), range(given.seeds), evaluations)
    lines = []
    drawn, panels = figure(2, 2)
    for column, (cost, measure) in enumerate(world.costs.items()):
        box, (scale, label) = world.box(cost), UNITS[cost]
        found = curves(done, cost, box)
        for name, several in found.items():
            cells = {}
            for mark in marks:
                # A search stops at the end of a generation, so a curve may be a few networks short or long.
                shares = [float(curve[min(mark, len(curve)) - 1]) for curve in several]
                cells[mark] = f"{100 * statistics.median(shares):.1f} %"
                title = f"{cost}, {name}: share of the hypervolume after {mark:,}, median"
                rows.append(Row(title, statistics.median(shares)))
            lines.append([f"{NAMES[cost]}, {name}", *cells.values()])
        draw_curves(panels[0, column], found, 20)
        panels[0, column].set_ylim(70, 100.5)
        title = f"Once-For-All: error and {NAMES[cost]}"
        grid(panels[0, column], title, "networks evaluated", "share of the best known hypervolume (%)")
        axes, mark = panels[1, column], min(1000, evaluations)
        known = box.front[np.argsort(box.front[:, 1])]
        axes.plot(known[:, 1] * scale, 100 * known[:, 0], color="black", linewidth=0.9, label="best known")
        for race, course in done.items():
            if race.cost == cost and race.seed == 0:
                front = course.values[:mark][non_dominated(course.values[:mark])]
                front = front[np.argsort(front[:, 1])]
                style = {"color": COLOURS[race.name], "label": race.name}
                axes.plot(front[:, 1] * scale, 100 * front[:, 0], "o-", ms=2.5, linewidth=0.9, **style)
        nets = np.stack([net.genome for net in worlds.published(given.data)])
        values = np.stack([world.error(nets), measure(nets)], axis=1)
        axes.plot(values[:, 1] * scale, 100 * values[:, 0], "k*", ms=10, label="published specialised networks")
        grid(axes, f"fronts after {mark:,} evaluations, one seed", label, "error by the published predictor (%)")
        axes.set_ylim(100 * box.origin[0] - 0.2, 21)
    panels[0, 0].legend(loc="upper left", frameon=False)
    panels[1, 0].legend(loc="upper right", frameon=False)
    drawn.savefig(given.out / "search-ofa.png")
    markdown(("", *(f"after {mark:,}" for mark in marks)), lines)
    return rows


def _agreement(world: World, data: Path, cost: str) -> Row:
    """How far our cost of published networks is from the published one."""
    pairs = []
    for net in worlds.published(data):
        stated = net.macs if cost == "macs" else net.latency if net.device == "note10" else None
        if stated is not None:
            pairs.append(abs(float(world.costs[cost](net.genome[None])[0]) / stated - 1))
    return Row(f"{cost} of {len(pairs)} published networks, largest difference", 100 * max(pairs), 1.0, unit="%")


# -- all rivals on all spaces

BY_FORMULA = {"cells": ("size", "size+time"), "chain": ("size", "size+time")}
SPACES = BY_FORMULA | {
    "NAS-Bench-Macro": ("params", "macs", "params+macs"),
    "Once-For-All": ("macs", "latency", "macs+latency"),
}
MARKS = (20, 50, 100, 200)


def race(given: Any, spaces: Mapping[str, tuple[str, ...]] = SPACES) -> list[Row]:
    """Hypervolume from 20 evaluations on, with two and with three objectives."""
    evaluations = given.evaluations or 200
    marks = [mark for mark in MARKS if mark <= evaluations]
    shares: dict[str, dict[str, Values]] = {}
    seconds: list[float] = []
    drawn, panels = figure(3, math.ceil(sum(map(len, spaces.values())) / 3))
    axes = iter(panels.flat)
    for name, costs in spaces.items():
        done = races(name, given, costs, range(given.seeds), evaluations)
        seconds += [course.seconds / len(course.values) for each, course in done.items() if each.name == "default"]
        for cost in costs:
            title = f"{name}, {cost.replace('+', ' and ')}"
            found = curves(done, cost, box_of(name, cost, given))
            shares[title] = {
                each: np.mean([[_at(curve, mark) for mark in marks] for curve in several], axis=0)
                for each, several in found.items()
            }
            panel = next(axes)
            draw_curves(panel, found, 20)
            grid(panel, title, "networks evaluated", "share of the hypervolume (%)")
    for panel in axes:  # the last row is not full
        panel.set_axis_off()
    panels[0, 0].legend(loc="lower right", frameon=False)
    drawn.savefig(given.out / f"search-{given.part}.png")
    lines = [
        [f"{title}: {each}", *(f"{100 * value:.1f} %" for value in values)]
        for title, contenders in shares.items()
        for each, values in contenders.items()
    ]
    markdown(("", *(f"after {mark}" for mark in marks)), lines)
    rows = list(_standing(shares, marks))
    if seconds:  # ours is among those that were raced
        rows.append(Row("processor time per evaluation", statistics.median(seconds), 0.06, unit="s"))
    return rows


def _at(curve: Values, mark: int) -> float:
    """What a curve has reached; not a number if it ends before."""
    return float(curve[mark - 1]) if mark <= len(curve) else math.nan


def _standing(shares: Mapping[str, Mapping[str, Values]], marks: Sequence[int]) -> Iterator[Row]:
    """The means, and by how much the best rival is ahead of ours, on each space and in the mean over spaces."""
    contenders = set.intersection(*(set(each) for each in shares.values()))
    mean = {name: np.mean([each[name] for each in shares.values()], axis=0) for name in contenders}
    for title, found in {**shares, "mean over spaces": mean}.items():
        for place, mark in enumerate(marks):
            for name in sorted(found):
                if not math.isnan(found[name][place]):  # those that take minutes make fewer evaluations
                    yield Row(f"{title}, {name}: share of the hypervolume after {mark}", float(found[name][place]))
            rivals = [values[place] for name, values in found.items() if name != "default"]
            if rivals and "default" in found:
                target = 0.01 if found is not mean else 0.0
                ahead = float(np.nanmax(rivals) - found["default"][place])
                yield Row(f"{title}: best rival ahead after {mark}", ahead, target if mark >= 50 else None)


# -- predictors

SIZES = (50, 100, 200, 300)
SLOW = ("catboost", "rbfs", "e2epp")
TABLES = {"ImageNet": worlds.imagenet_networks, "NAS-Bench-Macro": worlds.macro_networks}
MORE_TABLES = TABLES | {
    "cells": partial(worlds.drawn_networks, worlds.cells, "size"),
    "chain": partial(worlds.drawn_networks, worlds.chain, "size"),
    "Once-For-All's predictor": partial(worlds.drawn_networks, worlds.ofa, "macs"),
    **{f"latency, {name}": partial(worlds.latency_networks, name) for name in worlds.LATENCIES},
}
ALL: tuple[PredictorName, ...] = get_args(PredictorName)


@dataclass(frozen=True)
class Trial:
    """A predictor fitted to some networks of a table, ranking others."""

    table: str
    data: Path
    name: PredictorName
    kind: FeatureKind
    n: int
    split: int


def features(known: Known, kind: FeatureKind, learned: NDArray[np.int64]) -> Values:
    """A predictor's inputs in a search: with ``structure``, logarithms of exact costs and their squares too."""
    shown = known.space.features(known.genomes, kind)
    if kind != "structure":
        return shown
    logs = np.log(known.costs)
    logs = (logs - logs[learned].mean(axis=0)) / np.maximum(logs[learned].std(axis=0), 1e-9)
    return np.concatenate([shown, logs, logs**2], axis=1)


def tried(trial: Trial) -> tuple[float, float]:
    """Kendall's tau on at most 2,000 held-out networks, and its mean within one resolution."""
    known = MORE_TABLES[trial.table](trial.data)
    errors = known.errors[trial.split % len(known.errors)]
    order = numpy_generator(trial.split, "split").permutation(len(errors))
    learned, out = order[: trial.n], order[trial.n :][:2000]
    seen = features(known, trial.kind, learned)
    predict = fit_ensemble(trial.name, seen[learned], errors[learned], seed=trial.split).predict
    predicted, groups = predict(seen[out]), known.resolutions[out]
    within = [_tau(predicted[groups == each], errors[out][groups == each]) for each in np.unique(groups)]
    return _tau(predicted, errors[out]), statistics.mean(within)


def _tau(predicted: Values, measured: Values) -> float:
    return float(np.nan_to_num(kendalltau(predicted, measured).statistic))


def predictors(given: Any) -> list[Row]:
    """Kendall's tau of every predictor by the number of networks it learns from."""
    plan: list[tuple[PredictorName, FeatureKind]] = [(name, "structure") for name in ALL]
    plan += [(name, kind) for kind in ("integer", "one-hot") for name in ("auto", "lgb", "ridge")]
    trials = [
        Trial(table, given.data, name, kind, n, split)
        for table in TABLES
        for name, kind in plan
        for n in SIZES
        for split in range(min(given.quick or given.seeds, given.seeds) if name in SLOW else given.seeds)
    ]
    results: dict[tuple[str, PredictorName, FeatureKind, int], list[tuple[float, float]]] = {}
    for trial, result in zip(trials, spread(tried, trials, given.jobs), strict=True):
        results.setdefault((trial.table, trial.name, trial.kind, trial.n), []).append(result)
    taus = {key: [statistics.mean(column) for column in zip(*several, strict=True)] for key, several in results.items()}
    drawn, panels = figure(2, height=4.6)
    rows: list[Row] = []
    behind = 0.0
    for place, table in enumerate(TABLES):
        lines = []
        for name, kind in plan:
            cells = [taus[table, name, kind, n] for n in SIZES]
            shown = [f"{tau:.3f}" + (f" ({within:.3f})" if place == 0 else "") for tau, within in cells]
            lines.append([f"{name}, {kind}", *shown])
            for n, (tau, within) in zip(SIZES, cells, strict=True):
                target = (0.9, 0.84)[place] if (name, kind, n) == ("auto", "structure", 300) else None
                rows.append(Row(f"{table}, {name}, {kind}, {n} networks: tau", tau, target, "higher"))
                if place == 0:
                    rows.append(Row(f"{table}, {name}, {kind}, {n} networks: tau within a resolution", within))
            if kind == "structure":
                _draw_predictor(panels[0, place], name, [tau for tau, _ in cells])
        for n in SIZES:
            best = max(taus[table, name, "structure", n][0] for name in ALL if name != "auto")
            behind = max(behind, best - taus[table, "auto", "structure", n][0])
        title = "Once-For-All on ImageNet" if place == 0 else "NAS-Bench-Macro, one training"
        grid(panels[0, place], title, "networks learned from", "Kendall's tau on networks left out")
        panels[0, place].set_xticks(SIZES)
        print(f"\n{table}" + (": tau on networks left out (mean within one resolution)" if place == 0 else ": tau"))
        markdown(("", *(f"{n} networks" for n in SIZES)), lines)
    handles, labels = panels[0, 0].get_legend_handles_labels()
    drawn.legend(handles, labels, loc="outside right center", frameon=False, fontsize=9)
    drawn.savefig(given.out / "search-predictors.png")
    rows.append(Row("auto: largest difference to the best single predictor", behind, 0.01))
    return rows + _study(given.data)


def auto(given: Any) -> list[Row]:
    """By how much the best member of ``auto`` ranks better than ``auto``, on tables with 50, 100 and 200 networks."""
    names: tuple[PredictorName, ...] = ("auto", *AUTO)
    cells = [(table, n) for table in MORE_TABLES for n in (50, 100, 200)]
    trials = [
        Trial(table, given.data, name, "structure", n, split)
        for table, n in cells
        for name in names
        for split in range(given.seeds)
    ]
    found = dict(zip(trials, spread(tried, trials, given.jobs), strict=True))
    rows, lines = [], []
    for table, n in cells:
        taus = {
            name: statistics.mean(tau for t, (tau, _) in found.items() if (t.table, t.name, t.n) == (table, name, n))
            for name in names
        }
        lines.append([f"{table}, {n} networks", *(f"{taus[name]:.3f}" for name in names)])
        rows.append(Row(f"{table}, {n} networks: best member ahead", max(taus[m] for m in AUTO) - taus["auto"], 0.02))
    markdown(("Kendall's tau", *names), lines)
    return rows


def _draw_predictor(axes: Axes, name: PredictorName, taus: Sequence[float]) -> None:
    """One line; `auto` and its members stand out."""
    if name == "auto":
        axes.plot(SIZES, taus, "o-", color="black", linewidth=2.6, label=name, zorder=3)
        return
    place = ALL.index(name) - 1
    colours = ("#0b6e4f", "#c8553d", "#3d6bb3", "#e6a23c", "#7a5195", "#5aa9a3", "#8a949e")
    chosen = name in AUTO
    axes.plot(
        SIZES, taus, marker="os^vDPX<>phd*"[place % 13], ms=5, color=colours[place % 7], label=name,
        linestyle="-" if chosen else "--", linewidth=1.8 if chosen else 0.9,
    )  # fmt: skip


def _study(data: Path) -> list[Row]:
    """The authors' own study of predictors, on sub-networks of other super-networks, for comparison."""
    study = json.loads((data / "nat2_thesis_predictor_study" / "pred_results.json").read_text())
    families = {"OFAMobileNetV3": "OFAMobileNetV3", "EE_B": "EE_B_OFAMobileNetV3"}
    names = [name for name in ALL if f"{name}-OFAMobileNetV3-integer-300" in study]
    columns = [(shown, family, n) for shown, family in families.items() for n in (100, 300)]
    taus = {
        (name, shown, n): statistics.mean(study[f"{name}-{family}-integer-{n}"]["tau"])
        for name in names
        for shown, family, n in columns
    }
    print("\nthe authors' study, integer, other super-networks: tau")
    lines = [[name, *(f"{taus[name, shown, n]:.3f}" for shown, _, n in columns)] for name in names]
    markdown(("", *(f"{shown}, {n} networks" for shown, _, n in columns)), lines)
    return [Row(f"authors' study, {shown}, {name}, {n} networks: tau", tau) for (name, shown, n), tau in taus.items()]


# -- what a generation costs


def cost(given: Any) -> list[Row]:
    """Seconds of a generation spent on neither evaluation nor adaptation."""
    network = Macro(classes=10)
    space = SearchSpace.of(network, (48, 56, 64))
    table = CostTable(space, {network.width: network})
    largest = table(space.upper[None])[0]

    def error(arch: Any) -> float:
        params, macs, _ = table(space.encode(arch)[None])[0] / largest
        noise = numpy_generator(0, space.key(arch)).normal()  # no predictor is perfect
        return float(0.05 + 0.1 * params**-0.1 * macs**-0.2 + 0.005 * noise)

    objectives = (Objective(name="error"), Objective(name="params", cost="exact"))
    functions = SearchFunctions[Any](error, exact={"params": lambda genomes: table(genomes)[:, 0]})
    one_thread()
    rows = []
    sizes = {"archive": 300, "candidates": 25, "population": 100, "inner_generations": 20, "generations": 3}
    for learned, changes, target in (
        (300, {"learn_from": 300}, 4.0),
        (500, {"learn_from": 500, "preprocess": "oversample", "oversample": 2}, None),
    ):
        settings = SearchSettings.of("default", **sizes, **changes)
        facts = [each.facts for each in search(space, functions, objectives, settings=settings).generations[1:]]
        proposals = [each.proposal for each in facts if each.proposal is not None]
        parts = {
            "predict": [each.predict_seconds for each in proposals],
            "evolve": [each.evolve_seconds for each in proposals],
            "select": [each.select_seconds for each in proposals],
        }
        sums = [each.seconds - each.evaluate_seconds for each in facts]
        rest = [whole - sum(parts[part][n] for part in parts) for n, whole in enumerate(sums)]
        for part, seconds in (parts | {"the rest": rest}).items():
            rows.append(Row(f"learning from {learned}: {part}", statistics.median(seconds), unit="s"))
        rows.append(Row(f"learning from {learned}: all of it", statistics.median(sums), target, unit="s"))
    markdown(("seconds a generation", "median of 3"), [[row.name, f"{row.value:.2f}"] for row in rows])
    return rows


PARTS: dict[str, Callable[[Any], list[Row]]] = {
    "macro": macro, "ofa": ofa, "formula": partial(race, spaces=BY_FORMULA), "race": race, "predictors": predictors,
    "auto": auto, "cost": cost,
}  # fmt: skip


def main() -> None:
    arguments = parser(__doc__ or "")
    root = Path(__file__).resolve().parent.parent
    arguments.add_argument("part", choices=PARTS)
    arguments.add_argument("--data", type=Path, default=root / "../shared/data", help="folder of the published data")
    arguments.add_argument("--out", type=Path, default=root / "docs", help="folder for the plots")
    arguments.add_argument("--seeds", type=int, default=10, help="searches or splits, from seed 0 on")
    arguments.add_argument("--jobs", type=int, default=1, help="processes")
    arguments.add_argument("--evaluations", type=int, help="by default 400 in macro, 1,000 in ofa, else 200")
    arguments.add_argument("--rivals", nargs="+", metavar="NAME", help="contenders to race; by default all")
    arguments.add_argument("--slow-seeds", type=int, default=3, help="seeds of contenders that take minutes")
    arguments.add_argument("--slow-evaluations", type=int, default=100, help="and their evaluations, at most")
    arguments.add_argument("--keep", type=Path, metavar="FOLDER", help="keep each search in a file of this folder")
    arguments.add_argument("--long", action="store_true", help="ofa: up to 3,750 evaluations, and nat2 as published")
    arguments.add_argument(
        "--quick",
        type=int,
        nargs="?",
        const=3,
        metavar="N",
        help="predictors: N splits for slow ones, by default 3",
    )
    given = arguments.parse_args()
    show(f"search: {given.part}", PARTS[given.part](given), given.json)


if __name__ == "__main__":
    main()
