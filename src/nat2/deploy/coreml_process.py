"""Makes a Core ML package in a separate process: ``coreml_process.py INPUTS OUTPUTS PROGRAM PACKAGE CLASSES``.

It imports nothing of nat2. PROGRAM is a program of torch.export for one image, PACKAGE the ``.mlpackage`` to write,
CLASSES their names in JSON, INPUTS a NumPy file with images (N, channels, R, R) of values 0..1. Core ML runs on Apple's
systems only; elsewhere the operators of the written package, with the weights as they are stored in it, are computed by
torch instead. OUTPUTS gets an ``.npz`` with the logits that this gives and the processor seconds of the conversion.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

_WEIGHTS = Path("Data", "com.apple.CoreML", "weights")


def convert(program: Path, package: Path, classes: str) -> None:
    """Write a program as a package whose input is an image of 8-bit pixels, in 16-bit floating point."""
    import coremltools as ct

    exported = torch.export.load(program)
    (image,) = (node.meta["val"] for node in exported.graph.nodes if node.name in exported.graph_signature.user_inputs)
    layout = ct.colorlayout.RGB if image.shape[1] == 3 else ct.colorlayout.GRAYSCALE
    model = ct.convert(
        exported.run_decompositions({}),
        convert_to="mlprogram",
        minimum_deployment_target=ct.target.iOS16,
        inputs=[ct.ImageType(name="images", shape=tuple(image.shape), scale=1 / 255, color_layout=layout)],
        outputs=[ct.TensorType(name="logits")],
        skip_model_load=True,
    )
    model.user_defined_metadata["classes"] = classes
    model.save(str(package))


def answers(package: Path, images: Any) -> Any:
    """Logits (N, classes) of images (N, channels, R, R) of values 0..1, by the operators of a package."""
    from coremltools.converters.mil.frontend.milproto.load import load
    from coremltools.models.utils import load_spec

    spec = load_spec(str(package))
    (given,), (result,) = spec.description.input, spec.description.output
    size, shape = given.type.imageType, images.shape[1:]
    colours = {size.RGB: 3, size.GRAYSCALE: 1}[size.colorSpace]
    if (colours, size.height, size.width) != shape:
        raise ValueError(f"the package takes images of {colours} x {size.height} x {size.width}, not {shape}")
    program = load(spec, spec.specificationVersion, str(package / _WEIGHTS))
    (function,) = program.functions.values()
    operations = [each for each in function.operations if each.op_type != "const"]
    logits = []
    for image in torch.from_numpy(images).mul(255).round():
        values = {given.name: image[None]}
        for operation in operations:
            present = {name: each for name, each in operation.inputs.items() if each is not None}
            inputs = {name: values.get(each.name, _constant(each)) for name, each in present.items()}
            (output,) = operation.outputs
            values[output.name] = _OPERATORS[operation.op_type](inputs)
        logits.append(values[result.name].numpy())
    return np.concatenate(logits)


def _constant(variable: Any) -> Any:
    value = variable.val
    if isinstance(value, np.ndarray) and np.issubdtype(value.dtype, np.floating):
        return torch.from_numpy(value.astype(np.float32))
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    return value


def _conv(given: dict[str, Any]) -> Any:
    if given["pad_type"] not in ("custom", "valid"):
        raise ValueError(f"padding {given['pad_type']} is unknown")
    top, bottom, left, right = given["pad"] if given["pad_type"] == "custom" else (0, 0, 0, 0)
    x = F.pad(given["x"], (left, right, top, bottom))
    return F.conv2d(x, given["weight"], given.get("bias"), stride=given["strides"], groups=given["groups"])


def _max_pool(given: dict[str, Any]) -> Any:
    top, bottom, left, right = given["pad"] if given["pad_type"] == "custom" else (0, 0, 0, 0)
    x = F.pad(given["x"], (left, right, top, bottom), value=float("-inf"))
    return F.max_pool2d(x, given["kernel_sizes"], given["strides"])


def _pad(given: dict[str, Any]) -> Any:
    ends = given["pad"]
    pairs = [ends[n : n + 2] for n in range(0, len(ends), 2)][::-1]
    return F.pad(given["x"], [end for pair in pairs for end in pair], value=float(given["constant_val"]))


_OPERATORS: dict[str, Any] = {
    "add": lambda given: given["x"] + given["y"],
    "cast": lambda given: given["x"],
    "conv": _conv,
    "identity": lambda given: given["x"],
    "linear": lambda given: F.linear(given["x"], given["weight"], given["bias"]),
    "matmul": lambda given: given["x"] @ given["y"],
    "max_pool": _max_pool,
    "mul": lambda given: given["x"] * given["y"],
    "pad": _pad,
    "reduce_mean": lambda given: given["x"].mean(given["axes"], keepdim=given["keep_dims"]),
    "relu": lambda given: F.relu(given["x"]),
    "reshape": lambda given: given["x"].reshape(given["shape"]),
    "sigmoid_hard": lambda given: (given["x"] * given["alpha"] + given["beta"]).clamp(0, 1),
    "sub": lambda given: given["x"] - given["y"],
}


def main(inputs: str, outputs: str, program: str, package: str, classes: str) -> None:
    """Convert a program, compute what the package says, and write what came out."""
    torch.set_num_threads(1)
    began = time.process_time()
    convert(Path(program), Path(package), classes)
    seconds = time.process_time() - began
    np.savez(outputs, logits=answers(Path(package), np.load(inputs)), seconds=seconds)


if __name__ == "__main__":
    main(*sys.argv[1:])
