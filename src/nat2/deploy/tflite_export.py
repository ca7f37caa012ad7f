"""An exported network as ``.tflite`` files, measured by TensorFlow Lite Micro or LiteRT."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nat2.deploy.microcontroller import DeviceNumbers, write_source
from nat2.deploy.operators import OperatorGraph, read_model, read_operators
from nat2.deploy.ranges import in_integers
from nat2.deploy.samples import Samples, TestImages
from nat2.deploy.tflite import tflite
from nat2.deploy.tflite_runtime import Runtime, run_tflite
from nat2.errors import Nat2Error
from nat2.files import write_bytes, write_json

_CLOSE = 0.02  # largest difference of a logit in 16-bit floating point, relative to the largest logit


def write_microcontroller(network: Path, folder: Path, samples: Samples) -> list[str]:
    """Write ``model.tflite`` in 8 bits, and the same in C with a program; returns what its interpreter says."""
    content, graph, numbers = _in_8_bits("micro", network, samples)
    write_bytes(folder / "model.tflite", content)
    write_source(folder, content, graph, numbers)
    _write_numbers(folder, graph, numbers)
    return [_sentence("model.tflite", numbers)]


def write_phone(network: Path, folder: Path, samples: Samples) -> list[str]:
    """Write ``model-int8.tflite`` and ``model-float16.tflite``; returns what LiteRT measured, a sentence for each."""
    content, graph, numbers = _in_8_bits("litert", network, samples)
    source = read_operators(read_model(network / "model.onnx"))
    halved, measured = _checked_float16(tflite(source, "float16"), samples.test)
    write_bytes(folder / "model-int8.tflite", content)
    write_bytes(folder / "model-float16.tflite", halved)
    _write_numbers(folder, graph, numbers)
    return [_sentence("model-int8.tflite", numbers), f"model-float16.tflite: {len(halved):,} bytes, {measured}"]


def _in_8_bits(runtime: Runtime, network: Path, samples: Samples) -> tuple[bytes, OperatorGraph, DeviceNumbers]:
    """The content of a file, what it computes, and what was measured of it."""
    test = samples.test
    model, ranges = in_integers(
        network / "model.onnx", samples.calibration, training=samples.training, steps=samples.steps
    )
    graph = read_operators(model)
    content = tflite(graph, "int8", ranges)
    found = run_tflite(runtime, content, test.images)
    numbers = DeviceNumbers(
        network=network.name,
        flash=len(content),
        arena=found.arena,
        macs=graph.macs,
        float_accuracy=test.accuracy(),
        accuracy=test.accuracy(found.logits),
        agreement=test.agreement(found.logits),
        images=len(test.labels),
    )
    return content, graph, numbers


def _write_numbers(folder: Path, graph: OperatorGraph, numbers: DeviceNumbers) -> None:
    write_json(folder / "numbers.json", vars(numbers) | {"classes": list(graph.classes)})


def _sentence(file: str, numbers: DeviceNumbers) -> str:
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
