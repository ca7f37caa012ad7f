"""NAT2 against NAT, its predecessor, in the same time; and what each of NAT2's published ingredients brings.

    python benchmarks/nat2_against_nat.py --images FOLDER --time 30m --json nat2_against_nat.json
    python benchmarks/nat2_against_nat.py --images FOLDER --quick             EuroSAT, one seed, three runs of 7 minutes
    python benchmarks/nat2_against_nat.py --images FOLDER --quick --ingredients   and six more

Presets `nat2` and `nat` with their lengths in the published proportions, scaled to the given time (`nat2 run --time`),
and `quick` as a third; all from random weights, at 24 to 32 pixels, with at most four networks
returned. Compared are the fronts on the test images: hypervolume with one reference for all (error 1, the largest cost
among all networks, costs in logarithms), the best accuracy, and the cost at which a front reaches the best accuracy
that all of them reach. Then NAT2 with one ingredient after the other replaced by NAT's. FOLDER: see
`benchmarks/worth.py`. What is done is kept under `--keep` and not repeated.
"""

from __future__ import annotations

import itertools
import json
import math
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pymoo.indicators.hv import HV
from table import Row, parser, show
from worth import FILES, source

import nat2
from nat2.allocator import keep_freed_memory
from nat2.runs.config import Preset, RunConfig

SETS = ("CIFAR-10", "Tiny-ImageNet-50")
QUICK, QUICK_TIME = "EuroSAT", "7m"
"""The presets need more time than that for more images."""
OBJECTIVES = ("error,params", "error,macs")
PRESETS: tuple[Preset, ...] = ("nat2", "nat", "quick")
WITHOUT: dict[str, dict[str, Any]] = {
    "family": {"family": "SE_B", "schedule": "ofa", "finetune": {"variant": "single"}},
    "initialisation": {"search": {"sampling": "uniform"}},
    "pre-processing": {"search": {"preprocess": "none"}},
    "update": {"search": {"update": "append"}},
    "integer features": {"search": {"features": "one-hot"}},
    "post-processing": {"finetune": {"variant": "single"}},
}
"""What NAT does instead, of each of NAT2's ingredients."""
SMALL = {"width": 0.5, "resolutions": "24,28,32", "networks": 4, "pretrained": "none"}
"""Of all runs: in minutes the published sizes learn nothing, and NAT's family has no trained weights."""
Points = list[tuple[float, float]]  # cost and test accuracy of a run's networks


@dataclass(frozen=True)
class Bench:
    """Where images and results lie, and how long runs take."""

    images: Path | None
    keep: Path
    time: str
    scratch: Path


@dataclass(frozen=True)
class Case:
    """What is compared on."""

    data: str
    objectives: str
    seed: int

    def __str__(self) -> str:
        return f"{self.data}, {self.objectives}, seed {self.seed}"

    @property
    def cost(self) -> str:
        """The objective beside the error."""
        return self.objectives.partition(",")[2]


def front(bench: Bench, case: Case, preset: Preset, kind: str = "", **changes: Any) -> Points:
    """The networks of a run, which is not repeated."""
    file = bench.keep / f"{bench.time}-{case.data}-{case.cost}-{kind or preset}-{case.seed}.json"
    if not file.exists():
        data = source(case.data, bench.images, bench.scratch)
        if data is None:
            raise SystemExit(f"{case.data}: its images ({FILES[case.data][0]}) are not in {bench.images}")
        settings: dict[str, Any] = {"data": data, "seed": case.seed, "time": bench.time, "objectives": case.objectives}
        settings |= SMALL
        began = time.process_time()
        with tempfile.TemporaryDirectory() as scratch:
            found = nat2.run(RunConfig.of(preset, **settings, **changes), out=Path(scratch) / "run", quiet=True)
        seconds = time.process_time() - began
        points = [(getattr(each, case.cost), each.test_accuracy) for each in found]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"seconds": seconds, "points": points}) + "\n")
    return [(cost, accuracy) for cost, accuracy in json.loads(file.read_text())["points"]]


