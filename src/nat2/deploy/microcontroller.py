"""Source files for a microcontroller: the model as a C array, a program for TensorFlow Lite Micro, and its numbers."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nat2.deploy.operators import Kind, OperatorGraph
from nat2.files import write_text

_PER_LINE = 20
_REGISTERED: dict[Kind, str] = {
    "add": "AddAdd",
    "conv": "AddConv2D",
    "depthwise": "AddDepthwiseConv2D",
    "hard_swish": "AddHardSwish",
    "max_pool": "AddMaxPool2D",
    "mean": "AddMean",
    "mul": "AddMul",
    "reshape": "AddReshape",
}
"""The method of TensorFlow Lite Micro's resolver that registers an operator."""


@dataclass(frozen=True)
class DeviceNumbers:
    """What was measured of a file."""

    network: str
    """Name of the network."""
    flash: int
    """Bytes of the file."""
    arena: int
    """Bytes of the smallest arena."""
    macs: int
    """Multiply-accumulates for an image, as they run."""
    float_accuracy: float
    """Share of the test images that ``model.onnx`` classifies correctly."""
    accuracy: float
    """The same of this file."""
    agreement: float
    """Share of the test images of which both give the same class."""
    images: int
    """Test images."""


def write_source(folder: Path, model: bytes, graph: OperatorGraph, numbers: DeviceNumbers) -> None:
    """Write ``model.h``, ``model.c``, ``main.cc`` and ``README.md`` beside a file for TensorFlow Lite Micro.

    Args:
        folder: Where to.
        model: The content of the ``.tflite`` file.
        graph: What it computes.
        numbers: What was measured of it.
    """
    write_text(folder / "model.h", c_header(len(model), graph, numbers))
    write_text(folder / "model.c", c_array(model, graph.classes))
    write_text(folder / "main.cc", main_program(graph))
    write_text(folder / "README.md", numbers_page(graph, numbers))


def c_array(content: bytes, classes: Sequence[str]) -> str:
    """A C file that defines ``model_data``, aligned as TensorFlow Lite Micro wants it, and ``model_classes``."""
    lines = [
        "  " + ", ".join(f"0x{byte:02x}" for byte in content[start : start + _PER_LINE]) + ","
        for start in range(0, len(content), _PER_LINE)
    ]
    body = "\n".join(lines)
    names = "\n".join(f"  {c_string(name)}," for name in classes)
    return (
        '#include "model.h"\n\n'
        f"const char *const model_classes[MODEL_CLASSES] = {{\n{names}\n}};\n\n"
        f"__attribute__((aligned(16))) const unsigned char model_data[{len(content)}] = {{\n{body}\n}};\n"
    )


def c_header(size: int, graph: OperatorGraph, numbers: DeviceNumbers) -> str:
    """The header of `c_array`, with what a program has to know."""
    shape = graph.maps["images"]
    return f"""#ifndef MODEL_H_
#define MODEL_H_

#ifdef __cplusplus
extern "C" {{
#endif

#define MODEL_SIDE {shape.side}         /* pixels of the input, wide and high */
#define MODEL_CHANNELS {shape.channels} /* 1: grey; 3: red, green, blue */
#define MODEL_CLASSES {len(graph.classes)}
#define MODEL_ARENA {numbers.arena} /* bytes */

extern const unsigned char model_data[{size}];
extern const char *const model_classes[MODEL_CLASSES];

#ifdef __cplusplus
}}
#endif

#endif
"""


def c_string(text: str) -> str:
    """A C string literal; what is not ASCII is written in UTF-8 by octal escapes, which end after three digits."""
    plain = {ord('"'): '\\"', ord("\\"): "\\\\", ord("?"): "\\?"}  # no trigraphs
    parts = [
        plain.get(byte) or (chr(byte) if 32 <= byte < 127 else f"\\{byte:03o}")
        for byte in text.encode(errors="surrogateescape")
    ]
    return f'"{"".join(parts)}"'


def main_program(graph: OperatorGraph) -> str:
    """A program that classifies one image with TensorFlow Lite Micro."""
    kinds = sorted({_REGISTERED[each.kind] for each in graph.operators})
    registered = "\n".join(f"  resolver.{name}();" for name in kinds)
    return f"""// Classifies an image. Fill `image` from your camera: bytes 0 to 255, row by row, channels last.
#include <cstdint>
#include <cstdio>

#include "model.h"
#include "tensorflow/lite/micro/micro_interpreter.h"
#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"
#include "tensorflow/lite/schema/schema_generated.h"

namespace {{
alignas(16) uint8_t arena[MODEL_ARENA];
uint8_t image[MODEL_SIDE * MODEL_SIDE * MODEL_CHANNELS];
}}  // namespace

int main() {{
  tflite::MicroMutableOpResolver<{len(kinds)}> resolver;
{registered}

  tflite::MicroInterpreter interpreter(tflite::GetModel(model_data), resolver, arena, sizeof(arena));
  if (interpreter.AllocateTensors() != kTfLiteOk) return 1;
  TfLiteTensor* input = interpreter.input(0);
  TfLiteTensor* output = interpreter.output(0);

  for (size_t i = 0; i < sizeof(image); ++i) input->data.int8[i] = static_cast<int8_t>(image[i] - 128);
  if (interpreter.Invoke() != kTfLiteOk) return 1;

  int best = 0;
  for (int i = 1; i < MODEL_CLASSES; ++i) {{
    if (output->data.int8[i] > output->data.int8[best]) best = i;
  }}
  const float logit = output->params.scale * (output->data.int8[best] - output->params.zero_point);
  std::printf("%s, logit %d/1000\\n", model_classes[best], static_cast<int>(1000 * logit));
  return 0;
}}
"""


def numbers_page(graph: OperatorGraph, numbers: DeviceNumbers) -> str:
    """What was measured, and how to use the files, in Markdown."""
    shape = graph.maps["images"]
    channels = "grey" if shape.channels == 1 else "red, green, blue"
    return f"""# {numbers.network} for a microcontroller

| | | measured by |
| --- | ---: | --- |
| flash | {numbers.flash:,} bytes | size of `model.tflite`; the runtime comes on top |
| RAM | {numbers.arena:,} bytes | smallest arena of TensorFlow Lite Micro on a 64-bit processor; less on 32 bits |
| multiply-accumulates | {numbers.macs:,} | counted |
| accuracy, 8 bits | {100 * numbers.accuracy:.2f} % | TensorFlow Lite Micro, {numbers.images:,} test images |
| accuracy, floating point | {100 * numbers.float_accuracy:.2f} % | ONNX Runtime, the same images |
| same class as in floating point | {100 * numbers.agreement:.2f} % | both |

Input: {shape.side} x {shape.side} pixels, {channels}; each byte is the pixel's value minus 128. Output: \
{len(graph.classes)} logits in 8 bits, in the order of `model_classes`. `preprocessing.json` describes how images are
cropped and resized; the mean is subtracted inside the network.

`model.tflite` is the network, `model.c` and `model.h` are the same as a C array, `main.cc` is a program to start from.
Compile `main.cc` and `model.c` with TensorFlow Lite Micro (Arduino, ESP-IDF, Zephyr or plain make). Kernels that are
optimised for a processor, as CMSIS-NN, may want some more of the arena for intermediate results: raise `MODEL_ARENA` if
`AllocateTensors` fails.
"""


def copy_preprocessing(source: Path, folder: Path) -> None:
    """Put ``preprocessing.json`` of an exported network beside the files for a device."""
    shutil.copyfile(source / "preprocessing.json", folder / "preprocessing.json")
