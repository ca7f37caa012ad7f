"""How long a network takes on this machine: through ONNX Runtime on the CPU, or on a CUDA device."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnxruntime
import torch
from torch import nn

from nat2.deploy.export import quiet_exporter
from nat2.errors import ConfigError

_WARM_UP = 10
_RUNS = (20, 400)
_SECONDS = 0.25


@dataclass(frozen=True)
class Latency:
    """Milliseconds a batch takes."""

    median: float
    lower: float
    """Lower quartile."""
    upper: float
    """Upper quartile."""
    runs: int


def measure_latency(
    network: nn.Module,
    *,
    channels: int,
    resolution: int,
    batch: int = 1,
    threads: int = 1,
    device: torch.device | None = None,
) -> Latency:
    """Run a network on random images until its median is steady: for a quarter of a second, 20 to 400 times.

    Args:
        network: Maps images (batch, channels, resolution, resolution) to logits; in evaluation mode.
        channels: Of the images.
        resolution: Side of the images.
        batch: Images at once.
        threads: Threads of ONNX Runtime.
        device: A CUDA device to run on with torch; otherwise ONNX Runtime runs on the CPU.

    Raises:
        ConfigError: `batch` or `threads` is below 1.
    """
    for name, value in (("batch", batch), ("threads", threads)):
        if value < 1:
            raise ConfigError(f"`{name}` of the latency must be at least 1; got {value}")
    images = torch.rand(batch, channels, resolution, resolution, generator=torch.Generator().manual_seed(0))
    if device is not None and device.type == "cuda":
        run = _on_cuda(network.to(device), images.to(device, memory_format=torch.channels_last))
    else:
        run = _on_cpu(network.cpu(), images, threads)
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


def _on_cpu(network: nn.Module, images: torch.Tensor, threads: int) -> Callable[[], object]:
    file = io.BytesIO()
    # The exporter of the shipped files takes ten times as long, and what runs is the same.
    with quiet_exporter():
        torch.onnx.export(
            network,
            (images,),
            file,  # type: ignore[arg-type]  # this exporter takes a buffer too
            input_names=["images"],
            output_names=["logits"],
            dynamo=False,
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(file.getvalue(), options, providers=["CPUExecutionProvider"])
    inputs = {"images": images.numpy()}
    return lambda: session.run(["logits"], inputs)


def _on_cuda(network: nn.Module, images: torch.Tensor) -> Callable[[], object]:
    def run() -> None:
        with torch.inference_mode():
            network(images)
        torch.cuda.synchronize(images.device)

    return run
