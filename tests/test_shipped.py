"""The super-networks that come with nat2."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from nat2.data.transform import Pipeline
from nat2.errors import CheckpointError
from nat2.pipeline.prepare import prepare
from nat2.pipeline.pretrained import begin_with, remarks
from nat2.runs.config import RunConfig
from nat2.shipped import DEFAULT, SHIPPED, Shipped
from nat2.space import Macro, SearchSpace
from nat2.supernet import SuperNetwork, calibrate, normalize_by
from nat2.supernet.weights import open_checkpoint


@pytest.mark.parametrize("shipped", SHIPPED.values(), ids=list(SHIPPED))
def test_weights_are_those_of_the_card(shipped: Shipped) -> None:
    shipped.verify()
    assert shipped.path.stat().st_size < 6e6
    card = shipped.card.read_text()
    assert all(each in card for each in (shipped.name, "Tiny ImageNet", "Accuracy", "recipes/pretrain.yaml"))
    macro = open_checkpoint(shipped.name).macro
    assert macro is not None
    assert (macro.family, macro.width, macro.stem_stride) == (shipped.family, shipped.width, shipped.stem_stride)


def test_a_file_that_is_not_the_published_one_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Moved(Shipped):
        @property
        def path(self) -> Path:
            return tmp_path / "weights.safetensors"

    moved = Moved(**dataclasses.asdict(DEFAULT))
    with pytest.raises(CheckpointError, match=r"missing from the package.*--pretrained none"):
        moved.verify()
    content = bytearray(DEFAULT.path.read_bytes())
    content[-1] ^= 1
    moved.path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"not the file that nat2 was published with"):
        moved.verify()


@pytest.mark.parametrize("channels", [1, 3])
def test_only_what_depends_on_classes_and_channels_is_new(channels: int) -> None:
    network = SuperNetwork(Macro(classes=7, channels=channels, width=DEFAULT.width, stem_stride=DEFAULT.stem_stride))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    notes = begin_with(network, DEFAULT.name)
    assert [note.partition(":")[0] for note in notes] == [
        *(["first convolution"] if channels == 1 else []),
        "classifiers of exits 1, 2, 3, 4, 5",
    ]
    kept = {name for name, tensor in network.state_dict().items() if torch.equal(tensor, before[name])}
    assert kept == {f"exits.{number}.classifier.{field}" for number in range(1, 6) for field in ("weight", "bias")}


def test_it_knows_images_that_it_has_not_seen(shared_data: Path) -> None:
    held = np.load(shared_data / "tiny_imagenet" / "train-1.npz")
    data, offsets = held["data"], held["offsets"]
    numbers = range(len(offsets) - 301, len(offsets) - 1)
    pixels = [
        np.asarray(Image.open(io.BytesIO(data[offsets[n] : offsets[n + 1]].tobytes())).convert("RGB")) for n in numbers
    ]
    images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)
    labels = torch.from_numpy(held["labels"][list(numbers)].astype(np.int64))
    macro = Macro(classes=200, width=DEFAULT.width, stem_stride=DEFAULT.stem_stride)
    network = SuperNetwork(macro).eval()
    assert begin_with(network, DEFAULT.name) == []
    pipeline, space = Pipeline((0.480, 0.448, 0.397), (0.275, 0.268, 0.280)), SearchSpace.of(macro, (48,))
    middle = space.decode(space.sample(5, np.random.default_rng(3))[2])
    for arch, least in ((space.largest, 0.4), (middle, 0.38), (space.smallest, 0.3)):
        batch = pipeline(images, 48)
        with torch.no_grad():
            logits = network(batch, arch, normalize=normalize_by(calibrate(network, arch, [batch])))
        among_five = (logits.topk(5, 1).indices == labels[:, None]).any(1).float().mean()
        assert among_five > least  # 2.5 % by chance


def write_images(folder: Path, side: int) -> str:
    generator = np.random.default_rng(0)
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True)
        for number in range(12):
            pixels = generator.integers(0, 256, (side, side, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return str(folder)


@pytest.mark.parametrize(
    ("side", "flags", "sides"),
    [
        (24, {}, (48, 56, 64)),
        (32, {}, (48, 56, 64)),
        (200, {}, (48, 56, 64)),
        (32, {"resolutions": "32,40"}, (32, 40)),
        (32, {"family": "EE_D", "width": 0.5, "stem_stride": 2}, (48, 56, 64)),
        (23, {}, None),
        (32, {"pretrained": "none"}, None),
        (32, {"pretrained": ""}, None),
        (32, {"resolutions": "24,32"}, None),
        (32, {"resolutions": "64,160"}, None),
        (32, {"width": 0.35}, None),
        (32, {"family": "EE_B"}, None),
        (32, {"stem_stride": 1}, None),
        (32, {"preset": "nat2"}, None),
    ],
)
def test_they_are_taken_where_they_fit(
    tmp_path: Path, side: int, flags: dict[str, Any], sides: tuple[int, ...] | None
) -> None:
    preset = flags.pop("preset", "quick")
    plan, _ = prepare(RunConfig.of(preset, data=write_images(tmp_path / "images", side), **flags))
    assert plan.pretrained == (() if sides is None else (DEFAULT.name,))
    assert plan.config.pretrained == ",".join(plan.pretrained)
    assert plan.config.schedule == "ofav2" if preset == "nat2" else bool(sides) == ("transfer" in plan.config.schedule)
    if sides is not None:
        assert plan.space.resolutions == sides
        assert (plan.family, plan.widths, plan.stem_stride) == ("EE_D", (0.5,), 2)
    again, _ = prepare(plan.config)
    assert again == plan


def test_images_are_cropped_from_random_weights_and_as_published(tmp_path: Path) -> None:
    data = write_images(tmp_path / "images", 32)

    def augmentation(**changes: Any) -> tuple[float | None, str | None]:
        plan, _ = prepare(RunConfig.of(**{"preset": "quick", "data": data, **changes}))
        return plan.config.augmentation.crop_scale, plan.config.augmentation.policy

    assert augmentation() == (1.0, "auto")
    assert augmentation(pretrained="none") == (0.75, "auto")
    assert augmentation(preset="nat2", pretrained=DEFAULT.name, width="0.5") == (0.75, "none")
    assert augmentation(augmentation={"crop_scale": 0.5, "policy": "none"}) == (0.5, "none")


def test_named_weights_that_do_not_fit_are_refused_with_the_flags_they_need(tmp_path: Path) -> None:
    given = RunConfig(data=write_images(tmp_path / "images", 32), pretrained=DEFAULT.name, width=0.35)
    plan, dataset = prepare(given)
    with pytest.raises(CheckpointError, match=r"ee_d-w0.5 holds .*it needs --width 0.5"):
        remarks(given, plan, dataset)


def test_the_introduction_names_them_and_their_terms(tmp_path: Path) -> None:
    given = RunConfig(data=write_images(tmp_path / "images", 32))
    plan, dataset = prepare(given)
    text = "\n".join(remarks(given, plan, dataset))
    assert "ee_d-w0.5, which comes with nat2" in text
    assert "terms of research" in text
    assert "--pretrained none" in text
