"""What several processes cost and save: exchanges of a training step as predicted and as counted, times, and the model
for GPUs that follows.

python benchmarks/processes.py --json processes.json

The model of a step: the host prepares kernels one after the other, the device computes them for its share of the
images, and each exchange takes a latency and the time of its bytes. On the CPU, gloo processes check it: exchanges are
counted and must be as many as predicted, and the step is predicted as what the same computation takes without exchanges
in as many processes at once, plus the exchanges, whose latency and bandwidth are measured on their own. `--processes`
says with how many processes, `--steps` how many steps are timed.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from table import Row, parser, show
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from nat2.data.dataset import Split
from nat2.data.transform import Pipeline
from nat2.launcher import launch
from nat2.processes import Processes, connect
from nat2.space import Arch, Macro, SearchSpace
from nat2.supernet import SuperNetwork, extract
from nat2.supernet.layers import ElasticBatchNorm, Normalize, normalize_by_batch, normalize_by_joint_batch
from nat2.supernet.static import channels_last
from nat2.training.context import TrainingContext
from nat2.training.optimise import ElasticEpoch, Schedule, sgd, train_epoch
from nat2.training.settings import SyncBatchNorm

MACRO = Macro(classes=10, width=0.35, stem_stride=1)
SPACE = SearchSpace.of(MACRO, (16,))
IMAGES = 8  # of each process in a batch
FLOAT = 4  # bytes


@dataclass(frozen=True)
class Case:
    """One way of training."""

    sync: SyncBatchNorm
    subnets: int = 2
    clip: float | None = None

    @property
    def name(self) -> str:
        return f"{self.sync}{', clipped' if self.clip else ''}"


CASES = (Case("joint"), Case("per-process"), Case("joint", clip=5.0), Case("per-process", clip=5.0))


@dataclass(frozen=True)
class Measured:
    """What one process has counted and timed."""

    exchanges: dict[Case, int]
    """Of a step."""
    seconds: dict[Case, float]
    """Of a step."""
    alone: dict[Case, float]
    """Of a step without its exchanges, in as many processes at once."""
    latency: float
    """Seconds of a small exchange."""
    per_byte: float
    """Seconds of each byte of a large one."""


# -- prediction


def norms_of(macro: Macro, arch: Arch, exits: tuple[int, ...] | None = None) -> int:
    """Batch norms of a network."""
    with torch.device("meta"):
        network = SuperNetwork(macro)
    static = extract(network, arch, exits=exits)
    return sum(isinstance(module, nn.BatchNorm2d) for module in static.modules())


def exchanges_of(case: Case, norms: int) -> int:
    """Predicted number of a step: two for each batch norm of each sub-network, and the gradients.

    The gradients are exchanged once, or for each sub-network if their norm is clipped after each.
    """
    statistics = 2 * norms * case.subnets if case.sync == "joint" else 0
    return statistics + (case.subnets if case.clip else 1)


# -- measurement


class Mute(Processes):
    """Processes that divide a batch and exchange nothing."""

    def sum(self, x: Tensor) -> Tensor:
        return x

    def sum_gradients(self, parameters: Any) -> None:
        pass

    def share(self, tensors: Any) -> None:
        pass


def measured(steps: int) -> Measured:
    """What each process does; returns what this one has measured."""
    torch.set_num_threads(1)
    processes = connect()
    exchanges, seconds, alone = {}, {}, {}
    mute = Mute(processes.rank, processes.size, processes.device, processes.autocast)
    for case in CASES:
        epoch = epoch_of(case, processes.size)
        with Counter() as counter:
            epoch(processes, 1)
        with Counter() as more:
            epoch(processes, 2)
        exchanges[case] = more.count - counter.count
        trained = partial(epoch, processes, steps)
        pairs = [(timed(processes, trained), timed(processes, partial(epoch, mute, steps))) for _ in range(3)]
        seconds[case] = statistics.median(pair[0] for pair in pairs) / steps
        alone[case] = statistics.median(pair[1] for pair in pairs) / steps
    small, large = (exchange_seconds(processes, count) for count in (100, 400_000))
    return Measured(exchanges, seconds, alone, small, max(0.0, large - small) / (400_000 * FLOAT))


def epoch_of(case: Case, size: int) -> Callable[[Processes, int], float]:
    """Trains some steps of the largest network."""
    network = channels_last(SuperNetwork(MACRO, generator=torch.Generator().manual_seed(0)))
    optimizer = sgd(network, weight_decay=0)
    batch = IMAGES * size
    pixels = torch.randint(0, 256, (4 * batch, 3, 16, 16), dtype=torch.uint8)
    split = Split(pixels, torch.arange(len(pixels)) % MACRO.classes)
    pipeline = Pipeline((0.5,) * 3, (0.25,) * 3)

    def train(processes: Processes, steps: int) -> float:
        context = TrainingContext(
            split=split, pipeline=pipeline, state=Path("none"), seed=0, processes=processes, sync_batch_norm=case.sync
        )
        epoch = ElasticEpoch(
            batch_size=batch,
            resolutions=(16,),
            sample=lambda generator, resolution, number: SPACE.largest,
            loss=lambda logits, labels, targets: F.cross_entropy(logits, labels),
            subnets=case.subnets,
            clip=case.clip,
            steps=steps,
        )
        return train_epoch(
            network, optimizer, epoch, context, purpose=("bench",), schedule=Schedule(1e-5, steps), first_step=0
        )

    return train


class Counter:
    """Counts exchanges of tensors."""

    def __enter__(self) -> Counter:
        self.count, self._exchange = 0, dist.all_reduce

        def counting(*arguments: Any, **options: Any) -> Any:
            self.count += 1
            return self._exchange(*arguments, **options)

        vars(dist)["all_reduce"] = counting
        return self

    def __exit__(self, *error: object) -> None:
        vars(dist)["all_reduce"] = self._exchange


def timed(processes: Processes, work: Callable[[], object]) -> float:
    """Seconds of work that all processes begin together."""
    processes.meet()
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def exchange_seconds(processes: Processes, count: int, repeats: int = 30) -> float:
    """Median seconds of an exchange of so many floats."""
    x = torch.zeros(count)
    return statistics.median(timed(processes, lambda: processes.sum(x)) for _ in range(repeats))


def checked(size: int, steps: int) -> list[Row]:
    """Prediction and measurement with some processes."""
    found = launch(measured, steps, devices=size)
    norms = norms_of(MACRO, SPACE.largest)
    gradients = FLOAT * sum(each.numel() for each in SuperNetwork(MACRO).parameters())
    rows = []
    for case in CASES:
        predicted = exchanges_of(case, norms)
        step = found.alone[case] + predicted * found.latency
        step += gradients * found.per_byte * (case.subnets if case.clip else 1)
        name = f"{size} processes, {case.name}"
        rows += [
            Row(f"exchanges of a step ({name})", found.exchanges[case], predicted, detail=f"predicted {predicted}"),
            Row(
                f"step, measured / predicted ({name})",
                found.seconds[case] / step,
                detail=f"{1000 * found.seconds[case]:.0f} ms and {1000 * step:.0f} ms, of which "
                f"{1000 * (step - found.alone[case]):.0f} ms exchanges",
            ),
        ]
    detail = f"{1e-9 / max(found.per_byte, 1e-15):.2f} GB/s"
    return [*rows, Row(f"small exchange ({size} processes)", 1000 * found.latency, unit="ms", detail=detail)]


# -- the model for GPUs


@dataclass(frozen=True)
class Cluster:
    """Assumptions about GPUs; those of the host and the device were measured on an H200."""

    gpus: int
    latency: float
    """Seconds of a small exchange on the device: NVLink within a machine, InfiniBand between them (assumed)."""
    bandwidth: float
    """Bytes per second of a large one (assumed)."""
    launch: float = 30e-3 / 441
    """Seconds in which the host prepares a kernel: the median sub-network's two passes took 30 ms with 441 kernels."""
    image: float = 0.05e-3
    """Seconds of the device for an image and a sub-network: 10,000 images/s with two sub-networks."""

    def step(self, case: Case, images: int, network: Network) -> tuple[float, float]:
        """Seconds of host and device for a step with so many images on each GPU; the longer one decides."""
        launches = case.subnets * network.kernels + network.teacher
        device = case.subnets * images * self.image
        if self.gpus > 1:
            exchanges = exchanges_of(case, network.norms)
            launches += exchanges + (
                case.subnets * network.norms * network.joint_kernels if case.sync == "joint" else 0
            )
            sent = 2 * (self.gpus - 1) / self.gpus * network.bytes * (case.subnets if case.clip else 1)
            device += exchanges * self.latency + sent / self.bandwidth
        return launches * self.launch, device


