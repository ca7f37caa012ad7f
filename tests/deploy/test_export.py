"""Exported files answer as the network did."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image

from nat2.data.dataset import read_dataset
from nat2.data.settings import Augmentation
from nat2.data.transform import Pipeline
from nat2.deploy import export, load
from nat2.deploy.anytime import confidence, running_answers
from nat2.deploy.export import answer, file_sizes, open_session, write_program
from nat2.deploy.predict import Classifier, predict
from nat2.deploy.quantise import accuracy_of, quantise
from nat2.errors import CheckpointError, ConfigError, DataError, Nat2Error
from nat2.space import Arch, Macro
from nat2.supernet import StaticNetwork, SuperNetwork, extract
from tests.data.test_sources import write_images
from tests.deploy.networks import random_network
from tests.pixels import pixels_of

MACRO = Macro(classes=3, channels=3, width=0.25, stem_stride=1)
ARCH = Arch.from_key("r12-w0.25-k5e4.k3e6.k7e3-k7e3.k5e6")
PIPELINE = Pipeline((0.4, 0.5, 0.6), (0.2, 0.3, 0.25), Augmentation())


def random_static(dense: bool = True) -> StaticNetwork:
    macro = Macro(classes=3, channels=3, width=0.25, stem_stride=1, dense_skips=dense)
    network = extract(SuperNetwork(macro, generator=torch.Generator().manual_seed(0)), ARCH)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if name.endswith("running_mean"):
                tensor.normal_(0, 0.2, generator=torch.Generator().manual_seed(1))
    return network


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[StaticNetwork, Path]:
    folder = tmp_path_factory.mktemp("my networks") / "ünï"
    network = random_static()
    difference = export(network, PIPELINE, ["a", "b", "c"], folder, side=16, facts={"params": 7})
    assert difference < 1e-4
    return network, folder


def test_the_exported_network_answers_as_the_trained_one(exported: tuple[StaticNetwork, Path]) -> None:
    network, folder = exported
    pixels = torch.randint(0, 256, (5, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images = torch.nn.functional.interpolate(pixels.float() / 255, (12, 12), mode="bilinear", antialias=True)
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    with torch.no_grad():
        expected = network(PIPELINE(pixels, 12))
        actual = load(folder)(images)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
    for count in (1, 5):
        (logits,) = session.run(["logits"], {"images": images[:count].numpy()})
        np.testing.assert_allclose(logits, expected[:count], rtol=1e-3, atol=1e-3)


def test_the_description_is_complete(exported: tuple[StaticNetwork, Path], tmp_path: Path) -> None:
    description = json.loads((exported[1] / "arch.json").read_text())
    assert Arch.from_json(description["arch"]) == ARCH
    assert description["classes"] == ["a", "b", "c"]
    assert description["exits"] == [2]
    preprocessing = json.loads((exported[1] / "preprocessing.json").read_text())
    assert (preprocessing["resolution"], preprocessing["side"], preprocessing["mean"]) == (12, 16, [0.4, 0.5, 0.6])
    assert description["params"] == 7
    assert {path.name for path in exported[1].iterdir()} == {
        "arch.json", "model.onnx", "model.safetensors", "preprocessing.json",
    }  # fmt: skip
    assert file_sizes(exported[1]) == {path.name: len(path.read_bytes()) for path in exported[1].iterdir()}
    (tmp_path / "notes.txt").write_text("of the user")
    (tmp_path / "model.onnx").write_bytes(bytes(7))
    assert file_sizes(tmp_path) == {"model.onnx": 7}


def test_a_file_that_answers_differently_is_not_reported_as_exported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = onnxruntime.InferenceSession

    class Wrong:
        def __init__(self, *arguments: object, **options: object) -> None:
            self.session = original(*arguments, **options)

        def run(self, *arguments: object) -> list[np.ndarray]:
            return [logits + 1 for logits in self.session.run(*arguments)]

    monkeypatch.setattr(onnxruntime, "InferenceSession", Wrong)
    with pytest.raises(Nat2Error, match="answers of ONNX Runtime differ"):
        export(random_static(), PIPELINE, "abc", tmp_path, side=16, facts={})
    assert not list(tmp_path.iterdir())


def test_a_network_whose_training_diverged_is_not_exported(tmp_path: Path) -> None:
    network = random_static()
    with torch.no_grad():
        network.stem.conv.weight.fill_(float("nan"))
    with pytest.raises(Nat2Error, match="not finite; its training diverged"):
        export(network, PIPELINE, "abc", tmp_path / "n", side=16, facts={})


def test_prediction_goes_through_the_steps_of_training(exported: tuple[StaticNetwork, Path], tmp_path: Path) -> None:
    network, folder = exported
    write_images(tmp_path, {"a": 4, "b": 4}, side=23)
    dataset = read_dataset(str(tmp_path), side=16, val_fraction=0.25, test_fraction=0.25)
    with torch.no_grad():
        shares = network(PIPELINE(pixels_of(dataset.train), 12)).softmax(1)
    predicted = {}
    for path, answers in predict(folder, sorted(tmp_path.rglob("*.png")), top=3):
        assert sum(share for _, share in answers) == pytest.approx(1)
        assert [share for _, share in answers] == sorted((share for _, share in answers), reverse=True)
        predicted[path] = dict(answers)["a"]
    for share in shares[:, 0].tolist():
        assert min(abs(share - other) for other in predicted.values()) < 1e-4


def test_images_that_cannot_be_read_are_named(exported: tuple[StaticNetwork, Path], tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"bad")
    Image.new("RGB", (9, 9)).save(tmp_path / "good.png")
    answers = predict(exported[1], [tmp_path / "bad.png", tmp_path / "good.png"])
    assert next(answers)[0].name == "good.png"  # the others are answered all the same
    with pytest.raises(DataError, match=r"bad\.png cannot be read"):
        next(answers)
    with pytest.raises(ConfigError, match="--top must be at least 1; got 0"):
        list(predict(exported[1], [], top=0))


def test_grey_images_are_answered_by_colour_networks(exported: tuple[StaticNetwork, Path], tmp_path: Path) -> None:
    Image.new("L", (9, 30), 77).save(tmp_path / "grey.png")
    ((_, answers),) = predict(exported[1], [tmp_path / "grey.png"], top=2)
    assert len(answers) == 2


@pytest.mark.parametrize("damage", ["absent", "empty", "no json", "keys", "macro", "exits", "weights", "input"])
def test_damaged_exports_are_refused(exported: tuple[StaticNetwork, Path], tmp_path: Path, damage: str) -> None:
    source = exported[1]
    contents = {path.name: path.read_bytes() for path in source.iterdir()}
    if damage == "empty":
        contents = {}
    elif damage == "no json":
        contents["arch.json"] = b"{"
    elif damage == "keys":
        contents["arch.json"] = b'{"arch": {}}'
    elif damage == "macro":
        contents["arch.json"] = json.dumps(json.loads(contents["arch.json"]) | {"macro": {}}).encode()
    elif damage == "exits":
        contents["arch.json"] = json.dumps(json.loads(contents["arch.json"]) | {"exits": [3]}).encode()
    elif damage == "input":
        contents["preprocessing.json"] = b"{}"
    elif damage == "weights":
        contents["model.safetensors"] = contents["model.safetensors"][:500]
    folder = tmp_path / "network"
    if damage != "absent":
        folder.mkdir()
        for name, content in contents.items():
            (folder / name).write_bytes(content)
    with pytest.raises(CheckpointError):
        load(folder)


EXITS = (1, 3)


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> tuple[StaticNetwork, Path]:
    """A network whose exits 1 and 3 answer together."""
    folder = tmp_path_factory.mktemp("several") / "network"
    macro = Macro(classes=3, channels=3, width=0.25, stem_stride=1)
    arch = Arch.from_key("r12-w0.25-k5e4.k3e6.k7e3-k7e3.k5e6-k3e3.k3e3")
    network = extract(SuperNetwork(macro, generator=torch.Generator().manual_seed(0)), arch, exits=EXITS)
    export(network, PIPELINE, ["a", "b", "c"], folder, side=16, facts={}, weights=(0.2, 0.6), pt2=True)
    return network, folder


def test_exits_answer_together_in_every_format(several: tuple[StaticNetwork, Path]) -> None:
    network, folder = several
    images = torch.rand(5, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = network(PIPELINE.normalize(images))
        torch.testing.assert_close(load(folder)(images), 0.25 * logits[0] + 0.75 * logits[1], rtol=1e-4, atol=1e-4)
        expected = load(folder)(images)
        program = torch.export.load(folder / "model.pt2").module()
        torch.testing.assert_close(program(images), expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(answer(open_session(folder / "model.onnx"), images), expected, rtol=1e-4, atol=1e-4)


def test_the_program_holds_weights_as_every_runtime_reads_them(several: tuple[StaticNetwork, Path]) -> None:
    folder = several[1]
    assert any(not tensor.is_contiguous() for tensor in load(folder).state_dict().values())  # channels last
    program = torch.export.load(folder / "model.pt2")
    for tensors in (program.state_dict, program.constants):
        for name, tensor in tensors.items():
            assert tensor.stride() == torch.empty(tensor.shape).stride(), name
    run = program.module()
    for count in (1, 2, 7):
        images = torch.rand(count, 3, 12, 12, generator=torch.Generator().manual_seed(count))
        with torch.no_grad():
            torch.testing.assert_close(run(images), load(folder)(images), rtol=1e-4, atol=1e-4)
    content = (folder / "model.pt2").read_bytes()
    for path in (str(Path.home()), str(Path(torch.__file__).parent), str(Path(__file__).parents[2]), "site-packages"):
        assert path.encode() not in content


def test_a_program_that_answers_differently_is_not_written(
    several: tuple[StaticNetwork, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = torch.export.load(several[1] / "model.pt2")
    model = load(several[1])
    with torch.no_grad():
        model.network.get_parameter("exits.3.classifier.bias").add_(1)
    monkeypatch.setattr(torch.export, "load", lambda source: other)
    with pytest.raises(Nat2Error, match=r"answers of torch\.export differ"):
        write_program(model, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("threshold", [0.0, 0.34, 0.36, 0.4, 1.1])
def test_an_exit_that_is_sure_answers_and_nothing_behind_it_is_computed(
    several: tuple[StaticNetwork, Path], threshold: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, folder = several
    images = torch.rand(40, 3, 12, 12, generator=torch.Generator().manual_seed(0)) * 3
    model = load(folder)
    with torch.no_grad():
        first, both = running_answers(network(PIPELINE.normalize(images)), model.weights)
    sure = confidence(first) >= threshold
    computed = []
    stage = StaticNetwork.run_stage

    def count(self: StaticNetwork, number: int, x: torch.Tensor) -> torch.Tensor:
        computed.append((number, len(x)))
        return stage(self, number, x)

    monkeypatch.setattr(StaticNetwork, "run_stage", count)
    logits, exits = model.anytime(images, threshold=threshold)
    torch.testing.assert_close(logits, torch.where(sure[:, None], first, both), rtol=1e-4, atol=1e-4)
    assert exits.tolist() == torch.where(sure, 1, 3).tolist()
    left = int((~sure).sum())
    assert computed == [(1, 40)] + ([(2, left), (3, left)] if left else [])


def test_eight_bits_answer_much_like_the_network_and_are_smaller(
    several: tuple[StaticNetwork, Path], tmp_path: Path
) -> None:
    folder = several[1]
    images = torch.rand(64, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    quantise(folder / "model.onnx", tmp_path / "model-int8.onnx", torch.split(images, 32))
    with torch.no_grad():
        expected = load(folder)(images)
    actual = rounded_answer(tmp_path / "model-int8.onnx", images)
    assert float((actual - expected).abs().max()) < 0.2 * float(expected.abs().max())
    assert not torch.equal(actual, expected)
    assert torch.isfinite(answer(open_session(tmp_path / "model-int8.onnx"), images)).all()
    assert (tmp_path / "model-int8.onnx").stat().st_size < 0.7 * (folder / "model.onnx").stat().st_size
    assert accuracy_of(folder / "model.onnx", torch.split(images, 10), expected.argmax(1)) == 1
    (tmp_path / "bad.onnx").write_bytes(b"no network")
    with pytest.raises(CheckpointError, match=r"bad\.onnx cannot be read"):
        quantise(tmp_path / "bad.onnx", tmp_path / "out.onnx", torch.split(images, 32))


def rounded_answer(path: Path, images: torch.Tensor) -> torch.Tensor:
    """What the file says when it is taken literally: rounded values, and convolutions of floating-point numbers.

    Integer kernels differ between processors, and older ones saturate.
    """
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])


POINTS = [
    {"threshold": threshold, "macs": 9.0, "val_macs": macs, "val_accuracy": accuracy, "test_accuracy": 0.5}
    for threshold, macs, accuracy in ((0.0, 10.0, 0.5), (0.99, 20.0, 0.9), (1.01, 30.0, 0.8))
]


def test_the_first_exit_that_is_sure_enough_predicts(
    several: tuple[StaticNetwork, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a threshold, or by the one that an operating point of the network stands for."""
    folder = tmp_path / "network"
    shutil.copytree(several[1], folder)
    description = json.loads((folder / "arch.json").read_text())
    (folder / "arch.json").write_text(json.dumps(description | {"anytime": POINTS}))
    asked: list[float | None] = []
    original = Classifier._shares

    def recorded(self: Classifier, images: torch.Tensor) -> torch.Tensor:
        asked.append(self.threshold)
        return original(self, images)

    monkeypatch.setattr(Classifier, "_shares", recorded)
    image = tmp_path / "image.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(image)

    def shares(**options: float) -> dict[str, float]:
        ((path, answers),) = predict(folder, image, **options)  # type: ignore[arg-type]
        assert path == image
        return dict(answers)

    first, joint = shares(threshold=0.0), shares(threshold=1.0)
    assert first != joint
    assert shares() == pytest.approx(joint, abs=1e-5)
    assert shares(mean_macs=10) == first
    assert shares(mean_macs=25) == shares(mean_macs=1e9) == joint
    assert asked == [0.0, 1.0, None, 0.0, 0.99, 0.99]
    with pytest.raises(ConfigError, match="no threshold has 9 MACs in the mean; the least is 10"):
        predict(folder, image, mean_macs=9)
    with pytest.raises(ConfigError, match="both say when an exit answers"):
        predict(folder, image, threshold=0.5, mean_macs=10)
    for wrong in (-0.01, 1.01):
        with pytest.raises(ConfigError, match="--threshold must be from 0 to 1"):
            predict(folder, image, threshold=wrong)
    (folder / "arch.json").write_text(json.dumps(description | {"anytime": [{"macs": 3}]}))
    with pytest.raises(CheckpointError, match=r"arch\.json is damaged"):
        predict(folder, image, mean_macs=10)


