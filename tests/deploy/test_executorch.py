"""Files for ExecuTorch: what becomes of the network, and what its runtime makes of it."""

from __future__ import annotations

import importlib.util
import io
import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from nat2.deploy import executorch
from nat2.deploy.executorch import FLOAT, INTEGER, write_executorch
from nat2.deploy.one_image import program
from nat2.deploy.operators import read_model
from nat2.deploy.ranges import in_integers
from nat2.deploy.samples import Samples, TestImages
from nat2.errors import Nat2Error
from nat2.space import Arch, Macro
from tests.deploy.networks import draw, images_for
from tests.deploy.test_device_files import exported, settled

GREY = Macro(classes=10, channels=1, width=0.35, stem_stride=1)
SMALL = Arch.from_key("r16-w0.35-k3e3.k5e6-k3e4.k7e3")
EXECUTORCH = importlib.util.find_spec("executorch") is not None


def samples(source: Path, images: torch.Tensor) -> Samples:
    labels = torch.zeros(len(images), dtype=torch.int64)
    test = TestImages.of(source, [images], labels)
    return Samples([images], TestImages(test.images, test.logits.argmax(1), test.logits))


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Samples]:
    folder = tmp_path_factory.mktemp("executorch")
    model = settled(GREY, SMALL)
    source, _ = exported(model, folder)
    return folder, samples(source, (images_for(model, 32) * 255).round() / 255)


def run(content: bytes, images: torch.Tensor) -> torch.Tensor:
    module = torch.export.load(io.BytesIO(content)).module()
    return torch.cat([module(image[None]) for image in images])


def test_a_program_for_one_image_computes_what_the_network_does(network: tuple[Path, Samples]) -> None:
    folder, given = network
    (images,) = given.calibration
    found = run(program(read_model(folder / "model.onnx")), images)
    torch.testing.assert_close(found.double(), torch.from_numpy(given.test.logits), rtol=1e-4, atol=1e-4)


def test_in_8_bits_everything_has_at_most_256_values(network: tuple[Path, Samples]) -> None:
    folder, given = network
    (images,) = given.calibration
    model, ranges = in_integers(folder / "model.onnx", given.calibration)
    content = program(model, ranges)
    found = run(content, images)
    assert np.corrcoef(found.numpy().ravel(), given.test.logits.ravel())[0, 1] > 0.85
    low, high = ranges["logits"]
    steps = (found / ((max(high, 0) - min(low, 0)) / 255)).double()
    assert (steps - steps.round()).abs().max() < 1e-3
    nodes = [node for node in torch.export.load(io.BytesIO(content)).graph.nodes if node.op == "call_function"]
    exact = {"relu", "hardsigmoid", "sub", "fake_quantize_per_tensor_affine", "fake_quantize_per_channel_affine"}
    for node in nodes:
        if "conv2d" in node.name or "linear" in node.name or "matmul" in node.name:
            users = {user.name.rstrip("_0123456789") for user in node.users}
            assert users <= exact, f"{node.name} is not rounded but goes to {users}"


@pytest.mark.skipif(not EXECUTORCH, reason="needs the extra executorch")
@pytest.mark.parametrize(
    "macro",
    [
        GREY,
        Macro(classes=5, width=0.5, stem_stride=2),
        Macro(classes=3, width=0.5, stem_stride=1, parallel_blocks=True, early_exits=False),
    ],
)
def test_executorch_answers_as_onnx_runtime_does(macro: Macro, tmp_path: Path) -> None:
    model = settled(macro, draw(macro, 33, seed=3))
    source, _ = exported(model, tmp_path / "network")
    given = samples(source, (images_for(model, 24) * 255).round() / 255)
    told = write_executorch(source.parent, tmp_path / "files", given)
    kept = json.loads((tmp_path / "files" / "numbers.json").read_text())["files"]
    sizes = {name: (tmp_path / "files" / name).stat().st_size for name in (FLOAT, INTEGER)}
    assert {name: each["bytes"] for name, each in kept.items()} == sizes
    assert sizes[INTEGER] < 0.6 * sizes[FLOAT]
    assert kept[FLOAT]["difference"] <= 1e-3
    assert kept[FLOAT]["agreement"] == kept[FLOAT]["accuracy"] == 1
    assert kept[INTEGER]["difference"] < 1
    assert [each.partition(":")[0] for each in told] == [FLOAT, INTEGER]


@pytest.mark.skipif(not EXECUTORCH, reason="needs the extra executorch")
def test_channels_without_weights_keep_their_bias(network: tuple[Path, Samples], tmp_path: Path) -> None:
    """In integers, a bias is divided by the scale of the weights: where these are 0, it must not leave 32 bits."""
    folder, given = network
    model = onnx.load(folder / "model.onnx")
    for each in model.graph.initializer:
        values = numpy_helper.to_array(each).copy()
        if each.name == "stages.0.0.expand.weight":
            values[0] = 0
        elif each.name == "stages.0.0.expand.bias":
            values[0] = 2.5
        each.CopyFrom(numpy_helper.from_array(values, each.name))
    onnx.save(model, tmp_path / "model.onnx")
    (images,) = given.calibration
    write_executorch(tmp_path, tmp_path / "files", samples(tmp_path / "model.onnx", images))
    kept = json.loads((tmp_path / "files" / "numbers.json").read_text())["files"]
    assert kept[INTEGER]["agreement"] > 0.7


def test_a_converter_that_fails_or_answers_otherwise_leaves_no_files(
    network: tuple[Path, Samples], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, given = network
    shutil.copyfile(folder / "model.onnx", tmp_path / "model.onnx")
    monkeypatch.setattr(executorch, "check_executorch", lambda: None)
    written: dict[str, object] = {}

    def converter(script: Path, inputs: str, outputs: str, *programs: str) -> str:
        for each in programs:
            Path(each).with_suffix(".pte").write_bytes(b"a file")
        np.savez(outputs, **written)  # type: ignore[arg-type]
        return ""

    monkeypatch.setattr(executorch, "run_script", converter)
    numbers = {f"{Path(name).stem}.seconds": 1.0 for name in (FLOAT, INTEGER)}
    right = {Path(name).stem: given.test.logits for name in (FLOAT, INTEGER)}
    written.update(numbers | right | {Path(FLOAT).stem: -given.test.logits})
    with pytest.raises(Nat2Error, match="logits of ExecuTorch differ by"):
        write_executorch(tmp_path, tmp_path / "files", given)
    written.update(right | {"model-int8.failure": "SomeError: no such operator"})
    with pytest.raises(Nat2Error, match=r"cannot make model-int8.pte \(SomeError: no such operator\)"):
        write_executorch(tmp_path, tmp_path / "files", given)
    monkeypatch.setattr(executorch, "run_script", lambda *words: "ImportError: no module")
    with pytest.raises(Nat2Error, match=r"ExecuTorch failed \(ImportError: no module\)"):
        write_executorch(tmp_path, tmp_path / "files", given)
    assert not (tmp_path / "files").exists()
