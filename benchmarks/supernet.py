"""What weight sharing costs: the super-network beside plain networks, and closed-form costs.

Both sides of a ratio run alternately, in this process where nothing else is said; each value is the median of several.
Needs about ten minutes on two cores. Run it on a quiet machine: ``python benchmarks/supernet.py --json supernet.json``.
"""

from __future__ import annotations

import gc
import multiprocessing
import resource
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch
from table import Row, parser, ratio, seconds_of, show
from torch import Tensor, nn
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from nat2.allocator import keep_freed_memory
from nat2.space import Arch, CostTable, Macro, SearchSpace
from nat2.supernet import StaticNetwork, SuperNetwork, calibrate, extract, normalize_by
from nat2.supernet.static import MBConv, channels_last

CLASSES = 10
SETTINGS = {32: (1, 128), 64: (2, 64)}  # resolution: stride of the stem, batch size
CALIBRATION, EVALUATION = 1000, 5000


def random_batches(count: int, batch: int, resolution: int, device: torch.device) -> list[Tensor]:
    """Normalised images in batches, channels last, the last one smaller."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(count, 3, resolution, resolution, generator=generator).to(device)
    return [part.contiguous(memory_format=torch.channels_last) for part in torch.split(images, batch)]


class PlainMBConv(nn.Module):
    """An inverted bottleneck as one would write it: modules called one by one, every tap of every kernel."""

    def __init__(self, block: MBConv) -> None:
        """Take over the modules of ours."""
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in, H, W) to (N, out, H / stride, W / stride)."""
        block = self.block
        activate = F.relu if block.activation == "relu" else F.hardswish
        y: Tensor = x
        if block.expand is not None:
            y = activate(block.expand_bn(block.expand(y)))
        y = activate(block.depthwise_bn(block.depthwise(y)))
        if block.se is not None:
            y = block.se(y)
        y = block.project_bn(block.project(y))
        return x + y if block.residual else y


def without_tricks(network: StaticNetwork) -> StaticNetwork:
    """The same network in torch's default memory layout, its blocks written plainly."""
    plain = StaticNetwork(network.macro, network.arch, exits=network.exit_numbers)
    plain.load_state_dict(network.state_dict())
    plain.stem.block = PlainMBConv(plain.stem.block)  # type: ignore[assignment]
    for stage in plain.stages:
        assert isinstance(stage, nn.ModuleList)
        for position, block in enumerate(stage):
            assert isinstance(block, MBConv)
            stage[position] = PlainMBConv(block)
    return plain.to(next(network.parameters()).device, memory_format=torch.contiguous_format)  # type: ignore[call-overload, no-any-return]


