"""A data set in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from nat2.data.dataset import Split, read_dataset, remarks
from nat2.data.known import KNOWN, known_as
from nat2.data.sources import Opened, Source, numbered
from nat2.errors import ConfigError
from nat2.pipeline.prepare import introduction, prepare
from nat2.progress import Progress
from nat2.runs.config import RunConfig
from tests.calls import Calls
from tests.data.test_depth import values, write_deep
from tests.data.test_sources import write_images
from tests.pixels import pixels_of


def test_digits_are_split_by_seed() -> None:
    first, again, other = (read_dataset("digits", side=12, seed=seed) for seed in (0, 0, 1))
    assert [len(s) for s in (first.train, first.val, first.test)] == [1079, 359, 359]
    assert first.fingerprint == again.fingerprint != other.fingerprint
    assert (first.channels, first.side, len(first.classes)) == (1, 12, 10)
    assert pixels_of(first.train).dtype == torch.uint8


def test_statistics_are_those_of_the_training_pixels() -> None:
    dataset = read_dataset("digits", side=12)
    pixels = pixels_of(dataset.train).double() / 255
    assert dataset.mean == pytest.approx((float(pixels.mean()),))
    assert dataset.std == pytest.approx((float(pixels.std(correction=0)),))


@pytest.mark.parametrize("given", [("train",), ("train", "val"), ("train", "test"), ("train", "val", "test")])
def test_missing_splits_are_cut_from_the_training_images(tmp_path: Path, given: tuple[str, ...]) -> None:
    for name in given:
        write_images(tmp_path / name, {"a": 10, "b": 10})
    dataset = read_dataset(str(tmp_path), side=16, val_fraction=0.2, test_fraction=0.3)
    sizes = {name: len(getattr(dataset, name)) for name in ("train", "val", "test")}
    wanted = {"val": 20 if "val" in given else 4, "test": 20 if "test" in given else 6}
    missing = sum(wanted[name] for name in ("val", "test") if name not in given)
    assert sizes == wanted | {"train": 20 - missing}


def test_any_change_of_an_image_changes_the_fingerprint(tmp_path: Path) -> None:
    write_images(tmp_path, {"a": 5, "b": 5})
    before = read_dataset(str(tmp_path), side=16).fingerprint
    path = tmp_path / "a" / "3.png"
    path.write_bytes((tmp_path / "b" / "3.png").read_bytes())
    assert read_dataset(str(tmp_path), side=16).fingerprint != before


def test_joined_splits_hold_the_images_of_both() -> None:
    dataset = read_dataset("digits", side=8)
    joined = dataset.train.joined(dataset.val)
    assert len(joined) == 1438
    np.testing.assert_array_equal(pixels_of(joined)[1079:], pixels_of(dataset.val))


def split_of(labels: list[int], names: list[str]) -> Split:
    return Split(torch.zeros(len(labels), 1, 1, 1, dtype=torch.uint8), torch.tensor(labels), names)


def digests(shown: Iterable[str]) -> NDArray[np.uint8]:
    """Of images that show something."""
    found = [hashlib.blake2b(each.encode()).digest() for each in shown]
    return np.frombuffer(b"".join(found), np.uint8).reshape(len(found), 64)


def remarked(**splits: list[tuple[str, int, str]]) -> list[str]:
    """What is said of images, given by what they show, class and name, of two large classes."""
    full = {"train": [(f"own {number}", number % 2, f"{number}.png") for number in range(40)], "val": [], "test": []}
    images = {split: [*given, *splits.get(split, [])] for split, given in full.items()}
    made = {
        split: split_of([each[1] for each in given], [each[2] for each in given]) for split, given in images.items()
    }
    return remarks(made, {split: digests(each[0] for each in given) for split, given in images.items()}, ("cat", "dog"))


def test_unequal_and_tiny_classes_are_told() -> None:
    labels = [0] * 30 + [1] * 9
    empty = split_of([], [])
    splits = {"train": split_of(labels, [str(number) for number in range(39)]), "val": empty, "test": empty}
    told = remarks(splits, {"train": digests(map(str, range(39)))}, ("cat", "dog"))
    assert len(told) == 2
    assert told[0].startswith("classes differ in size: 9 training images of dog, 30 of cat")
    assert told[1] == "fewer than 10 training images of dog (9)"
    assert remarked() == []


def test_a_picture_under_two_classes_is_told_as_that() -> None:
    (told,) = remarked(train=[("rex", 0, "cat/a.png"), ("rex", 1, "dog/b.png")])
    assert told == (
        "the same picture under two classes, 1 time: cat/a.png (cat) = dog/b.png (dog); keep each under one class"
    )
    (told,) = remarked(train=[("rex", 1, "7")], test=[("rex", 0, "cat/c.png")])  # and not as one in two splits
    assert "1 time: cat/c.png (cat) = image 7 in train (dog);" in told
    many = [(str(number), label, f"{label}/{number}.png") for number in range(5) for label in (0, 1)]
    (told,) = remarked(train=many)
    assert "two classes, 5 times: 0/0.png (cat) = 1/0.png (dog), 0/1.png (cat) = " in told
    assert "2/2.png" not in told
    assert ", ...; keep" in told


def test_a_picture_twice_in_a_class_is_told() -> None:
    (told,) = remarked(val=[("rex", 0, "cat/a.png"), ("rex", 0, "cat/a (1).png"), ("max", 0, "cat/b.png")])
    assert told == ("the same picture twice in one class of one split, 1 time: cat/a.png (cat) = cat/a (1).png (cat)")


def test_a_picture_in_two_splits_and_under_two_classes_is_told_as_both() -> None:
    told = remarked(train=[("rex", 0, "a"), ("rex", 1, "b")], test=[("rex", 0, "c"), ("max", 0, "d")])
    assert ["two classes" in told[0], told[1].startswith("1 of the 2 images in test is in train too")] == [True, True]
    assert len(told) == 2


def test_images_in_two_splits_are_told(tmp_path: Path) -> None:
    for split, seed in (("train", 0), ("val", 1), ("test", 2)):
        images = np.random.default_rng(seed).integers(0, 256, (20, 8, 8), dtype=np.uint8)
        for number, image in enumerate(images):
            folder = tmp_path / split / "ab"[number % 2]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / f"{number}.png")
    (tmp_path / "test" / "a" / "6.png").write_bytes((tmp_path / "train" / "a" / "4.png").read_bytes())
    (told,) = read_dataset(str(tmp_path), side=8).notes
    assert told.startswith("1 of the 20 images in test is in train too")


def test_published_sets_keep_their_split_and_statistics(tmp_path: Path) -> None:
    known = KNOWN["cifar-10"]
    images = np.random.default_rng(0).integers(0, 256, (11_000, 2, 2, 3), dtype=np.uint8)
    source = Source(
        classes=("a", "b"), pixels={"train": images, "test": images[:4]},
        labels={"train": np.arange(11_000) % 2, "test": np.arange(4) % 2},
        names={"train": numbered(11_000), "test": numbered(4)}, known="cifar-10",
    )  # fmt: skip
    dataset = read_dataset("cifar", side=2, source=Opened(2, lambda side, progress: source, 11_004))
    assert (len(dataset.train), len(dataset.val), len(dataset.test)) == (6000, 5000, 4)
    assert (dataset.mean, dataset.std, dataset.known) == (known.mean, known.std, known)


@pytest.mark.parametrize(
    ("name", "known"),
    [("uoft-cs/cifar10", "cifar-10"), ("cifar100", "cifar-100"), ("zh-plus/tiny-imagenet", "tiny-imagenet"),
     ("timm/oxford-iiit-pet", "pets"), ("someone/my-birds", ""), ("me/petals", ""), ("u/scars", "")],
)  # fmt: skip
def test_names_on_the_hub_mean_published_sets(name: str, known: str) -> None:
    assert known_as(name) == known


def test_fractions_that_leave_nothing_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"must leave images for training; got 0\.2 and 0\.85"):
        read_dataset("digits", side=8, test_fraction=0.85)


def test_reading_is_shown_and_the_range_is_told(tmp_path: Path) -> None:
    write_deep(tmp_path, values(400, 932).astype(np.uint16))
    ticks: list[int] = []
    read_dataset(str(tmp_path), side=8, progress=Calls(tick=ticks.append))
    assert len(ticks) == 40
    shown: list[tuple[str, dict[str, int]]] = []
    progress = Progress(quiet=True)
    with mock.patch.object(progress, "stage", lambda name, **totals: shown.append((name, totals))):
        plan, dataset = prepare(RunConfig(data=str(tmp_path), resolutions="12"), progress=progress)
    assert shown == [("read", {"images": 40})]
    told = dict(introduction(plan, dataset))["range"]
    assert told.startswith("of images deeper than 8 bits 400 becomes black and 932 white")
