"""Flash and RAM in closed form against the file that is written and the interpreter of TensorFlow Lite Micro.

For networks drawn from the space of the demo (grey, 14 to 18 pixels, width 0.35), of photographs (colour, 40 to 48
pixels, width 0.5) and of one with parallel blocks, with random weights. RAM is the smallest arena with which the
interpreter runs the file. Needs the extra `microcontroller`.

    python benchmarks/device.py                          30 networks of each space, some minutes
    python benchmarks/device.py --networks 5 --json new.json
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from table import Row, parser, show

from nat2.deploy.deployable import Deployable
from nat2.deploy.export import write_onnx
from nat2.deploy.operators import read_model, read_operators
from nat2.deploy.ranges import activation_ranges
from nat2.deploy.tflite import tflite
from nat2.deploy.tflite_runtime import run_tflite
from nat2.space import Arch, Macro, SearchSpace
from nat2.space.device import device_cost
from nat2.supernet import StaticNetwork

SPACES = {
    "demo": (Macro(classes=10, channels=1, width=0.35, stem_stride=1), (14, 16, 18)),
    "photo": (Macro(classes=10, channels=3, width=0.5, stem_stride=2), (40, 44, 48)),
    "parallel": (Macro(classes=7, channels=3, width=0.5, stem_stride=1, parallel_blocks=True), (30, 35)),
}
TARGET = 0.05


def measured(macro: Macro, arch: Arch) -> tuple[int, int]:
    """Bytes of flash and RAM that a network with random weights takes."""
    torch.manual_seed(0)
    channels = macro.channels
    model = Deployable(StaticNetwork(macro, arch), [0.4] * channels, [0.25] * channels).eval()
    images = torch.rand(2, channels, arch.resolution, arch.resolution)
    with TemporaryDirectory() as temporary:
        write_onnx(model, Path(temporary))
        exported = read_model(Path(temporary) / "model.onnx")
        content = tflite(read_operators(exported), "int8", activation_ranges(exported, [images]))
    return len(content), run_tflite("micro", content, images.permute(0, 2, 3, 1).contiguous().numpy()).arena


def compared(name: str, count: int) -> Iterator[Row]:
    """Rows of a space: the largest deviation of both, and the networks behind it."""
    macro, resolutions = SPACES[name]
    space = SearchSpace.of((macro,), resolutions)
    archs = space.sample_distinct(count, np.random.default_rng(0))
    found = np.array([measured(macro, arch) for arch in archs], np.float64)
    said = np.array([device_cost(macro, arch) for arch in archs], np.float64)
    for column, what in enumerate(("flash", "RAM")):
        off = np.abs(said[:, column] / found[:, column] - 1)
        worst, sizes = int(off.argmax()), found[:, column]
        yield Row(
            f"{name}: largest deviation of {what}",
            float(off.max()),
            TARGET,
            detail=f"{sizes.min():,.0f} to {sizes.max():,.0f} bytes, mean deviation {off.mean():.4f}, worst: "
            f"{said[worst, column]:,.0f} for {sizes[worst]:,.0f}",
        )


def main() -> None:
    """Compare some networks of each space."""
    options = parser("Flash and RAM in closed form against what is measured.")
    options.add_argument("--networks", type=int, default=30, help="of each space")
    given = options.parse_args()
    rows = [row for name in SPACES for row in compared(name, given.networks)]
    show(f"flash and RAM of {given.networks} networks of each space, as a share of what is measured", rows, given.json)


if __name__ == "__main__":
    main()
