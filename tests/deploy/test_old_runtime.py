"""Exported files run with the oldest ONNX Runtime that this Python has, in an environment of its own."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pytest
import torch

from nat2.deploy.export import TOLERANCE, write_onnx
from nat2.deploy.quantise import quantise
from nat2.space import Arch, Macro
from tests.deploy.networks import images_for, random_network

OLDEST = {(3, 11): "1.15.0", (3, 12): "1.17.0"}
NETWORKS = {
    "everything": "r13-w0.25-k5e4ct.k3e6t.k7e3c.k3e4ct-k7e3ct.k5e6t.c-k3e3.k5e4ct-k3e3.t",
    "bottlenecks": "r16-w0.25-k3e3.k5e4.k7e6-k3e6.k3e4-k5e3.k3e3-k3e3.k3e3-k3e4.k3e3.k5e3",
}
SCRIPT = """
import sys, numpy, onnxruntime
for name in sys.argv[1:]:
    session = onnxruntime.InferenceSession(name + ".onnx", providers=["CPUExecutionProvider"])
    for count in (1, 7):
        images = numpy.load(f"{name}-{count}.npy")
        numpy.save(f"{name}-{count}-answer.npy", session.run(["logits"], {"images": images})[0])
print(onnxruntime.__version__)
"""


@pytest.fixture(scope="module")
def old_python(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A Python that has an old ONNX Runtime, and its version."""
    runtime = OLDEST.get(sys.version_info[:2])
    if runtime is None:
        pytest.skip(f"it is not known which is the oldest ONNX Runtime for Python {sys.version.split()[0]}")
    place = tmp_path_factory.mktemp("old")
    venv.create(place, with_pip=True)
    python = place / "bin" / "python"
    line = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    line += ["--retries", "1", "--timeout", "20", f"onnxruntime=={runtime}", "numpy<2"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        pytest.skip(f"pip cannot install onnxruntime {runtime} ({done.stderr.strip().splitlines()[-1]})")
    return python, runtime


@pytest.mark.slow
def test_an_old_runtime_answers_as_torch_does(old_python: tuple[Path, str], tmp_path: Path) -> None:
    python, runtime = old_python
    models = {}
    for name, key in NETWORKS.items():
        macro = Macro(classes=5, width=0.25, stem_stride=1, parallel_blocks=name == "everything")
        arch = Arch.from_key(key)
        models[name] = random_network(macro, arch, exits=(1, arch.exit))
        write_onnx(models[name], tmp_path)
        (tmp_path / "model.onnx").rename(tmp_path / f"{name}.onnx")
        quantise(
            tmp_path / f"{name}.onnx", tmp_path / f"{name}-int8.onnx", torch.split(images_for(models[name], 64), 16)
        )
        for count in (1, 7):
            for file in (name, f"{name}-int8"):
                np.save(tmp_path / f"{file}-{count}.npy", images_for(models[name], count).numpy())
    files = [file for name in models for file in (name, f"{name}-int8")]
    done = subprocess.run(
        [str(python), "-c", SCRIPT, *files], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == runtime
    for name, model in models.items():
        for count in (1, 7):
            with torch.no_grad():
                expected = model(images_for(model, count)).numpy()
            largest = np.abs(expected).max()
            whole, small = (np.load(tmp_path / f"{file}-{count}-answer.npy") for file in (name, f"{name}-int8"))
            assert np.abs(whole - expected).max() < TOLERANCE * largest
            # Eight bits are coarse for random weights; a file that is read wrongly is off by more than 1.
            assert np.linalg.norm(small - expected) < 0.5 * np.linalg.norm(expected)
