"""Latency of a network on this machine, with ONNX Runtime on the CPU or with torch."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, cast, get_args

import numpy as np
import torch
from torch import nn

from nat2.deploy.deployable import Deployable, load
from nat2.deploy.description import describe, networks_in
from nat2.deploy.export import answer, open_session
from nat2.deploy.onnx_graph import INPUT, OUTPUT, onnx_model
from nat2.errors import CheckpointError, ConfigError
from nat2.supernet.static import StaticNetwork
from nat2.validation import user_path

Runtime = Literal["onnx", "int8", "torch"]
FILES: dict[Runtime, str] = {"onnx": "model.onnx", "int8": "model-int8.onnx"}

_WARM_UP = 10
_RUNS = (20, 400)
_SECONDS = 0.25


@dataclass(frozen=True)
class Latency:
    """Milliseconds per batch."""

    median: float
    lower: float
    """Lower quartile."""
    upper: float
    """Upper quartile."""
    runs: int

    @property
    def spread(self) -> float:
        """Interquartile range."""
        return self.upper - self.lower


def measure_latency(
    network: StaticNetwork, *, batch: int = 1, threads: int = 1, device: torch.device | None = None
) -> Latency:
    """Run a network on random images for a quarter of a second, 20 to 400 times.

    Args:
        network: In evaluation mode; it is measured as it would be exported, with normalisation in front.
        batch: Images at once.
        threads: Threads of ONNX Runtime.
        device: A CUDA device to run on with torch; otherwise ONNX Runtime runs on the CPU.

    Raises:
        ConfigError: `batch` or `threads` is below 1.
    """
    check_conditions("onnx", batch, threads)
    channels, side = network.macro.channels, network.arch.resolution
    images = torch.rand(batch, channels, side, side, generator=torch.Generator().manual_seed(0))
    if device is not None and device.type == "cuda":
        run = _on_cuda(network.to(device), images.to(device, memory_format=torch.channels_last))
    else:
        run = _on_cpu(network.cpu(), images, threads)
    return _timed(run)


@dataclass(frozen=True)
class Measured:
    """The latency of an exported network, and the conditions it was measured under."""

    id: str
    """Name of its folder."""
    runtime: Runtime
    batch: int
    threads: int
    device: str
    latency: Latency

    def row(self) -> dict[str, object]:
        """A row of latency.csv; times in milliseconds."""
        facts = {"id": self.id, "runtime": self.runtime, "batch": self.batch, "threads": self.threads}
        rounded = {
            name: round(value, 5) if isinstance(value, float) else value for name, value in asdict(self.latency).items()
        }
        return facts | {"device": self.device} | rounded

    @staticmethod
    def of_row(row: Mapping[str, str]) -> Measured:
        """Read a row of latency.csv.

        Raises:
            KeyError: a column is missing.
            ValueError: a value is not a number.
        """
        median, lower, upper = (float(row[name]) for name in ("median", "lower", "upper"))
        if not math.isfinite(median):
            raise ValueError("a latency that is not a number in latency.csv")
        return Measured(
            id=row["id"],
            runtime=cast("Runtime", row["runtime"]),
            batch=int(row["batch"]),
            threads=int(row["threads"]),
            device=row["device"],
            latency=Latency(median, lower, upper, int(row["runs"])),
        )


def measure_exported(
    folder: Path, *, runtime: Runtime = "onnx", batch: int = 1, threads: int = 1, device: torch.device | None = None
) -> Measured:
    """Measure an exported network with one runtime.

    Args:
        folder: The network's.
        runtime: ``onnx`` and ``int8`` run ``model.onnx`` and ``model-int8.onnx`` on the CPU with ONNX Runtime;
            ``torch`` runs the torch module.
        batch: Images at once.
        threads: Threads on the CPU.
        device: A CUDA device for torch; the CPU by default.

    Raises:
        ConfigError: a number is below 1, or the runtime does not exist.
        CheckpointError: the folder does not hold an exported network, or a file is damaged.
    """
    check_conditions(runtime, batch, threads)
    network, resolution = load(folder), describe(folder)["input"]["resolution"]
    shape = (batch, network.mean.shape[1], resolution, resolution)
    images = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    where = device if runtime == "torch" and device is not None else torch.device("cpu")
    if runtime == "torch":
        latency = _on_torch(network.to(where), images.to(where), threads)
    else:
        file = _file_of(folder, runtime)
        assert file is not None
        try:
            session = open_session(file, threads=threads)
        except Exception as error:  # ONNX Runtime raises its own kinds on damaged files
            raise CheckpointError(f"{file} cannot be read ({error}); export the network again") from error
        latency = _timed(lambda: answer(session, images))
    return Measured(folder.name, runtime, batch, threads, where.type, latency)


def latency(
    *folders: Path | str,
    runtimes: Sequence[Runtime] = ("onnx",),
    batches: Sequence[int] = (1,),
    threads: Sequence[int] = (1,),
) -> Iterator[Measured]:
    """Measure exported networks on this machine one after another; the verb `nat2 latency`.

    Args:
        folders: Of exported networks; a run folder or a folder of networks means all networks in it.
        runtimes: Some of ``onnx``, ``int8`` and ``torch``.
        batches: Images at once.
        threads: Threads.

    Raises:
        ConfigError: a number is below 1, or a runtime does not exist.
        CheckpointError: a folder does not hold an exported network.
    """
    for each in itertools.product(runtimes, batches, threads):
        check_conditions(*each)
    given = [user_path(folder, "FOLDER") for folder in folders]
    networks = [network for folder in given for network in networks_in(folder) or [folder]]
    for network in networks:
        describe(network)
        for runtime in runtimes:
            _file_of(network, runtime)
    return (
        measure_exported(network, runtime=runtime, batch=batch, threads=count)
        for network in networks
        for runtime, batch, count in itertools.product(runtimes, batches, threads)
    )


def _file_of(folder: Path, runtime: Runtime) -> Path | None:
    """The ONNX file that a runtime runs.

    Raises:
        CheckpointError: it does not exist.
    """
    if runtime not in FILES:
        return None
    file = folder / FILES[runtime]
    if not file.exists():
        advice = "; make one with nat2 export RUN ID --int8" if runtime == "int8" else ""
        raise CheckpointError(f"{file} does not exist{advice}")
    return file


def check_conditions(runtime: str, batch: int, threads: int) -> None:
    """Raise if a measurement is not possible.

    Raises:
        ConfigError: a number is below 1, or the runtime does not exist.
    """
    if runtime not in get_args(Runtime):
        raise ConfigError(f"the runtime must be one of {', '.join(get_args(Runtime))}; got {runtime!r}")
    for name, value in (("batch", batch), ("threads", threads)):
        if value < 1:
            raise ConfigError(f"`{name}` of the latency must be at least 1; got {value}")


def _timed(run: Callable[[], object]) -> Latency:
    for _ in range(_WARM_UP):
        run()
    taken: list[float] = []
    end = time.perf_counter() + _SECONDS
    while len(taken) < _RUNS[0] or (len(taken) < _RUNS[1] and time.perf_counter() < end):
        began = time.perf_counter()
        run()
        taken.append(1000 * (time.perf_counter() - began))
    lower, median, upper = (float(value) for value in np.percentile(taken, (25, 50, 75)))
    return Latency(median, lower, upper, len(taken))


def _on_torch(network: nn.Module, images: torch.Tensor, threads: int) -> Latency:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        images = images.contiguous(memory_format=torch.channels_last)
        if images.device.type == "cuda":
            return _timed(_on_cuda(network, images))
        return _timed(torch.inference_mode()(lambda: network(images)))
    finally:
        torch.set_num_threads(before)


def _on_cpu(network: StaticNetwork, images: torch.Tensor, threads: int) -> Callable[[], object]:
    # The latency does not depend on the values.
    channels, exits = images.shape[1], len(network.exit_numbers)
    deployed = Deployable(network, [0.0] * channels, [1.0] * channels, weights=[1.0] * exits)
    session = open_session(onnx_model(deployed).SerializeToString(), threads=threads)
    inputs = {INPUT: images.numpy()}
    return lambda: session.run([OUTPUT], inputs)


def _on_cuda(network: nn.Module, images: torch.Tensor) -> Callable[[], object]:
    def run() -> None:
        with torch.inference_mode():
            network(images)
        torch.cuda.synchronize(images.device)

    return run