class Bench:
    """A super-network, its sub-networks to compare, and the device they run on."""

    def __init__(self, resolution: int, width: float, device: torch.device) -> None:
        """Build with random weights; stem stride and batch size follow the resolution."""
        stride, self.batch = SETTINGS[resolution]
        self.resolution, self.device = resolution, device
        self.macro = Macro(classes=CLASSES, width=width, stem_stride=stride)
        generator = torch.Generator().manual_seed(0)
        self.network = channels_last(SuperNetwork(self.macro, generator=generator), device)
        self.space = SearchSpace.of(self.macro, (resolution,))
        # One whose cost lies between the extremes: the median of 101 in MACs.
        drawn = self.space.sample(101, np.random.default_rng(0))
        macs = CostTable(self.space, {width: self.macro})(drawn)[:, 1]
        middle = self.space.decode(drawn[np.argsort(macs)[50]])
        self.archs = {"smallest": self.space.smallest, "random": middle, "largest": self.space.largest}
        (self.images,) = random_batches(self.batch, self.batch, resolution, device)
        self.labels = torch.arange(self.batch, device=device) % CLASSES

    def timed(self, function: Callable[[], object]) -> Callable[[], None]:
        """The function, finished on the device too."""

        def run() -> None:
            function()
            if self.device.type == "cuda":
                torch.cuda.synchronize()

        return run

    def rows(self) -> Iterator[Row]:
        """Every ratio at this resolution."""
        for name, arch in self.archs.items():
            at = f"{self.resolution} px, batch {self.batch}, {name}"
            value, seconds = self.forward(arch)
            yield Row(f"forward, elastic / static ({at})", value, 1.05, detail=f"{1000 * seconds:.0f} ms")
            value, seconds = self.backward(arch)
            yield Row(f"forward + backward, elastic / static ({at})", value, 1.08, detail=f"{1000 * seconds:.0f} ms")
            value, seconds = self.evaluation(arch)
            yield Row(f"calibrate + evaluate / static inference ({at})", value, 1.15, detail=f"{seconds:.1f} s")
            if self.resolution == 32:
                value, seconds = self.step(arch)
                target = None if name == "smallest" else 0.4
                yield Row(f"training step, ours / plain ({at})", value, target, detail=f"{1000 * seconds:.0f} ms")
                if name != "smallest" and self.device.type == "cpu":
                    yield from self.whereabouts(arch, at)

    @torch.no_grad()
    def forward(self, arch: Arch) -> tuple[float, float]:
        """Evaluation mode, calibrated statistics."""
        statistics = calibrate(self.network, arch, [self.images])
        static, normalize = extract(self.network, arch, statistics), normalize_by(statistics)
        return ratio(
            self.timed(lambda: self.network(self.images, arch, normalize=normalize)),
            self.timed(lambda: static(self.images)),
            repeats=15,
        )

    def backward(self, arch: Arch) -> tuple[float, float]:
        """Training mode, without the optimiser."""
        static = extract(self.network, arch).train()

        def loss_of(network: nn.Module, answer: Callable[[], Tensor]) -> None:
            network.zero_grad(set_to_none=True)
            F.cross_entropy(answer(), self.labels).backward()  # type: ignore[no-untyped-call]

        return ratio(
            self.timed(lambda: loss_of(self.network, lambda: self.network(self.images, arch))),
            self.timed(lambda: loss_of(static, lambda: static(self.images))),
            repeats=9,
        )

    @torch.no_grad()
    def evaluation(self, arch: Arch) -> tuple[float, float]:
        """The price of one evaluation in the search over that of inference alone, on as many images."""
        static = extract(self.network, arch)
        calibration, evaluation = (
            random_batches(count, self.batch, self.resolution, self.device) for count in (CALIBRATION, EVALUATION)
        )

        def ours() -> None:
            normalize = normalize_by(calibrate(self.network, arch, calibration))
            for images in evaluation:
                self.network(images, arch, normalize=normalize)

        def theirs() -> None:
            for images in calibration + evaluation:
                static(images)

        return ratio(self.timed(ours), self.timed(theirs), repeats=3)

    def step(self, arch: Arch) -> tuple[float, float]:
        """A step of training with its optimiser, beside the same network without our tricks.

        The other side waits in a process of its own, because how the allocator is set is one of the tricks.
        """
        ours = self.stepper(self.network, lambda: self.network(self.images, arch))
        there, here = multiprocessing.Pipe()
        context = multiprocessing.get_context("spawn")
        asked = (self.resolution, self.macro.width, str(self.device), arch.key, there)
        process = context.Process(target=plain_steps, args=asked, daemon=True)
        process.start()

        def seconds_of_step(function: Callable[[], object]) -> float:
            return float(function() or 0)  # type: ignore[arg-type]

        def theirs() -> float:
            here.send("step")
            return float(here.recv())

        try:
            return ratio(lambda: seconds_of(ours), theirs, timed=seconds_of_step)
        finally:
            here.send("stop")
            process.join()

    def stepper(self, network: nn.Module, answer: Callable[[], Tensor]) -> Callable[[], None]:
        """A function that makes one step of training."""
        optimizer = torch.optim.SGD(network.parameters(), lr=1e-6, momentum=0.9)

        def step() -> None:
            optimizer.zero_grad(set_to_none=True)
            F.cross_entropy(answer(), self.labels).backward()  # type: ignore[no-untyped-call]
            optimizer.step()

        return self.timed(step)

    def whereabouts(self, arch: Arch, at: str) -> Iterator[Row]:
        """Shares of a training step by kind of layer, forwards and backwards; the largest first."""
        step = self.stepper(self.network, lambda: self.network(self.images, arch))
        for _ in range(3):
            step()
        with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as measured:
            for _ in range(3):
                step()
        totals: dict[str, float] = {}
        for event in measured.key_averages(group_by_input_shape=True):
            kind = kind_of(event.key, event.input_shapes)
            totals[kind] = totals.get(kind, 0) + event.self_cpu_time_total
        for kind, microseconds in sorted(totals.items(), key=lambda item: -item[1]):
            yield Row(f"share of a step: {kind} ({at})", 100 * microseconds / sum(totals.values()), unit="%")


def kind_of(operation: str, shapes: list[list[int]]) -> str:
    """What an operation of torch belongs to."""
    direction = "backward" if "backward" in operation.lower() else "forward"
    if "convolution" in operation.lower():
        kernels = [shape for shape in shapes if len(shape) == 4 and shape[2:] != [1, 1]]
        depthwise = any(shape[1] == 1 and shape[0] > 1 for shape in kernels if shape[2] in (3, 5, 7))
        return f"{'depthwise' if depthwise else 'other'} convolution, {direction}"
    if "DepthwiseByColumns" in operation:
        return f"depthwise convolution, {direction}"
    for part, name in (("batch_norm", "batch norm"), ("threshold", "activation"), ("hardswish", "activation")):
        if part in operation:
            return f"{name}, {direction}"
    return "clearing and padding" if operation in ("aten::fill_", "aten::zero_") else "everything else"