def hypervolume(points: Points, most: float, least: float) -> float:
    """Share of the area between the reference and the best that could be, with costs in logarithms."""
    span = math.log(most / least) or 1.0
    scaled = [(math.log(cost / least) / span, 1 - accuracy) for cost, accuracy in points]
    return float(HV(ref_point=np.array([1.0, 1.0]))(np.array(scaled)))


def compared(fronts: dict[str, Points]) -> dict[str, tuple[float, float, float]]:
    """Of each front: hypervolume, best accuracy, and the cost at which it has what all of them reach."""
    costs = [cost for points in fronts.values() for cost, _ in points]
    reached = min(max(accuracy for _, accuracy in points) for points in fronts.values())
    return {
        name: (
            hypervolume(points, 1.1 * max(costs), 0.9 * min(costs)),
            max(accuracy for _, accuracy in points),
            min(cost for cost, accuracy in points if accuracy >= reached),
        )
        for name, points in fronts.items()
    }


def rows_of(at: str, fronts: dict[str, Points]) -> list[Row]:
    """What was measured, to be read."""
    return [
        Row(
            f"{at}: {name}, hypervolume",
            volume,
            better="higher",
            detail=f"best {100 * best:.1f} %; {cost:,.0f} for the accuracy that all reach",
        )
        for name, (volume, best, cost) in compared(fronts).items()
    ]


def ingredients(bench: Bench, case: Case) -> list[Row]:
    """NAT2, and what it is without each of its ingredients."""
    fronts = {"nat2": front(bench, case, "nat2")}
    for ingredient, changes in WITHOUT.items():
        kind = f"without-{ingredient.replace(' ', '-')}"
        fronts[f"nat2 without its {ingredient}"] = front(bench, case, "nat2", kind, **changes)
    return rows_of(f"{case}, one ingredient replaced", fronts)


def main() -> None:
    """Measure, print, write."""
    options = parser(str(__doc__).partition("\n")[0])
    options.add_argument("--images", type=Path, help="folder of the sets")
    options.add_argument("--time", default="30m", help="of each run")
    options.add_argument("--seeds", type=int, default=2)
    options.add_argument("--keep", type=Path, default=Path("runs/nat2_against_nat"), help="folder of what is done")
    options.add_argument("--quick", action="store_true", help=f"{QUICK}, one objective and seed; runs of {QUICK_TIME}")
    options.add_argument("--ingredients", action="store_true", help="with --quick, measure those too")
    given = options.parse_args()
    keep_freed_memory()
    torch.set_num_threads(1)  # processor time is compared
    length, seeds = (QUICK_TIME, 1) if given.quick else (given.time, given.seeds)
    sets, kinds = ((QUICK,), OBJECTIVES[:1]) if given.quick else (SETS, OBJECTIVES)
    title = f"NAT2 against NAT, {length} each"
    rows: list[Row] = []
    gains = []
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(given.images, given.keep, length, Path(scratch))
        for case in (Case(*each) for each in itertools.product(sets, kinds, range(seeds))):
            fronts: dict[str, Points] = {preset: front(bench, case, preset) for preset in PRESETS}
            volumes = compared(fronts)
            gains.append(volumes["nat2"][0] - volumes["nat"][0])
            rows += rows_of(str(case), fronts)
            show(f"{title}: {case}", rows_of(str(case), fronts), None)
        if given.ingredients or not given.quick:
            rows += ingredients(bench, Case(sets[0], kinds[0], 0))
    name, detail = "mean: hypervolume of nat2 minus that of nat", f"{len(gains)} pairs"
    rows.append(Row(name, statistics.mean(gains), 0.0, "higher", detail=detail))
    show(title, rows, given.json)


if __name__ == "__main__":
    main()
