"""A package for Core ML, Apple's runtime on phones and Macs, in 16-bit floating point."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
import onnx

from nat2.deploy.converted import Converted, report
from nat2.deploy.isolated import check_installed, run_script
from nat2.deploy.one_image import program
from nat2.deploy.operators import read_model, read_operators
from nat2.deploy.samples import Samples, TestImages
from nat2.errors import Nat2Error
from nat2.files import write_bytes

PACKAGE = "model.mlpackage"
_CLOSE = 0.02  # largest difference of a logit in 16-bit floating point, relative to the largest logit
_SCRIPT = Path(__file__).with_name("coreml_process.py")


def check_coreml() -> None:
    """Raise if coremltools is not installed.

    Raises:
        ConfigError: naming the extra to install.
    """
    check_installed("coremltools", "coreml")


def write_coreml(network: Path, folder: Path, samples: Samples) -> list[str]:
    """Write ``model.mlpackage`` of an exported network.

    Core ML itself runs on Apple's systems only. What is measured is the written package, its operators computed by
    torch with the weights that it stores.

    Args:
        network: Folder of the exported network.
        folder: Where the package goes.
        samples: Images; only those for the test are used.

    Returns:
        What was measured, in a sentence.

    Raises:
        ConfigError: coremltools is not installed.
        Nat2Error: the package cannot be made, or does not compute what ``model.onnx`` does.
    """
    check_coreml()
    files, made = convert(read_model(network / "model.onnx"), samples.test)
    if not made.difference <= _CLOSE:
        raise Nat2Error(
            f"the logits of the package for Core ML differ by {made.difference:.2g} of the largest from those of ONNX "
            "Runtime; use model.onnx instead"
        )
    shutil.rmtree(folder / PACKAGE, ignore_errors=True)
    for path, content in files.items():
        write_bytes(folder / PACKAGE / path, content)
    (measured,) = report(folder, network, {PACKAGE: made}, samples.test, by="torch, from the operators of the package")
    return [f"{measured}; computed by torch from its operators, not by Core ML, which runs on Apple's systems only"]


def convert(model: onnx.ModelProto, test: TestImages) -> tuple[dict[Path, bytes], Converted]:
    """Make a package for Core ML, and measure what its operators compute.

    Args:
        model: An exported network.
        test: Images.

    Returns:
        The content of the files of the package by path, and what was measured.

    Raises:
        Nat2Error: it cannot be made.
    """
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        (place / "model.pt2").write_bytes(program(model))
        np.save(place / "images.npy", np.ascontiguousarray(test.images.transpose(0, 3, 1, 2)))
        paths = [str(place / name) for name in ("images.npy", "outputs.npz", "model.pt2", PACKAGE)]
        failure = run_script(_SCRIPT, *paths, json.dumps(read_operators(model).classes))
        if failure:
            raise Nat2Error(f"coremltools cannot convert the network ({failure}); please report this with model.onnx")
        package = place / PACKAGE
        # Without what coremltools leaves beside them for debugging.
        parts = [package / "Manifest.json", *(package / "Data").rglob("*")]
        files = {path.relative_to(package): path.read_bytes() for path in parts if path.is_file()}
        with np.load(place / "outputs.npz") as found:
            logits, seconds = found["logits"].astype(np.float64), float(found["seconds"])
        return files, Converted.of(sum(map(len, files.values())), logits, test, seconds)
