"""An exported network as files for a device, measured by the runtime that will run them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nat2.deploy.export import answer, open_session
from nat2.deploy.microcontroller import DeviceNumbers, copy_preprocessing, write_source
from nat2.deploy.operators import read_model, read_operators
from nat2.deploy.ranges import in_integers
from nat2.deploy.tflite import tflite
from nat2.deploy.tflite_runtime import Runtime, check_runtime, run_tflite
from nat2.errors import Nat2Error
from nat2.files import write_bytes, write_json

DeviceName = Literal["microcontroller", "phone"]
DEVICES: dict[DeviceName, Runtime] = {"microcontroller": "micro", "phone": "litert"}
"""The runtime of each kind of device."""
_CLOSE = 0.02  # largest difference of a logit in 16-bit floating point, relative to the largest logit


@dataclass(frozen=True)
class TestImages:
    """Images by which files are compared, as an exported network takes them."""

    images: NDArray[np.float32]
    """Shape (N, R, R, channels), values 0..1."""
    labels: NDArray[np.int64]
    logits: NDArray[np.float64]
    """Of ``model.onnx``, shape (N, classes)."""

    __test__ = False

    @staticmethod
    def of(source: Path, batches: Iterable[Tensor], labels: Tensor) -> TestImages:
        """Classify test images with an exported network.

        Args:
            source: Its ``model.onnx``.
            batches: Images (N, channels, R, R) of values 0..1.
            labels: Their classes.
        """
        session, held = open_session(source), [batch.cpu() for batch in batches]
        logits = torch.cat([answer(session, batch) for batch in held]).double().numpy()
        images = torch.cat(held).permute(0, 2, 3, 1).contiguous().numpy()
        return TestImages(images, labels.cpu().numpy(), logits)

    def accuracy(self, logits: NDArray[np.float64] | None = None) -> float:
        """Share of the images that logits, by default those of ``model.onnx``, classify correctly."""
        chosen = self.logits if logits is None else logits
        return float((chosen.argmax(1) == self.labels).mean())

    def agreement(self, logits: NDArray[np.float64]) -> float:
        """Share of the images to which logits give the same class as ``model.onnx``."""
        return float((logits.argmax(1) == self.logits.argmax(1)).mean())


def check_device(name: DeviceName) -> None:
    """Raise if files for a device could not be measured here.

    Raises:
        ConfigError: naming the extra to install.
    """
    check_runtime(DEVICES[name])


def write_for_device(
    name: DeviceName,
    network: Path,
    calibration: Iterable[Tensor],
    test: TestImages,
    *,
    training: Iterable[Tensor] = (),
    steps: int = 0,
) -> list[str]:
    """Write files for a device into a folder of its name inside that of an exported network.

    Args:
        name: The kind of device.
        network: Folder of the exported network.
        calibration: Training images (N, channels, R, R) of values 0..1, for the ranges of activations.
        test: By which the files are measured.
        training: Such images in batches, at least as many as there are steps.
        steps: Gradient steps in which the weights learn to make up for the rounding to 8 bits.

    Returns:
        What was measured, a sentence for each file.

    Raises:
        ConfigError: the extra is not installed.
        CheckpointError: ``model.onnx`` is damaged.
        Nat2Error: a file does not compute what the network does.
    """
    source, folder = network / "model.onnx", network / name
    model, ranges = in_integers(source, calibration, training=training, steps=steps)
    graph = read_operators(model)
    in_8_bits = tflite(graph, "int8", ranges)
    found = run_tflite(DEVICES[name], in_8_bits, test.images)
    numbers = DeviceNumbers(
        network=network.name,
        flash=len(in_8_bits),
        arena=found.arena,
        macs=graph.macs,
        float_accuracy=test.accuracy(),
        accuracy=test.accuracy(found.logits),
        agreement=test.agreement(found.logits),
        images=len(test.labels),
    )
    if name == "microcontroller":
        write_bytes(folder / "model.tflite", in_8_bits)
        write_source(folder, in_8_bits, graph, numbers)
        told = [_told("model.tflite", numbers)]
    else:
        halved = _checked_float16(tflite(read_operators(read_model(source)), "float16"), test)
        write_bytes(folder / "model-int8.tflite", in_8_bits)
        write_bytes(folder / "model-float16.tflite", halved[0])
        told = [_told("model-int8.tflite", numbers), f"model-float16.tflite: {len(halved[0]):,} bytes, {halved[1]}"]
    copy_preprocessing(network, folder)
    write_json(folder / "numbers.json", vars(numbers) | {"classes": list(graph.classes)})
    return told


def _told(file: str, numbers: DeviceNumbers) -> str:
    arena = f", {numbers.arena:,} bytes of RAM" if numbers.arena else ""
    return (
        f"{file}: {numbers.flash:,} bytes{arena}, {100 * numbers.accuracy:.2f} % of {numbers.images:,} test images "
        f"({100 * numbers.float_accuracy:.2f} % in floating point, {100 * numbers.agreement:.1f} % the same class)"
    )


def _checked_float16(content: bytes, test: TestImages) -> tuple[bytes, str]:
    """A file in 16-bit floating point, if LiteRT answers with it as ONNX Runtime does, and its accuracy."""
    logits = run_tflite("litert", content, test.images).logits
    worst = float(np.abs(logits - test.logits).max())
    if not worst <= _CLOSE * max(1.0, float(np.abs(test.logits).max())):
        raise Nat2Error(
            f"in 16-bit floating point the logits differ by {worst:.2g} from those in 32 bits; use model.onnx instead"
        )
    return content, f"{100 * test.accuracy(logits):.2f} % of the test images, logits differ by at most {worst:.1g}"