@dataclass(frozen=True)
class Network:
    """A super-network's median sub-network at width 1.0, 32 pixels: kernels as counted on a pretended device."""

    norms: int
    joint_kernels: int
    """Kernels of a joint batch norm in addition to those of one that is not, in both passes."""
    bytes: int
    """Of all gradients."""
    kernels: int = 348
    """Of both passes (`benchmarks/launches.py`)."""
    teacher: int = 309


class Kernels(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts operations that launch a kernel on a device: all but views."""

    count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not (function.is_view or "empty" in str(function) or "detach" in str(function))
        return function(*args, **(kwargs or {}))


def kernels_of(normalize: Normalize) -> int:
    """Kernels of a batch norm forwards and backwards."""
    norm, x = ElasticBatchNorm(8), torch.randn(4, 8, 6, 6, requires_grad=True)
    with Kernels() as counter:  # type: ignore[no-untyped-call]
        normalize(norm, x, norm.weight, norm.bias).sum().backward()  # type: ignore[no-untyped-call]
    return int(counter.count)


CLUSTERS = (Cluster(1, 0.0, 1e12), Cluster(8, 30e-6, 200e9), Cluster(64, 100e-6, 40e9))
HELD = 8  # processes that share a GPU


def modelled() -> list[Row]:
    """The table for GPUs."""
    macro = Macro(classes=10, width=1.0, stem_stride=1)
    space = SearchSpace.of(macro, (32,))
    with torch.device("meta"):
        size = FLOAT * sum(each.numel() for each in SuperNetwork(macro).parameters())
    median = replace(space.largest, stages=tuple(stage[:3] for stage in space.largest.stages[:4]))
    joint = kernels_of(normalize_by_joint_batch(lambda x: x)) - kernels_of(normalize_by_batch)
    network = Network(norms_of(macro, median), joint, size)
    rows = [
        Row("model: batch norms of a sub-network", network.norms),
        Row("model: kernels that a joint batch norm has in addition", network.joint_kernels),
    ]
    for cluster in CLUSTERS[1:]:
        sent = 2 * (cluster.gpus - 1) / cluster.gpus * size / cluster.bandwidth
        detail = f"{size / 1e6:.0f} MB; all that overlapping it with the backward pass could save"
        rows.append(
            Row(f"model: exchange of the gradients ({cluster.gpus} GPUs)", 1000 * sent, unit="ms", detail=detail)
        )
    for images in (64, 512):
        one = None
        for cluster in CLUSTERS:
            for case in (Case("per-process"), Case("joint")) if cluster.gpus > 1 else (Case("per-process"),):
                host, device = cluster.step(case, images, network)
                speed = cluster.gpus * images / max(host, device)
                one = one or speed
                way = f", {case.name}" if cluster.gpus > 1 else ""
                rows.append(
                    Row(
                        f"model: images/s ({cluster.gpus} GPUs, {images} images each{way})",
                        speed,
                        better="higher",
                        detail=f"{speed / one:.1f} times one; host {1000 * host:.0f} ms, device {1000 * device:.0f} ms",
                    )
                )
    forward, batch = 20e-3 / 2, 256  # about a third of both passes
    for held in (1, 2, 4, HELD):
        seconds = max(forward / held, batch * CLUSTERS[0].image / 3)
        rows.append(Row(f"model: images/s evaluated on one GPU ({held} processes)", batch / seconds, better="higher"))
    return rows


def main() -> None:
    """Print, and write if asked."""
    options = parser("Exchanges and times of several processes, predicted and measured; the model for GPUs.")
    options.add_argument(
        "--processes", type=int, nargs="*", default=[2, 4], help="how many gloo processes check the model"
    )
    options.add_argument("--steps", type=int, default=10, help="steps that are timed at once")
    given = options.parse_args()
    rows = [row for size in given.processes for row in checked(size, given.steps)]
    show("Several processes", [*rows, *modelled()], given.json)


if __name__ == "__main__":
    main()
