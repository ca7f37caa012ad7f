"""What the runtimes of devices make of a ``.tflite`` file: LiteRT, and TensorFlow Lite Micro with its arena."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from nat2.deploy.isolated import check_installed, run_script
from nat2.errors import Nat2Error
from nat2.space.device import aligned

Runtime = Literal["litert", "micro"]
MODULES: dict[Runtime, tuple[str, str]] = {
    "litert": ("ai_edge_litert", "phone"),
    "micro": ("tflite_micro", "microcontroller"),
}
"""The package of each runtime, and the extra of nat2 that installs it."""
_STEP = 64  # bytes to which the smallest arena is found
_SCRIPT = Path(__file__).with_name("tflite_process.py")


@dataclass(frozen=True)
class Answers:
    """What a runtime answered."""

    logits: NDArray[np.float64]
    """Shape (N, classes)."""
    arena: int = 0
    """Bytes of the smallest arena with which TensorFlow Lite Micro runs the file; 0 of other runtimes."""


def check_runtime(runtime: Runtime) -> None:
    """Raise if a runtime is not installed.

    Raises:
        ConfigError: naming the extra that installs it.
    """
    check_installed(*MODULES[runtime])


def run_tflite(runtime: Runtime, model: bytes, images: NDArray[np.float32]) -> Answers:
    """Classify images with a ``.tflite`` file, in a process of its own.

    Args:
        runtime: Which.
        model: The content of the file.
        images: Shape (N, R, R, channels), values 0..1; a file with 8-bit input gets the nearest of 256 values.

    Raises:
        ConfigError: the runtime is not installed.
        Nat2Error: it cannot run the file.
    """
    check_runtime(runtime)
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        (place / "model.tflite").write_bytes(model)
        np.save(place / "all.npy", images)
        np.save(place / "first.npy", images[:1])
        found = _run(place, runtime, "all")
        if found is None:
            raise Nat2Error(f"{MODULES[runtime][0]} cannot run the file; please report this with model.onnx")
        logits = (found["outputs"].astype(np.float64) - float(found["zero"])) * float(found["scale"] or 1)
        return Answers(logits, _smallest_arena(place, int(found["arena"])) if runtime == "micro" else 0)


def _run(place: Path, runtime: Runtime, inputs: str, arena: int = 0) -> dict[str, NDArray[np.generic]] | None:
    """What the process wrote; None if it failed."""
    paths = [str(place / name) for name in ("model.tflite", f"{inputs}.npy", "outputs.npz")]
    if run_script(_SCRIPT, runtime, *paths, *([str(arena)] if arena else [])):
        return None
    with np.load(paths[-1]) as found:
        return dict(found)


def _smallest_arena(place: Path, used: int) -> int:
    """The smallest arena that works: what the interpreter reports, or more where starting takes more than running."""
    least, enough = used, aligned(used) + 16
    if _run(place, "micro", "first", enough) is not None:
        return enough
    least, enough = enough, 2 * enough
    while enough - least > _STEP:
        middle = (least + enough) // 2
        if _run(place, "micro", "first", middle) is None:
            least = middle
        else:
            enough = middle
    return aligned(enough)
