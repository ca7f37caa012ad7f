"""Where an epoch's time goes, and what a second process gains.

python benchmarks/training.py --json training.json
"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from table import Row, parser, show
from torch.nn import functional as F

from nat2.allocator import keep_freed_memory
from nat2.data.dataset import Split
from nat2.data.settings import Augmentation
from nat2.data.transform import Pipeline, ResizedImages, steps_per_epoch
from nat2.launcher import launch
from nat2.processes import connect
from nat2.seeds import numpy_generator
from nat2.space import Arch, CostTable, Macro, SearchSpace
from nat2.supernet import SuperNetwork, calibrate, normalize_by
from nat2.supernet.static import channels_last
from nat2.training.context import TrainingContext
from nat2.training.optimise import ElasticEpoch, Schedule, accuracy, sgd, train_epoch

MACRO = Macro(classes=10, channels=3, width=0.5, early_exits=True, dense_skips=True, stem_stride=1)
SPACE = SearchSpace.of(MACRO, (24, 28, 32))


def images(count: int) -> Split:
    pixels = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Split(pixels, torch.arange(count) % 10)


class Watch:
    """Adds up the time spent in functions."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: object, **options: object) -> object:
            began = time.perf_counter()
            try:
                return function(*arguments, **options)
            finally:
                self.seconds[name] += time.perf_counter() - began

        return call


def epoch_parts(batch: int, steps: int) -> dict[str, float]:
    """Seconds of an epoch in forward passes, backward passes, the optimiser, and everything else."""
    split, watch = images(batch * steps), Watch()
    network = channels_last(SuperNetwork(MACRO))
    optimizer = sgd(network, weight_decay=3e-5)
    epoch = ElasticEpoch(
        batch_size=batch,
        resolutions=SPACE.resolutions,
        sample=lambda generator, resolution, number: SPACE.sample_elastic(generator, resolution=resolution),
        loss=watch.timed("forward", lambda logits, labels, targets: F.cross_entropy(logits, labels)),
    )  # fmt: skip
    pipeline = Pipeline((0.5,) * 3, (0.25,) * 3, Augmentation())
    context = TrainingContext(split=split, pipeline=pipeline, state=Path("nowhere"), seed=0)
    network.forward = watch.timed("forward", network.forward)  # type: ignore[method-assign]
    backward = torch.Tensor.backward
    torch.Tensor.backward = watch.timed("backward", backward)  # type: ignore[method-assign]
    optimizer.step = watch.timed("optimiser", optimizer.step)  # type: ignore[method-assign]
    optimizer.zero_grad = watch.timed("optimiser", optimizer.zero_grad)  # type: ignore[method-assign]
    began = time.perf_counter()
    try:
        train_epoch(
            network, optimizer, epoch, context, purpose=("benchmark",), schedule=Schedule(1e-3, 10), first_step=0
        )
    finally:
        torch.Tensor.backward = backward  # type: ignore[method-assign]
    whole = time.perf_counter() - began
    assert steps_per_epoch(len(split), batch) == steps
    return dict(watch.seconds) | {"rest": whole - sum(watch.seconds.values())}


def evaluation_ratios(repeats: int) -> list[float]:
    """Time of evaluating 64 networks in all processes over that in the first alone; each has one thread."""
    processes = connect()
    torch.set_num_threads(1)
    keep_freed_memory()
    network = channels_last(SuperNetwork(MACRO, generator=torch.Generator().manual_seed(0))).eval()
    pipeline = Pipeline((0.5,) * 3, (0.25,) * 3)
    calibration, validation = ResizedImages(images(256), pipeline), ResizedImages(images(512), pipeline)
    archs = SPACE.sample_distinct(64, numpy_generator(0, "archs"), sampling="balanced")
    macs = CostTable(SPACE, {MACRO.width: MACRO})(SPACE.encode_all(archs))[:, 1].tolist()

    def error(arch: Arch) -> float:
        statistics_ = calibrate(network, arch, calibration.batches(arch.resolution))
        with torch.no_grad():
            batches = validation.batches(arch.resolution)
            normalize = normalize_by(statistics_)
            return 1 - accuracy(lambda x: network(x, arch, normalize=normalize), batches, validation.labels)

    ratios = []
    for _ in range(repeats):
        began = time.perf_counter()
        alone = processes.once(lambda: [error(arch) for arch in archs])
        middle = time.perf_counter()
        together = [each for _, each, _ in processes.spread(error, archs, costs=macs)]
        assert together == alone
        ratios.append((time.perf_counter() - middle) / (middle - began))
    return ratios


def main() -> None:
    arguments = parser(__doc__ or "")
    arguments.add_argument("--repeats", type=int, default=3)
    given = arguments.parse_args()
    keep_freed_memory()
    torch.set_num_threads(2)
    rows = []
    for batch in (64, 128):
        epoch_parts(batch, 2)
        measured = [epoch_parts(batch, 12) for _ in range(given.repeats)]
        shares = [{name: value / sum(parts.values()) for name, value in parts.items()} for parts in measured]
        for name in shares[0]:
            title = "not in forward, backward and optimiser" if name == "rest" else name
            share = statistics.median(each[name] for each in shares)
            rows.append(Row(f"batch {batch}: share of an epoch {title}", share, 0.08 if name == "rest" else None))
    ratios = launch(evaluation_ratios, given.repeats, devices=2)
    rows.append(Row("64 networks: two one-thread processes over one", statistics.median(ratios), 0.6))
    show("training, width 0.5, random networks, 32 px, 2 cores", rows, given.json)


if __name__ == "__main__":
    main()