@pytest.mark.parametrize("option", [{"threshold": 0.5}, {"mean_macs": 1e9}])
def test_a_network_with_one_exit_cannot_answer_early(
    exported: tuple[StaticNetwork, Path], option: dict[str, float]
) -> None:
    with pytest.raises(ConfigError, match="has one exit, or one that was left of several"):
        predict(exported[1], [], **option)  # type: ignore[arg-type]


def test_addresses_in_the_place_of_files_are_refused_by_name(exported: tuple[StaticNetwork, Path]) -> None:
    with pytest.raises(ConfigError, match=r"^NETWORK takes a file"):
        predict("https://example.org/network", [])
    with pytest.raises(ConfigError, match=r"^IMAGE takes a file"):
        predict(exported[1], ["https://example.org/image.png"])


@pytest.mark.parametrize("channels", [1, 3])
def test_colour_networks_see_colours_and_grey_ones_do_not(tmp_path: Path, channels: int) -> None:
    macro = Macro(classes=3, channels=channels, width=0.25, stem_stride=1)
    network = random_network(macro, ARCH).network
    pipeline = Pipeline((0.4,) * channels, (0.2,) * channels)
    export(network, pipeline, ["a", "b", "c"], tmp_path / "network", side=16, facts={})
    colour = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8))
    colour.save(tmp_path / "colour.png")
    colour.convert("L").save(tmp_path / "grey.png")
    files = [tmp_path / "colour.png", tmp_path / "grey.png"]
    answers = [dict(each) for _, each in predict(tmp_path / "network", files)]
    difference = max(abs(answers[0][name] - answers[1][name]) for name in "abc")
    assert difference > 0.01 if channels == 3 else difference < 1e-5
