"""A model repository for NVIDIA's Triton Inference Server, which answers many callers at once."""

from __future__ import annotations

import re
from pathlib import Path

from nat2.deploy.description import describe
from nat2.files import write_bytes, write_text

BATCH = 64  # the most images that the server joins
_DELAY = 500  # microseconds that it waits for more of them
_TENSORRT = """
optimization {
  execution_accelerators {
    gpu_execution_accelerator: [ { name: "tensorrt" parameters { key: "precision_mode" value: "FP16" } } ]
  }
}
"""


def write_triton(network: Path, folder: str, *, gpu: bool) -> Path:
    """Write a model repository beside an exported network's files: ``config.pbtxt``, the labels and version 1.

    Args:
        network: Folder of an exported network, with ``model.onnx``.
        folder: Name of the repository's folder in it.
        gpu: Run on GPUs, through TensorRT in half precision.

    Returns:
        The configuration.

    Raises:
        CheckpointError: the folder does not hold an exported network.
        RunError: the files cannot be written.
    """
    description = describe(network)
    name = re.sub(r"[^A-Za-z0-9_-]", "_", network.resolve().name)
    classes, size = description["classes"], description["input"]["resolution"]
    place = network / folder / name
    config = f"""name: "{name}"
backend: "onnxruntime"
max_batch_size: {BATCH}
input [ {{ name: "images" data_type: TYPE_FP32 dims: [ {description["macro"]["channels"]}, {size}, {size} ] }} ]
output [ {{ name: "logits" data_type: TYPE_FP32 dims: [ {len(classes)} ] label_filename: "labels.txt" }} ]
dynamic_batching {{ max_queue_delay_microseconds: {_DELAY} }}
instance_group [ {{ kind: {"KIND_GPU" if gpu else "KIND_CPU"} }} ]
"""
    write_text(place / "config.pbtxt", config + _TENSORRT * gpu)
    write_text(place / "labels.txt", "".join(f"{' '.join(each.split())}\n" for each in classes))
    write_bytes(place / "1" / "model.onnx", (network / "model.onnx").read_bytes())
    return place / "config.pbtxt"
