"""What a GPU makes of it: numbers beside the CPU's, speed of training and evaluation, kernels and transfers.

python benchmarks/gpu.py --json gpu.json

Each row is printed as soon as it is measured, and the JSON file is written again with it, so that a run that is cut off
keeps what it had. `--seconds` ends it in time: sections that no longer fit are left out. Without a GPU it runs a short
form on the CPU, which shows that the script works and says nothing about speed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from table import Row, parser, show, write
from torch import Tensor, nn
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from nat2.data.dataset import Split
from nat2.data.transform import Pipeline
from nat2.processes import Processes
from nat2.space import Arch, CostTable, Macro, SearchSpace
from nat2.supernet import StaticNetwork, SuperNetwork, calibrate, extract, normalize_by
from nat2.supernet.layers import Normalize, normalize_by_batch, normalize_by_joint_batch
from nat2.supernet.static import channels_last
from nat2.training.context import TrainingContext
from nat2.training.distill import Teacher, distillation_loss
from nat2.training.optimise import ElasticEpoch, Schedule, sgd, train_epoch

CLASSES = 10
Autocast = Callable[[], contextlib.AbstractContextManager[object]]


@dataclasses.dataclass(frozen=True)
class Size:
    """How much is measured."""

    width: float
    resolution: int
    batches: tuple[int, ...]
    steps: int
    evaluated: int


FULL = Size(width=0.5, resolution=64, batches=(64, 256, 512, 1024), steps=12, evaluated=4096)
SHORT = Size(width=0.35, resolution=16, batches=(4,), steps=1, evaluated=8)


def bfloat16(device: torch.device) -> Autocast:
    """Autocast as nat2 uses it for `bf16-mixed`."""
    return lambda: torch.autocast(device.type, torch.bfloat16)


@contextlib.contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Whether convolutions and matrix products may round their inputs to TF32."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


class Bench:
    """A super-network on a device, images, and the sub-networks to compare."""

    def __init__(self, size: Size, device: torch.device) -> None:
        """Build with random weights."""
        self.size, self.device = size, device
        self.macro = Macro(classes=CLASSES, width=size.width, stem_stride=2 if size.resolution > 48 else 1)
        self.space = SearchSpace.of(self.macro, (size.resolution,))
        drawn = self.space.sample(101, np.random.default_rng(0))
        macs = CostTable(self.space, {size.width: self.macro})(drawn)[:, 1]
        median = self.space.decode(drawn[np.argsort(macs)[50]])
        self.archs = {"median": median, "largest": self.space.largest}
        self.network = self.fresh()

    def fresh(self) -> SuperNetwork:
        """The super-network with its initial weights."""
        generator = torch.Generator().manual_seed(0)
        return channels_last(SuperNetwork(self.macro, generator=generator), self.device)

    def images(self, count: int) -> Tensor:
        """Normalised random images."""
        side = self.size.resolution
        images = torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))
        return images.to(self.device).contiguous(memory_format=torch.channels_last)

    def labels(self, count: int) -> Tensor:
        """A label for each."""
        return torch.arange(count, device=self.device) % CLASSES

    def wait(self) -> None:
        """Until the device has done what it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def milliseconds(self, function: Callable[[], object], *, repeats: int = 0) -> float:
        """Median time of a call, finished on the device; the first two do not count."""
        times = []
        for _ in range(2 + (repeats or self.size.steps)):
            self.wait()
            began = time.perf_counter()
            function()
            self.wait()
            times.append(1000 * (time.perf_counter() - began))
        return statistics.median(times[2:])


# -- the card


def card(bench: Bench) -> Iterator[Row]:
    """How fast it copies within its own memory."""
    count = 2**30 if bench.device.type == "cuda" else 2**22
    source, target = (torch.zeros(count, dtype=torch.uint8, device=bench.device) for _ in range(2))
    spent = bench.milliseconds(lambda: target.copy_(source))
    yield Row("copy within the memory, read and written", 2 * count / spent / 1e9, unit="TB/s", better="higher")


# -- correctness


def relative(ours: Sequence[Tensor], exact: Sequence[Tensor]) -> float:
    """Length of the difference over that of the exact values, all tensors as one vector."""
    a, b = (torch.cat([each.detach().double().cpu().reshape(-1) for each in tensors]) for tensors in (ours, exact))
    return float((a - b).norm() / b.norm())


