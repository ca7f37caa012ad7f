"""Does a larger batch cost accuracy? Batches of 256 against 64 at the same number of images seen.

    python benchmarks/batches.py --images FOLDER --json batches.json      some 5 minutes of one core

The super-network of width 0.5 that comes with nat2 is shrunk on 5,000 images of CIFAR-10 at 32 pixels, and then adapted
as between two generations of a search; a batch of 256 sees the images in a quarter of the steps. Measured is the mean
accuracy of a few sub-networks of all sizes on test images. The adaptation is repeated with learning rates that follow
the batch by other rules. FOLDER holds `cifar10/train.npz` and `test.npz`, see `benchmarks/worth.py`.
"""

from __future__ import annotations

import copy
import json
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from shrinking import measure, median_of
from table import Row, parser, show
from worth import source

from nat2.allocator import keep_freed_memory
from nat2.data.dataset import Dataset
from nat2.data.settings import Augmentation
from nat2.data.transform import Pipeline, ResizedImages
from nat2.files import write_json
from nat2.pipeline.prepare import prepare
from nat2.pipeline.pretrained import begin_with
from nat2.runs.config import RunConfig
from nat2.seeds import numpy_generator
from nat2.shipped import DEFAULT
from nat2.space import Arch, Macro, SearchSpace
from nat2.supernet import SuperNetwork, SuperNetworks
from nat2.supernet.static import channels_last
from nat2.training.adapt import Adaptation
from nat2.training.context import TrainingContext
from nat2.training.rate import REFERENCE_BATCH, rate_for
from nat2.training.settings import SHORT_TRANSFER, AdaptSettings, ShrinkSettings
from nat2.training.shrink import shrink
from nat2.training.teacher import calibration_images, largest_as_teacher

TITLE = "Batches of 64 and 256, the same images seen"
IMAGES = 5_000
SIDE = 32
LARGE = 256
RULES = {"constant": 0.0, "square root": 0.5, "proportional": 1.0}
"""Power of the batch size that the adaptation's learning rate is proportional to."""


@dataclass(frozen=True)
class Task:
    """Images, and the sub-networks that are measured on some of them."""

    dataset: Dataset
    macro: Macro
    space: SearchSpace
    seed: int
    seen: int
    """Images that each training sees."""
    scratch: Path

    @property
    def pipeline(self) -> Pipeline:
        return Pipeline(self.dataset.mean, self.dataset.std, Augmentation())

    def context(self, name: str) -> TrainingContext:
        state = self.scratch / f"{name}-{self.seed}.safetensors"
        return TrainingContext(split=self.dataset.train, pipeline=self.pipeline, state=state, seed=self.seed)

    def measured(self) -> Sequence[Arch]:
        """The smallest, the median, the largest, and two drawn ones."""
        drawn = map(self.space.decode, self.space.sample(2, numpy_generator(0, "batches")))
        return [self.space.smallest, median_of(self.space), self.space.largest, *drawn]

    def accuracy(self, network: SuperNetwork) -> float:
        """Mean test accuracy, %."""
        calibration = ResizedImages(calibration_images(self.dataset.train, 256), self.pipeline)
        test = ResizedImages(self.dataset.test, self.pipeline)
        return 100 * statistics.fmean(measure(network, arch, calibration, test) for arch in self.measured())


def shrunk(task: Task, batch_size: int) -> SuperNetwork:
    """The super-network after the short schedule for trained weights."""
    network = channels_last(SuperNetwork(task.macro))
    begin_with(network, DEFAULT.name)
    steps = task.seen // batch_size
    (phase,) = (replace(each, steps=steps, warmup_steps=round(0.1 * steps)) for each in SHORT_TRANSFER)
    settings = ShrinkSettings(batch_size=batch_size, clip=5.0)
    list(shrink(network, task.space, [phase], settings, task.context(f"shrink-{batch_size}")))
    return network


