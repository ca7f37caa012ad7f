"""What is left of a front when its networks are measured exactly, after a search that saw errors on few images.

    python benchmarks/noise.py --json benchmarks/results/noise.json

The error that a search sees of a network is a binomial share of the true one. The same searches are made without and
with `Objective.noise`; all values are means over the fronts.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import worlds
from races import spread
from table import Row, parser, show
from worlds import Box, Measure, Values, World

from nat2.nas.functions import SearchFunctions
from nat2.nas.nat import search
from nat2.nas.objectives import Objective, ShareNoise
from nat2.nas.settings import SearchSettings
from nat2.seeds import numpy_generator
from nat2.space import Genomes

GENERATIONS = 10  # 200 evaluations
WORLDS: dict[str, tuple[Callable[[Path], World], str]] = {
    "cells": (worlds.cells, "size"),
    "chain": (worlds.chain, "size"),
    "NAS-Bench-Macro": (worlds.nas_bench_macro, "params"),
    "Once-For-All": (worlds.ofa, "macs"),
}


@dataclass(frozen=True)
class Trial:
    """A search; whoever makes it reads the world for himself."""

    world: str
    data: Path
    images: int
    known: bool
    """Whether the search is told the standard error."""
    seed: int


@dataclass(frozen=True)
class Outcome:
    """What a search says of its front, and what is true."""

    stated: float
    """Mean error."""
    true: float
    volume: float
    """Hypervolume of the front by true errors, as a share of that of the best of all evaluated networks."""

    @property
    def lost(self) -> float:
        """By how much networks are worse than stated."""
        return self.true - self.stated


def on_images(error: Measure, images: int) -> Callable[[Genomes, int], Values]:
    """The error as it is counted on some images, the same for a network that is evaluated twice."""

    def measured(genomes: Genomes, seed: int) -> Values:
        keys = [",".join(map(str, genome)) for genome in genomes.tolist()]
        pairs = zip(keys, error(genomes), strict=True)
        return np.array([numpy_generator(seed, key).binomial(images, share) / images for key, share in pairs])

    return measured


def searched(trial: Trial) -> Outcome:
    """Search, and measure the front exactly."""
    make, cost = WORLDS[trial.world]
    world = make(trial.data)
    space, measured = world.space, on_images(world.error, trial.images)
    functions = SearchFunctions[Any](
        lambda arch: float(measured(space.encode(arch)[None], trial.seed)[0]), exact=world.exact(cost)
    )
    error, *costs = world.objectives(cost)
    noise: Any = ShareNoise(trial.images) if trial.known else 0.0
    objectives: list[Objective] = [replace(error, noise=noise), *costs]
    settings = SearchSettings(generations=GENERATIONS)
    found = search(space, functions, objectives, settings=settings, seed=trial.seed)
    front, every = (
        world.values(np.array([space.encode(each.arch) for each in evaluations]), cost)
        for evaluations in (found.front, found.evaluated)
    )
    box = Box(every.min(axis=0), every.max(axis=0), every)
    stated = statistics.mean(each["error"] for each in found.front)
    return Outcome(stated, float(front[:, 0].mean()), box.share(front))


def main() -> None:
    """Make all searches, and compare."""
    arguments = parser(__doc__ or "")
    root = Path(__file__).resolve().parent.parent
    arguments.add_argument("--data", type=Path, default=root / "../shared/data", help="folder of the published data")
    arguments.add_argument("--worlds", nargs="+", choices=WORLDS, default=list(WORLDS), help="what is searched")
    arguments.add_argument("--images", type=int, nargs="+", default=[200, 1000], help="on which errors are counted")
    arguments.add_argument("--seeds", type=int, default=3, help="searches, from seed 0 on")
    arguments.add_argument("--jobs", type=int, default=1, help="processes")
    given = arguments.parse_args()
    settings = [(world, images) for world in given.worlds for images in given.images]
    trials = [
        Trial(world, given.data, images, known, seed)
        for world, images in settings
        for known in (False, True)
        for seed in range(given.seeds)
    ]
    outcomes = dict(zip(trials, spread(searched, trials, given.jobs), strict=True))
    rows, ratios = [], []
    for world, images in settings:
        made = [[each for t, each in outcomes.items() if (t.world, t.images, t.known) == (world, images, known)]
                for known in (False, True)]  # fmt: skip
        lost = [statistics.mean(each.lost for each in several) for several in made]
        ratios.append(abs(lost[1]) / lost[0])
        for name, several, value in zip(("unknown", "known"), made, lost, strict=True):
            title = f"{world}, {images} images, noise {name}"
            rows.append(Row(f"{title}: error above what is stated", 100 * value, unit="points"))
            volume = statistics.mean(each.volume for each in several)
            rows.append(Row(f"{title}: share of the best front's hypervolume", volume, better="higher"))
        rows.append(Row(f"{world}, {images} images: error above what is stated, known over unknown", ratios[-1]))
    rows.append(Row("error above what is stated, known over unknown, mean", statistics.mean(ratios), 0.5))
    show("noise", rows, given.json)


if __name__ == "__main__":
    main()
