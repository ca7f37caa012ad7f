"""Packages for Core ML: their input, their operators, and what those compute."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from nat2.deploy import coreml
from nat2.deploy.coreml import PACKAGE, write_coreml
from nat2.deploy.coreml_process import _OPERATORS
from nat2.deploy.export import file_sizes
from nat2.deploy.samples import Samples
from nat2.errors import Nat2Error
from nat2.space import Macro
from tests.deploy.networks import draw, images_for
from tests.deploy.test_device_files import exported, settled
from tests.deploy.test_executorch import GREY, SMALL, samples

COREML = importlib.util.find_spec("coremltools") is not None


@pytest.mark.filterwarnings("ignore")  # of what coremltools imports
@pytest.mark.skipif(not COREML, reason="needs the extra coreml")
@pytest.mark.parametrize("macro", [GREY, Macro(classes=3, width=0.5, stem_stride=2, parallel_blocks=True)])
def test_a_package_takes_pixels_and_computes_what_the_network_does(macro: Macro, tmp_path: Path) -> None:
    from coremltools.models.utils import load_spec

    model = settled(macro, draw(macro, 33, seed=3))
    source, _ = exported(model, tmp_path)
    given = samples(source, (images_for(model, 16) * 255).round() / 255)
    (told,) = write_coreml(tmp_path, tmp_path / "coreml", given)
    kept = json.loads((tmp_path / "coreml" / "numbers.json").read_text())
    assert kept["files"][PACKAGE]["difference"] <= 0.02
    assert kept["files"][PACKAGE]["bytes"] == file_sizes(tmp_path)[f"coreml/{PACKAGE}"]
    assert "not by Core ML" in told
    description = load_spec(str(tmp_path / "coreml" / PACKAGE)).description
    (image,), (logits,) = description.input, description.output
    size = image.type.imageType
    assert (image.name, size.width, size.height) == ("images", 33, 33)
    assert size.colorSpace == (size.GRAYSCALE if macro.channels == 1 else size.RGB)
    assert (logits.name, [*logits.type.multiArrayType.shape]) == ("logits", [1, macro.classes])
    classes = json.loads(description.metadata.userDefined["classes"])
    assert classes == [f"class {n}" for n in range(macro.classes)]


def test_a_package_that_computes_something_else_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = settled(GREY, SMALL)
    source, _ = exported(model, tmp_path)
    given: Samples = samples(source, images_for(model, 8))
    logits = [-given.test.logits]

    def converter(script: Path, inputs: str, outputs: str, program: str, package: str, classes: str) -> str:
        weights = Path(package) / "Data" / "weights"
        weights.mkdir(parents=True)
        (weights / "weight.bin").write_bytes(b"12345")
        (Path(package) / "Manifest.json").write_text("{}")
        np.savez(outputs, logits=logits[0], seconds=1.0)
        return ""

    monkeypatch.setattr(coreml, "check_coreml", lambda: None)
    monkeypatch.setattr(coreml, "run_script", converter)
    folder = tmp_path / "coreml"
    with pytest.raises(Nat2Error, match="logits of the package for Core ML differ by"):
        write_coreml(tmp_path, folder, given)
    assert not folder.exists()
    logits[0] = given.test.logits
    (folder / PACKAGE).mkdir(parents=True)
    (folder / PACKAGE / "left over").write_text("of an earlier export")
    (told,) = write_coreml(tmp_path, folder, given)
    assert told.startswith("model.mlpackage: 7 bytes, 100.00 % of 8 test images")
    assert sorted(path.name for path in folder.rglob("*") if path.is_file()) == [
        "Manifest.json", "numbers.json", "weight.bin"
    ]  # fmt: skip
    shutil.rmtree(folder)
    monkeypatch.setattr(coreml, "run_script", lambda *words: "ValueError: no such operator")
    with pytest.raises(Nat2Error, match=r"cannot convert the network \(ValueError: no such operator\)"):
        write_coreml(tmp_path, folder, given)


def test_operators_of_a_package_pad_as_core_ml_does() -> None:
    """``pad`` lists both ends of every axis; pooling pads with what no maximum is."""
    import torch

    x = -torch.ones(1, 1, 3, 3)
    found = _OPERATORS["pad"]({"x": x, "pad": [0, 0, 0, 0, 1, 0, 0, 2], "constant_val": 5.0})
    assert found.shape == (1, 1, 4, 5)
    assert (found[0, 0, 0] == 5).all()
    assert (found[0, 0, 1:, :3] == -1).all()
    pooled = _OPERATORS["max_pool"](
        {"x": x, "pad_type": "custom", "pad": [0, 1, 0, 1], "kernel_sizes": [2, 2], "strides": [2, 2]}
    )
    assert torch.equal(pooled, -torch.ones(1, 1, 2, 2))
