"""A data set in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from nat2.data import read_dataset
from nat2.data.dataset import remarks
from tests.data.test_sources import write_images


def test_digits_are_split_by_seed() -> None:
    first, again, other = (read_dataset("digits", side=12, seed=seed) for seed in (0, 0, 1))
    assert [len(s) for s in (first.train, first.val, first.test)] == [1079, 359, 359]
    assert first.fingerprint == again.fingerprint != other.fingerprint
    assert (first.channels, first.side, len(first.classes)) == (1, 12, 10)
    assert first.train.pixels.dtype == torch.uint8


def test_statistics_are_those_of_the_training_pixels() -> None:
    dataset = read_dataset("digits", side=12)
    pixels = dataset.train.pixels.double() / 255
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
    np.testing.assert_array_equal(joined.pixels[1079:], dataset.val.pixels)


def part(*labels: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    images = np.random.default_rng(seed).integers(0, 256, (len(labels), 4, 4, 1), dtype=np.uint8)
    return images, np.array(labels)


def test_unequal_and_tiny_classes_are_told() -> None:
    splits = {"train": part(*[0] * 30, *[1] * 9), "val": part(0, 1, seed=1), "test": part(0, 1, seed=2)}
    told = remarks(splits, ("cat", "dog"))
    assert len(told) == 2
    assert told[0].startswith("classes differ in size: 9 training images of dog, 30 of cat")
    assert told[1] == "fewer than 10 training images of dog (9)"
    equal = splits | {"train": part(*[0, 1] * 20)}
    assert remarks(equal, ("cat", "dog")) == []


def test_images_in_two_splits_are_told() -> None:
    train, test = part(*[0, 1] * 10), part(0, 1, 0, seed=1)
    test[0][1] = train[0][7]
    told = remarks({"train": train, "val": part(0, 1, seed=2), "test": test}, ("a", "b"))
    assert len(told) == 1
    assert told[0].startswith("1 of the 3 images in test are in train too")
