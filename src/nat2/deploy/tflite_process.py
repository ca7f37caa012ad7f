"""Runs a ``.tflite`` file in a separate process: ``python -P tflite_process.py RUNTIME MODEL INPUTS OUTPUTS [ARENA]``.

It imports nothing of nat2, so it starts quickly, and nothing that the runtimes load, print or crash on reaches nat2.
INPUTS is a NumPy file with images of values 0..1; OUTPUTS gets an ``.npz`` with the results of all images and, of
TensorFlow Lite Micro, the bytes of the arena as its interpreter reports them.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

_LARGEST = 64 * 2**20  # bytes of an arena


def as_bytes(images: Any) -> Any:
    """Images of values 0..1 as the input of a network in 8 bits: the pixel's value minus 128."""
    return (np.rint(images * 255) - 128).astype(np.int8)


def litert(model: bytes, images: Any) -> dict[str, Any]:
    """Run LiteRT on images, shape (N, R, R, channels), values 0..1."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=model, num_threads=1)
    interpreter.allocate_tensors()
    (given,), (result,) = interpreter.get_input_details(), interpreter.get_output_details()
    if given["dtype"] == np.int8:
        images = as_bytes(images)
    outputs = []
    for image in images:
        interpreter.set_tensor(given["index"], image[None])
        interpreter.invoke()
        outputs.append(interpreter.get_tensor(result["index"])[0])
    scale, zero = result["quantization"]
    return {"outputs": np.stack(outputs), "scale": scale, "zero": zero}


def micro(model: bytes, images: Any, arena: int) -> dict[str, Any]:
    """Run TensorFlow Lite Micro on images, shape (N, R, R, channels), values 0..1, within `arena` bytes."""
    from tflite_micro.python.tflite_micro.runtime import Interpreter

    interpreter = Interpreter.from_bytes(model, arena_size=arena)
    outputs = []
    for image in as_bytes(images):
        interpreter.set_input(image[None], 0)
        interpreter.invoke()
        outputs.append(interpreter.get_output(0)[0].copy())
    found = interpreter.get_output_details(0)["quantization_parameters"]
    printed = re.search(r"Arena allocation total (\d+) bytes", _printed(interpreter.print_allocations))
    return {
        "outputs": np.stack(outputs),
        "scale": found["scales"][0],
        "zero": found["zero_points"][0],
        "arena": int(printed[1]) if printed else 0,
    }


def _printed(call: Any) -> str:
    """What a call prints on the error stream of the process, below Python."""
    with tempfile.TemporaryFile() as file:
        sys.stderr.flush()
        before = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            call()
        finally:
            os.dup2(before, 2)
            os.close(before)
        file.seek(0)
        return file.read().decode(errors="replace")


def main(runtime: str, model: str, inputs: str, outputs: str, arena: str = "") -> None:
    """Run a file and write what came out."""
    content, images = Path(model).read_bytes(), np.load(inputs)
    found = litert(content, images) if runtime == "litert" else micro(content, images, int(arena or _LARGEST))
    np.savez(outputs, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
