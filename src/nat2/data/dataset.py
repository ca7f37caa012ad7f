"""A labelled data set in memory: three splits of 8-bit images."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nat2.data.arrays import cifar, npz, side_of_arrays
from nat2.data.sources import Pixels, Source, digits, folder, side_of_files
from nat2.data.splits import stratified
from nat2.errors import DataError
from nat2.seeds import numpy_generator


@dataclass(frozen=True)
class Split:
    """Images of one split."""

    pixels: Tensor
    """8-bit values, shape (n, channels, side, side)."""
    labels: Tensor
    """Class indices, shape (n,)."""

    def __len__(self) -> int:
        return len(self.labels)

    def joined(self, other: Split) -> Split:
        """The images of both."""
        return Split(torch.cat([self.pixels, other.pixels]), torch.cat([self.labels, other.labels]))


@dataclass(frozen=True)
class Dataset:
    """Training, validation and test images, and what they have in common."""

    name: str
    classes: tuple[str, ...]
    train: Split
    val: Split
    test: Split
    mean: tuple[float, ...]
    """Mean of the training pixels by channel, of values in 0..1."""
    std: tuple[float, ...]
    """Standard deviation of the training pixels by channel, of values in 0..1."""
    fingerprint: str
    """SHA-256 of images, labels and classes; two data sets with the same one are the same."""
    flip: bool = True
    """Whether a mirrored image is as good as the original."""
    notes: tuple[str, ...] = ()
    """What a user should know about how the images were read."""

    @property
    def channels(self) -> int:
        """1 if all images are grey, else 3."""
        return self.train.pixels.shape[1]

    @property
    def side(self) -> int:
        """Side of the stored images, in pixels."""
        return self.train.pixels.shape[2]


_UNEQUAL = 3  # times as many images as another class has
_FEW = 10  # training images of a class


def read_dataset(
    data: str,
    *,
    side: int,
    seed: int = 0,
    val_fraction: float = 0.2,
    test_fraction: float = 0.2,
    skip_bad_images: bool = False,
) -> Dataset:
    """Read and split images.

    Args:
        data: ``digits``; a folder of class folders (optionally under train/, val/, test/); a ``.npz`` file of arrays;
            the binary version of CIFAR-10 or CIFAR-100, archive or folder.
        side: Side at which images are stored: the largest resolution that is searched.
        seed: Decides which images go to which split, where the folder does not.
        val_fraction: Share of the images (of those under train/, if it exists) for validation, unless there is val/.
        test_fraction: Share of the images (of those under train/, if it exists) for the test, unless there is test/.
        skip_bad_images: Leave unreadable images out instead of refusing the folder.

    Raises:
        DataError: the images cannot be used; the message says which and why.
    """
    source = _read(data, side, skip_bad_images)
    splits = _split(source, seed, val_fraction, test_fraction)
    train = splits["train"][0]
    mean, std = _statistics(train)
    digest = hashlib.sha256(repr((source.classes, side)).encode())
    for name in ("train", "val", "test"):
        pixels, labels = splits[name]
        digest.update(pixels.tobytes())
        digest.update(labels.tobytes())
    return Dataset(
        name=name_of(data),
        classes=source.classes,
        mean=mean,
        std=std,
        fingerprint=digest.hexdigest(),
        flip=source.flip,
        notes=(*source.notes, *remarks(splits, source.classes)),
        **{
            name: Split(torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))), torch.from_numpy(labels))
            for name, (pixels, labels) in splits.items()
        },
    )


def remarks(splits: Mapping[str, tuple[Pixels, NDArray[np.int64]]], classes: Sequence[str]) -> list[str]:
    """What a user should know of the splits: unequal and tiny classes, images that are in more than one split."""
    counts = np.bincount(splits["train"][1], minlength=len(classes))
    least, most = int(counts.argmin()), int(counts.argmax())
    found = []
    if counts[most] >= _UNEQUAL * counts[least]:
        found.append(
            f"classes differ in size: {counts[least]} training images of {classes[least]}, {counts[most]} of "
            f"{classes[most]}; accuracy counts images, not classes"
        )
    tiny = [f"{name} ({count})" for name, count in zip(classes, counts, strict=True) if count < _FEW]
    if tiny:
        found.append(f"fewer than {_FEW} training images of {', '.join(tiny[:10])}{', ...' * (len(tiny) > 10)}")
    digests = {name: [hashlib.blake2b(image.tobytes()).digest() for image in splits[name][0]] for name in splits}
    for earlier, later in (("train", "val"), ("train", "test"), ("val", "test")):
        known = set(digests[earlier])
        twice = sum(digest in known for digest in digests[later])
        if twice:
            found.append(
                f"{twice} of the {len(digests[later])} images in {later} are in {earlier} too, pixel by pixel; what is "
                f"measured on {later} is too good by that"
            )
    return found


def name_of(data: str) -> str:
    """What to call a data set: its folder's or file's name."""
    path = Path(data).resolve()
    return path.name.partition(".")[0] if path.is_file() else path.name


def native_side(data: str) -> int:
    """The usual length of the images' shorter sides, in pixels.

    Raises:
        DataError: the images cannot be used.
    """
    if data == "digits":
        return 8
    return side_of_arrays(Path(data)) or side_of_files(Path(data))


def _read(data: str, side: int, skip_bad_images: bool) -> Source:
    if data == "digits":
        return digits(side)
    path = Path(data)
    if path.suffix == ".npz":
        return npz(path, side=side)
    return cifar(path, side=side) or folder(path, side=side, skip_bad_images=skip_bad_images)


def _split(
    source: Source, seed: int, val_fraction: float, test_fraction: float
) -> dict[str, tuple[Pixels, NDArray[np.int64]]]:
    given = {name: (source.pixels[name], source.labels[name]) for name in source.pixels}
    absent = [name for name in ("val", "test") if name not in given]
    rest = "train" if "train" in given else "all"
    if rest not in given:
        raise DataError("none of the training images could be read")
    fractions = [{"val": val_fraction, "test": test_fraction}[name] for name in absent]
    pixels, labels = given.pop(rest)
    parts = stratified(labels, source.classes, fractions, numpy_generator(seed, "split"))
    given["train"] = (pixels[parts[0]], labels[parts[0]])
    for name, part in zip(absent, parts[1:], strict=True):
        given[name] = (pixels[part], labels[part])
    return given


def _statistics(pixels: Pixels) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation by channel, from a histogram: exact, and no copy in floating point."""
    values = np.arange(256) / 255
    means, deviations = [], []
    for channel in range(pixels.shape[3]):
        share = np.bincount(pixels[..., channel].ravel(), minlength=256) / pixels[..., channel].size
        mean = float(share @ values)
        means.append(mean)
        deviations.append(max(float(share @ (values - mean) ** 2) ** 0.5, 1e-3))
    return tuple(means), tuple(deviations)
