"""What is asked of a GPU: kernel launches, copies and waits, counted on a pretended one (`tests/pretended.py`).

    python benchmarks/launches.py --json benchmarks/results/launches.json

Needs neither a GPU nor a quiet machine: the numbers are the same everywhere. `tests/test_pretended.py` compares them
with those kept in `benchmarks/results`, so that none grows unnoticed; when one is meant to grow, write the file again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from table import Row, parser, show
from torch.nn import functional as F

from nat2.data.dataset import Split
from nat2.data.settings import Augmentation
from nat2.data.transform import Pipeline, ResizedImages
from nat2.nas.objectives import OBJECTIVES
from nat2.pipeline.evaluation import Evaluator
from nat2.processes import Processes
from nat2.space import Arch, CostTable, Macro, SearchSpace
from nat2.supernet import SuperNetwork, SuperNetworks, calibrate, extract
from nat2.supernet.static import channels_last
from nat2.training.context import TrainingContext
from nat2.training.distill import Teacher, distillation_loss, exit_weights, joint_loss
from nat2.training.lesson import Lesson, optimizer_of
from nat2.training.optimise import ElasticEpoch, Schedule, sgd, train_epoch
from nat2.training.settings import FinetuneSettings

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.pretended import Counts, PretendedGpu, autocast, pretended_gpu

Autocast = Callable[[], contextlib.AbstractContextManager[None]]
CLASSES, BATCH, STEPS = 10, 2, 2
WIDTH, RESOLUTION = 0.35, 32
SHORT = (("shrinking", "bfloat16"), ("shrinking, AutoAugment, cutout and mixup", "float32"))
PRECISIONS: dict[str, Autocast] = {"float32": contextlib.nullcontext, "bfloat16": autocast}


class Bench:
    """A super-network on the pretended GPU, the sub-networks that are run, and images."""

    def __init__(self, gpu: PretendedGpu) -> None:
        """Build with random weights; the median sub-network is that of 101 in multiply-accumulates."""
        self.gpu = gpu
        self.macro = Macro(classes=CLASSES, width=WIDTH, stem_stride=1)
        self.space = SearchSpace.of(self.macro, (RESOLUTION,))
        drawn = self.space.sample(101, np.random.default_rng(0))
        macs = CostTable(self.space, {WIDTH: self.macro})(drawn)[:, 1]
        self.median = self.space.decode(drawn[np.argsort(macs)[50]])
        generator = torch.Generator().manual_seed(0)
        self.network = channels_last(SuperNetwork(self.macro, generator=generator), gpu.device)

    def split(self, batches: int) -> Split:
        """Images that live on the GPU."""
        generator = torch.Generator().manual_seed(0)
        shape = (BATCH * batches, 3, RESOLUTION, RESOLUTION)
        pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
        return Split(pixels, torch.arange(len(pixels)) % CLASSES).resident(self.gpu.device)

    def pipeline(self, augmentation: Augmentation | None = None) -> Pipeline:
        """What makes inputs of them."""
        return Pipeline((0.5,) * 3, (0.25,) * 3, augmentation or Augmentation(), device=self.gpu.device)

    def teacher(self) -> Teacher:
        """The largest network with all exits."""
        return Teacher(extract(self.network, self.space.largest, exits=self.macro.exits), "DESC")


def launches(counts: Counts) -> int:
    """Kernels of all kinds."""
    return counts.launches.total()


def passes(bench: Bench, *, short: bool) -> Iterator[Row]:
    """One sub-network forwards and backwards: the first of a step, and a further one, whose gradients are added."""
    images = torch.rand(BATCH, 3, RESOLUTION, RESOLUTION).to(bench.gpu.device)
    images, labels = images.to(memory_format=torch.channels_last), torch.arange(BATCH).to(bench.gpu.device)
    for precision, context in PRECISIONS.items():
        for which, arch in (("median", bench.median), ("largest", bench.space.largest)):
            if short and which == "largest":
                continue

            def run(context: Autocast = context, arch: Arch = arch) -> None:
                with context():
                    logits = bench.network(images, arch).float()
                F.cross_entropy(logits, labels).backward()  # type: ignore[no-untyped-call]

            bench.network.zero_grad(set_to_none=True)
            for place in ("first of a step", "further"):
                counts = bench.gpu.count(run)
                yield Row(f"launches, forward and backward ({which}, {precision}, {place})", launches(counts))
    bench.network.zero_grad(set_to_none=True)
    teacher = bench.teacher()
    for precision, context in PRECISIONS.items():

        def teach(context: Autocast = context) -> None:
            with context():
                teacher(images)

        teach()  # weights are converted once
        yield Row(f"launches of the teacher ({precision})", launches(bench.gpu.count(teach)))


def training(bench: Bench, *, short: bool) -> Iterator[Row]:
    """A step of each kind of training, and what an epoch waits for."""
    teacher, rich = bench.teacher(), Augmentation(policy="autoaugment", cutout=0.25, mixup=0.2)
    exits = bench.macro.exits
    weights = exit_weights("DESC", len(exits))[0].to(bench.gpu.device)
    shrinking = ElasticEpoch(
        batch_size=BATCH,
        resolutions=(RESOLUTION,),
        sample=lambda generator, resolution, number: bench.median,
        loss=lambda logits, labels, targets: distillation_loss(logits, labels, targets),
        subnets=2,
        teacher=teacher,
    )
    joint = dataclasses.replace(
        shrinking,
        sample=lambda generator, resolution, number: bench.space.largest,
        loss=lambda logits, labels, targets: joint_loss(logits, labels, weights),
        subnets=1,
        exits=exits,
        teacher=None,
    )
    kinds: dict[str, tuple[ElasticEpoch, Augmentation]] = {
        "the joint phase": (joint, Augmentation()),
        "shrinking": (shrinking, Augmentation()),
        "adaptation": (dataclasses.replace(shrinking, clip=5.0), Augmentation()),
        "shrinking, AutoAugment, cutout and mixup": (shrinking, rich),
    }
    for precision, context in PRECISIONS.items():
        if not short:
            work = partial(elastic_epoch, bench, shrinking, Augmentation(), context, graphs=True)
            yield from steps_of(bench, f"shrinking, CUDA graphs ({precision})", work)
        for name, (epoch, augmentation) in kinds.items():
            if (augmentation is rich and precision != "float32") or (short and (name, precision) not in SHORT):
                continue
            work = partial(elastic_epoch, bench, epoch, augmentation, context)
            yield from steps_of(bench, f"{name} ({precision})", work)
    yield from steps_of(bench, "fine-tuning (float32)", partial(finetuning_epoch, bench, Augmentation()))


def steps_of(bench: Bench, name: str, epoch: Callable[[int], Callable[[], object]]) -> Iterator[Row]:
    """Rows for an epoch, given a function that makes one of so many steps."""
    bench.gpu.count(epoch(1))  # what is made once, such as constants on the device
    short, long = (bench.gpu.count(epoch(steps)) for steps in (STEPS - 1, STEPS))
    yield Row(f"launches of a step, {name}", launches(long) - launches(short))
    yield Row(f"copies of a step, {name}", long.copies.total() - short.copies.total())
    yield Row(f"waits of an epoch of {STEPS} steps, {name}", long.waits.total(), 1, detail=reasons(long))


def reasons(counts: Counts) -> str:
    """What was waited for."""
    return ", ".join(f"{reason}: {count}" for reason, count in sorted(counts.waits.items()))


def elastic_epoch(
    bench: Bench,
    epoch: ElasticEpoch,
    augmentation: Augmentation,
    context: Autocast,
    steps: int,
    *,
    graphs: bool = False,
) -> Callable[[], object]:
    """An epoch of sub-networks."""
    networks = SuperNetworks([bench.network])
    training = TrainingContext(
        split=bench.split(steps),
        pipeline=bench.pipeline(augmentation),
        state=Path("nowhere"),
        seed=0,
        processes=Processes(device=bench.gpu.device, autocast=context, graphs=graphs),
    )
    return partial(
        train_epoch,
        networks,
        sgd(networks, weight_decay=3e-5),
        epoch,
        training,
        purpose=("launches",),
        schedule=Schedule(1e-3, steps),
        first_step=0,
    )


def finetuning_epoch(bench: Bench, augmentation: Augmentation, steps: int) -> Callable[[], object]:
    """An epoch of one extracted network."""
    settings = FinetuneSettings(batch_size=BATCH)
    network = extract(bench.network, bench.median).requires_grad_(True)
    lesson = Lesson.of(bench.pipeline(augmentation), settings, 0, BATCH * steps, None)
    optimizer, schedule, split = optimizer_of(network, settings), Schedule(1e-3, steps), bench.split(steps)
    return lambda: lesson.train(network, optimizer, split, schedule, steps=range(steps), part=0)


@torch.no_grad()
def search(bench: Bench, *, short: bool) -> Iterator[Row]:
    """An evaluation of the search, and an extracted network."""
    split, networks = bench.split(16), SuperNetworks([bench.network])
    images = ResizedImages(split, bench.pipeline(), batch_size=BATCH * 8)
    evaluator = Evaluator(images, images, Processes(device=bench.gpu.device))
    evaluate = evaluator.evaluate(networks, [OBJECTIVES["error"]])
    evaluate(bench.median)  # the inputs are kept
    counts = bench.gpu.count(lambda: evaluate(bench.median))
    yield Row("launches of an evaluation, two batches each", launches(counts))
    yield Row("waits of an evaluation, two batches each", counts.waits.total(), 1, detail=reasons(counts))
    statistics = calibrate(bench.network, bench.median, images.batches(RESOLUTION))
    counts = bench.gpu.count(lambda: extract(bench.network, bench.median, statistics))
    yield Row("copies to extract a network", counts.copies.total(), 10)
    yield Row("launches to extract a network", launches(counts))


def measure(*, short: bool = False) -> list[Row]:
    """All rows, or those that take a few seconds."""
    with pretended_gpu() as gpu:
        bench = Bench(gpu)
        return [row for section in (passes, training, search) for row in section(bench, short=short)]


def main() -> None:
    """Count, print, write."""
    arguments = parser(str(__doc__).partition("\n")[0]).parse_args()
    show(f"A pretended GPU, width {WIDTH} at {RESOLUTION} pixels", measure(), arguments.json)


if __name__ == "__main__":
    main()