def gradients(network: nn.Module, answer: Callable[[], Tensor], labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits and gradients by parameter."""
    network.zero_grad(set_to_none=True)
    logits = answer()
    F.cross_entropy(logits.float() if logits.dtype == torch.bfloat16 else logits, labels).backward()  # type: ignore[no-untyped-call]
    return logits.detach(), {name: each.grad for name, each in network.named_parameters() if each.grad is not None}


def correctness(bench: Bench) -> Iterator[Row]:
    """Logits, gradients and statistics beside those of the CPU in double precision."""
    arch, count = bench.archs["median"], 32
    images, labels = bench.images(count), bench.labels(count)
    exact = bench.fresh().cpu().double()
    answer, slopes = gradients(exact, lambda: exact(images.cpu().double(), arch), labels.cpu())
    ways: dict[str, tuple[bool, Autocast, Normalize, float]] = {
        "float32": (False, contextlib.nullcontext, normalize_by_batch, 1e-3),
        "float32, joint batch norm": (False, contextlib.nullcontext, normalize_by_joint_batch(lambda x: x), 1e-3),
        "TF32": (True, contextlib.nullcontext, normalize_by_batch, 5e-2),
        "bfloat16": (True, bfloat16(bench.device), normalize_by_batch, 0.3),
    }
    for name, (rounds, autocast, normalize, target) in ways.items():
        with tf32(rounds), autocast():
            here, there = gradients(bench.network, partial(bench.network, images, arch, normalize=normalize), labels)
        off = relative([here], [answer])
        yield Row(f"logits beside the CPU's in double precision ({name})", off, target)
        off = relative([there[each] for each in slopes], list(slopes.values()))
        yield Row(f"gradients beside the CPU's in double precision ({name})", off, target)
    with tf32(False), torch.no_grad():
        stored = calibrate(bench.network, arch, [images])
        theirs = calibrate(exact, arch, [images.cpu().double()])
        off = relative(
            [each for path in theirs for each in stored[path]], [x for pair in theirs.values() for x in pair]
        )
        yield Row("statistics beside the CPU's in double precision (float32)", off, 1e-3)
        elastic = bench.network(images, arch, normalize=normalize_by(stored))
        static = extract(bench.network, arch, stored)(images)
        yield Row("extracted network beside the super-network", relative([static], [elastic]), 1e-4)


# -- kernels


def depthwise(bench: Bench) -> Iterator[Row]:
    """A depthwise convolution forwards and backwards, in both memory layouts."""
    cuda = bench.device.type == "cuda"
    shape = (512, 120, 16, 16) if cuda else (4, 16, 8, 8)
    for kernel in (3, 5, 7):
        for kind in (torch.float32, torch.bfloat16):
            spent = {}
            for layout in (torch.channels_last, torch.contiguous_format):
                x = torch.randn(shape, device=bench.device, dtype=kind).to(memory_format=layout).requires_grad_()
                weight = torch.randn(shape[1], 1, kernel, kernel, device=bench.device, dtype=kind)
                weight = weight.to(memory_format=layout).requires_grad_()
                up = torch.randn(shape, device=bench.device, dtype=kind).to(memory_format=layout)

                def run(x: Tensor = x, weight: Tensor = weight, up: Tensor = up) -> None:
                    F.conv2d(x, weight, padding=weight.shape[-1] // 2, groups=len(weight)).backward(up)  # type: ignore[no-untyped-call]

                spent[layout] = bench.milliseconds(run)
            yield Row(
                f"depthwise {kernel}x{kernel}, channels last / contiguous ({kind})",
                spent[torch.channels_last] / spent[torch.contiguous_format],
                detail=f"{spent[torch.channels_last]:.2f} ms",
            )


# -- training


def training(bench: Bench) -> Iterator[Row]:
    """Steps of `train_epoch` with random sub-networks, as in the later phases of shrinking."""
    cuda = bench.device.type == "cuda"
    teacher = Teacher(extract(bench.network, bench.space.largest, exits=bench.macro.exits), "DESC")
    cases = [
        (batch, precision, which, taught, last)
        for batch in bench.size.batches
        for precision in ("TF32", "bfloat16")
        for which, taught, last in (
            ("random", False, True),
            ("random", True, True),
            ("largest", False, True),
            ("random", False, False),
        )
        if cuda or (precision == "TF32" and which == "random")
        if last or batch in (256, 1024)
    ]
    for batch, precision, which, taught, last in cases:
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        seconds = steps_of(
            bench, batch, precision=precision, which=which, teacher=teacher if taught else None, last=last
        )
        peak = torch.cuda.max_memory_allocated() / 2**30 if cuda else 0.0
        name = f"batch {batch}, {precision}, {which}{', taught' * taught}{', contiguous' * (not last)}"
        yield Row(
            f"training step ({name})",
            1000 * seconds,
            unit="ms",
            detail=f"{batch / seconds:,.0f} images/s, peak {peak:.1f} GiB",
        )


def steps_of(
    bench: Bench,
    batch: int,
    *,
    precision: str,
    which: str,
    teacher: Teacher | None,
    last: bool = True,
    subnets: int = 1,
) -> float:
    """Seconds of a training step: median over epochs of a few steps, behind one to warm up."""
    steps = bench.size.steps
    network = bench.fresh()
    layout = torch.channels_last if last else torch.contiguous_format
    network.to(memory_format=layout)  # type: ignore[call-overload]

    def sample(generator: np.random.Generator, resolution: int, number: int) -> Arch:
        if which == "largest":
            return bench.space.largest
        return bench.space.sample_elastic(generator, resolution=resolution)

    epoch = ElasticEpoch(
        batch_size=batch,
        resolutions=bench.space.resolutions,
        sample=sample,
        loss=lambda logits, labels, targets: distillation_loss(logits, labels, targets),
        subnets=subnets,
        teacher=teacher,
    )
    side = bench.size.resolution
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (batch * steps, 3, side, side), dtype=torch.uint8, generator=generator)
    split = Split(pixels, torch.arange(len(pixels)) % CLASSES).resident(bench.device)
    autocast: Autocast = bfloat16(bench.device) if precision == "bfloat16" else contextlib.nullcontext
    pipeline = _Contiguous if not last else Pipeline
    with tempfile.TemporaryDirectory() as folder, tf32(True):
        context = TrainingContext(
            split=split,
            pipeline=pipeline((0.5,) * 3, (0.25,) * 3, device=bench.device),
            state=Path(folder) / "state",
            seed=0,
            processes=Processes(device=bench.device, autocast=autocast),
        )
        optimizer, schedule = sgd(network, weight_decay=3e-5), Schedule(1e-4, steps * 4)
        times = []
        for number in range(3):
            bench.wait()
            began = time.perf_counter()
            train_epoch(network, optimizer, epoch, context, purpose=("bench", number), schedule=schedule, first_step=0)
            bench.wait()
            times.append((time.perf_counter() - began) / steps)
    return statistics.median(times[1:])


class _Contiguous(Pipeline):
    """Inputs in torch's default memory layout."""

    def normalize(self, images: Tensor) -> Tensor:
        """As of `Pipeline`, but for the layout."""
        return super().normalize(images).contiguous()


def plain(bench: Bench) -> Iterator[Row]:
    """Steps of the same architectures as plain networks, eagerly and as a CUDA graph."""
    for batch in bench.size.batches:
        images, labels = bench.images(batch), bench.labels(batch)
        for which, arch in bench.archs.items():
            static = extract(bench.network, arch).train()
            shared = partial(bench.network, images, arch)
            elastic = bench.milliseconds(partial(gradients, bench.network, shared, labels))
            eager = bench.milliseconds(partial(gradients, static, partial(static, images), labels))
            yield Row(
                f"forward + backward, elastic / extracted (batch {batch}, {which})",
                elastic / eager,
                detail=f"{elastic:.1f} ms, {1000 * batch / elastic:,.0f} images/s",
            )
            if bench.device.type == "cuda":
                graph = graphed(static, images, labels)
                replayed = bench.milliseconds(graph.replay)
                yield Row(
                    f"forward + backward, CUDA graph / eager (batch {batch}, {which})",
                    replayed / eager,
                    detail=f"{replayed:.2f} ms",
                )


def taught(bench: Bench) -> Iterator[Row]:
    """A teacher, and the same one as a CUDA graph."""
    teacher = Teacher(extract(bench.network, bench.space.largest, exits=bench.macro.exits), "DESC")
    for batch in bench.size.batches if bench.device.type == "cuda" else ():
        images = bench.images(batch)
        with bfloat16(bench.device)():
            off = float((teacher.replayed(images) - teacher(images)).abs().max())
            spent = [bench.milliseconds(partial(each, images)) for each in (teacher.replayed, teacher)]
        yield Row(f"teacher as a CUDA graph, difference of probabilities (batch {batch})", off, 1e-3)
        detail = f"{spent[0]:.2f} and {spent[1]:.2f} ms"
        yield Row(f"teacher as a CUDA graph, time / without (batch {batch})", spent[0] / spent[1], detail=detail)


def graphed(static: StaticNetwork, images: Tensor, labels: Tensor) -> torch.cuda.CUDAGraph:
    """A captured forward and backward pass of a fixed architecture."""
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            gradients(static, lambda: static(images), labels)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    static.zero_grad(set_to_none=True)
    with torch.cuda.graph(graph):
        F.cross_entropy(static(images), labels).backward()  # type: ignore[no-untyped-call]
    return graph


def whereabouts(bench: Bench) -> Iterator[Row]:
    """Kernels, transfers and idle time of a training step, and the kernels that take longest."""
    cuda = bench.device.type == "cuda"
    batch, arch = bench.size.batches[min(1, len(bench.size.batches) - 1)], bench.archs["median"]
    images, labels = bench.images(batch), bench.labels(batch)
    for name, autocast in (("TF32", contextlib.nullcontext), ("bfloat16", bfloat16(bench.device))):
        optimizer = sgd(bench.network, weight_decay=3e-5)  # at a learning rate of 0

        def step(autocast: Autocast = autocast, optimizer: torch.optim.Optimizer = optimizer) -> None:
            with tf32(True), autocast():
                gradients(bench.network, lambda: bench.network(images, arch), labels)
            optimizer.step()

        wall = bench.milliseconds(step) / 1000
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
        with profile(activities=activities) as measured:
            step()
            bench.wait()
        events = measured.key_averages()
        counts = {each.key: each.count for each in events}
        launches = sum(count for key, count in counts.items() if "LaunchKernel" in key)
        waits = sum(count for key, count in counts.items() if key.endswith("Synchronize"))
        yield Row(f"kernels launched in a step ({name})", launches)
        yield Row(f"waits for the device in a step ({name})", waits)
        if cuda:
            kernels = sorted(events, key=lambda each: -each.self_device_time_total)
            busy = sum(each.self_device_time_total for each in kernels) / 1e6
            yield Row(f"share of a step in which the GPU has nothing to do ({name})", 1 - busy / wall)
            for each in kernels[:6]:
                share = each.self_device_time_total / 1e6 / busy
                yield Row(f"share of the GPU's time ({name}): {each.key[:70]}", share, detail=f"{each.count} times")


# -- evaluation and repetition


@torch.no_grad()
def evaluation(bench: Bench) -> Iterator[Row]:
    """An evaluation in the search: statistics on an eighth of the images, then all of them."""
    for batch in sorted({min(each, bench.size.evaluated) for each in (256, 1024, 4096)}):
        images = bench.images(bench.size.evaluated)
        parts = torch.split(images, batch)
        for which, arch in bench.archs.items():

            def run(arch: Arch = arch, parts: Sequence[Tensor] = parts) -> None:
                first = parts[0][: max(2, bench.size.evaluated // 8)]
                normalize = normalize_by(calibrate(bench.network, arch, [first]))
                for each in parts:
                    bench.network(each, arch, normalize=normalize)

            spent = bench.milliseconds(run, repeats=5)
            yield Row(
                f"evaluation on {bench.size.evaluated} images (batch {batch}, {which})",
                spent,
                unit="ms",
                detail=f"{1000 * bench.size.evaluated / spent:,.0f} images/s",
            )


def repetition(bench: Bench) -> Iterator[Row]:
    """Whether the same seed gives the same weights."""
    batch = bench.size.batches[0]
    images, labels = bench.images(batch), bench.labels(batch)

    def trained() -> list[Tensor]:
        network = bench.fresh()
        optimizer = sgd(network, weight_decay=3e-5)
        for group in optimizer.param_groups:
            group["lr"] = 0.01
        for _ in range(bench.size.steps):
            gradients(network, lambda: network(images, bench.archs["median"]), labels)
            optimizer.step()
        return list(network.parameters())

    yield Row("weights after the same steps twice, relative difference", relative(trained(), trained()), 0.0)
    torch.use_deterministic_algorithms(True, warn_only=True)
    chosen = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = True
    try:
        off = relative(trained(), trained())
    finally:
        torch.use_deterministic_algorithms(False)
        torch.backends.cudnn.deterministic = chosen
    yield Row("the same with deterministic algorithms", off, 0.0)


SECTIONS = (card, correctness, training, plain, taught, whereabouts, evaluation, repetition, depthwise)


def main() -> None:
    """Measure, print, write."""
    options = parser(str(__doc__).partition("\n")[0])
    options.add_argument("--seconds", type=float, default=480, help="begin no section after so long")
    options.add_argument("--sections", nargs="+", choices=[each.__name__ for each in SECTIONS], help="by default all")
    options.add_argument("--width", type=float, default=FULL.width, help="width multiplier of the super-network")
    arguments = options.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    size = dataclasses.replace(FULL, width=arguments.width) if device.type == "cuda" else SHORT
    title = f"Width {size.width} at {size.resolution} pixels on " + (
        torch.cuda.get_device_name() if device.type == "cuda" else "the CPU (short form)"
    )
    bench, rows = Bench(size, device), list[Row]()
    end = time.monotonic() + arguments.seconds
    chosen = [each for each in SECTIONS if arguments.sections is None or each.__name__ in arguments.sections]
    for section in chosen:
        for row in section(bench):
            print(f"{row.value:.4g} {row.unit}  {row.name}; {row.detail}", flush=True)
            rows.append(row)
            if arguments.json is not None:
                write(title, rows, arguments.json)
            if time.monotonic() > end:
                break
        if time.monotonic() > end:
            print(f"the time is over in {section.__name__}", flush=True)
            break
    show(title, rows, arguments.json)


if __name__ == "__main__":
    main()