def plain_steps(resolution: int, width: float, device: str, key: str, connection: Connection) -> None:
    """Another process: answer each message with the seconds of a step of the network without tricks."""
    bench = Bench(resolution, width, torch.device(device))
    network = without_tricks(extract(bench.network, Arch.from_key(key))).train()
    images = bench.images.contiguous()
    step = bench.stepper(network, lambda: network(images))
    step()
    while connection.recv() != "stop":
        connection.send(seconds_of(step))


def evaluations(resolution: int, width: float, keys: list[str], threads: int, connection: Connection) -> None:
    """Another process: answer each message with the seconds of evaluating its architectures."""
    keep_freed_memory()
    torch.set_num_threads(threads)
    bench = Bench(resolution, width, torch.device("cpu"))
    calibration, evaluation = (random_batches(count, bench.batch, resolution, bench.device) for count in (512, 1024))

    @torch.no_grad()
    def run() -> None:
        for arch in map(Arch.from_key, keys):
            normalize = normalize_by(calibrate(bench.network, arch, calibration))
            for images in evaluation:
                bench.network(images, arch, normalize=normalize)

    run()
    while connection.recv() != "stop":
        connection.send(seconds_of(run))


def one_thread_each(bench: Bench) -> float:
    """Evaluating eight architectures in a process a core with one thread, over one process with all threads."""
    cores = torch.get_num_threads()
    keys = [arch.key for arch in bench.space.sample_distinct(8, np.random.default_rng(2))]
    context = multiprocessing.get_context("spawn")
    connections: list[list[Connection]] = []
    processes = []
    for parts, threads in (([keys[core::cores] for core in range(cores)], 1), ([keys], cores)):
        connections.append([])
        for part in parts:
            there, here = multiprocessing.Pipe()
            asked = (bench.resolution, bench.macro.width, part, threads, there)
            processes.append(context.Process(target=evaluations, args=asked, daemon=True))
            processes[-1].start()
            connections[-1].append(here)

    def run(group: list[Connection]) -> None:
        for connection in group:
            connection.send("run")
        for connection in group:
            connection.recv()

    value, _ = ratio(lambda: run(connections[0]), lambda: run(connections[1]))
    for group in connections:
        for connection in group:
            connection.send("stop")
    for process in processes:
        process.join()
    return value


def archs_per_second() -> float:
    """Costs of random archs, over half the widths and resolutions of the published spaces, on one core."""
    macros = {width: Macro(classes=CLASSES, width=width) for width in (1.0, 1.2)}
    space = SearchSpace.of(macros.values(), (48, 56, 64))
    table, genomes = CostTable(space, macros), space.sample(100_000, np.random.default_rng(0))
    best = float("inf")
    for _ in range(7):
        began = time.perf_counter()
        table(genomes)
        best = min(best, time.perf_counter() - began)
    return len(genomes) / best


@torch.no_grad()
def memory_growth(bench: Bench, evaluations: int = 50) -> float:
    """Mebibytes of resident memory gained over evaluations of different archs, behind ten to warm up."""
    drawn = bench.space.sample_distinct(evaluations + 10, np.random.default_rng(1))
    first = 0.0
    for number, arch in enumerate(drawn):
        if number == 10:
            gc.collect()
            first = resident()
        normalize = normalize_by(calibrate(bench.network, arch, [bench.images]))
        bench.network(bench.images, arch, normalize=normalize)
    gc.collect()
    return resident() - first


def resident() -> float:
    """Resident memory of this process in mebibytes; its peak where the system does not tell more."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * resource.getpagesize() / 2**20
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    """Measure, print, write."""
    options = parser(str(__doc__).partition("\n")[0])
    options.add_argument("--width", type=float, default=1.0, help="width multiplier of the super-network")
    options.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    options.add_argument("--resolutions", type=int, nargs="+", choices=sorted(SETTINGS), default=sorted(SETTINGS))
    arguments = options.parse_args()
    keep_freed_memory()
    rows: list[Row] = []
    for resolution in arguments.resolutions:
        bench = Bench(resolution, arguments.width, arguments.device)
        for row in bench.rows():
            print(f"{row.value:.3f}  {row.name}", flush=True)
            rows.append(row)
    if arguments.device.type == "cpu" and torch.get_num_threads() > 1:
        value = one_thread_each(Bench(32, arguments.width, arguments.device))
        rows.append(Row("evaluating 8 archs, one-thread processes / one process of all threads", value))
    growth = memory_growth(Bench(32, arguments.width, arguments.device))
    rows.append(Row("memory growth over 50 evaluations", growth, 8, unit="MiB"))
    rows.append(Row("closed-form costs", archs_per_second(), 200_000, "higher", "archs/s"))
    show(f"The super-network on {arguments.device}, width {arguments.width}", rows, arguments.json)


if __name__ == "__main__":
    main()