def adapted(task: Task, network: SuperNetwork, batch_size: int, power: float) -> SuperNetwork:
    """A copy after the adaptation, whose learning rate follows the batch by a rule."""
    networks = SuperNetworks([copy.deepcopy(network)])
    default = AdaptSettings()
    wanted = default.lr * (batch_size / REFERENCE_BATCH) ** power
    settings = replace(
        default,
        batch_size=batch_size,
        steps=task.seen // batch_size,
        lr=default.lr * wanted / rate_for(default.lr, batch_size),
        distributions="uniform",
    )
    pipeline = task.pipeline
    teacher = largest_as_teacher(network, task.space, task.dataset.train, pipeline, ShrinkSettings())
    context = task.context(f"adapt-{batch_size}-{power}")
    adaptation = Adaptation(networks, task.space, teacher, settings, context, generations=1)
    adaptation.advance(1, task.space.lower[None][:0])
    return networks[task.macro.width]


def accuracies(task: Task) -> dict[str, float]:
    """Mean test accuracy, %, by what was trained."""
    found: dict[str, float] = {}
    starts = {size: shrunk(task, size) for size in (REFERENCE_BATCH, LARGE)}
    for size, network in starts.items():
        found[f"shrinking, {size}"] = task.accuracy(network)
    start = starts[REFERENCE_BATCH]
    found[f"adaptation, {REFERENCE_BATCH}"] = task.accuracy(adapted(task, start, REFERENCE_BATCH, 1.0))
    for rule, power in RULES.items():
        found[f"adaptation, {LARGE}, {rule}"] = task.accuracy(adapted(task, start, LARGE, power))
    return found


def rows_of(found: Sequence[dict[str, float]]) -> list[Row]:
    """Differences of batches of 256 from 64, of the same seed, in points."""
    rows = []
    kinds = {"shrinking": f"shrinking, {LARGE}"}
    kinds |= {f"adaptation, rate {rule}": f"adaptation, {LARGE}, {rule}" for rule in RULES}
    for name, large in kinds.items():
        small = f"{name.partition(',')[0]}, {REFERENCE_BATCH}"
        differences = [each[large] - each[small] for each in found]
        error = statistics.stdev(differences) / len(found) ** 0.5 if len(found) > 1 else float("nan")
        means = [statistics.fmean(each[which] for each in found) for which in (small, large)]
        detail = f"{means[0]:.1f} and {means[1]:.1f} %; standard error {error:.2f}"
        rows.append(
            Row(
                f"{name}: accuracy with batches of {LARGE} less that with {REFERENCE_BATCH}",
                statistics.fmean(differences),
                better="higher",
                unit="points",
                detail=detail,
            )
        )
    return rows


def main() -> None:
    """Measure, print, write."""
    options = parser(str(__doc__).partition("\n")[0])
    options.add_argument("--images", type=Path, required=True, help="folder of the sets")
    options.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    options.add_argument("--seen", type=int, default=12_800, help="images that each training sees")
    options.add_argument("--keep", type=Path, help="folder where what came of each seed is kept and found again")
    given = options.parse_args()
    keep_freed_memory()
    torch.set_num_threads(1)
    found = []
    with tempfile.TemporaryDirectory() as scratch:
        data = source("CIFAR-10", given.images, Path(scratch))
        if data is None:
            options.error(f"{given.images} holds no images of CIFAR-10 (cifar10/train.npz)")
        for seed in given.seeds:
            kept = given.keep and given.keep / f"batches-{given.seen}-{seed}.json"
            if kept and kept.exists():
                found.append(json.loads(kept.read_text()))
                continue
            plan, dataset = prepare(RunConfig(data=data, seed=seed, resolutions=str(SIDE)))
            dataset = replace(dataset, train=dataset.train.spread(IMAGES), test=dataset.test.spread(1_000))
            found.append(accuracies(Task(dataset, plan.macros[0], plan.space, seed, given.seen, Path(scratch))))
            print(f"seed {seed}: " + "; ".join(f"{name}: {value:.1f}" for name, value in found[-1].items()), flush=True)
            if kept:
                write_json(kept, found[-1])
    show(TITLE, rows_of(found), given.json)


if __name__ == "__main__":
    main()
