"""A labelled data set: three splits of 8-bit images, in memory or decoded on demand."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nat2.data.arrays import open_cifar, open_npz
from nat2.data.depth import SIXTEEN_BITS, Pixels, UnscaledPixels, ValueRange
from nat2.data.facts import Facts, constant_values, facts_of, repeated, statistics_of
from nat2.data.hub import list_hub
from nat2.data.known import KNOWN, Known
from nat2.data.listing import Listing, list_folder, list_tiny_imagenet
from nat2.data.settings import DEFAULT_READING, Reading
from nat2.data.sources import Opened, Source, digits, open_listing
from nat2.data.splits import stratified
from nat2.data.stream import StreamedPixels
from nat2.data.transfer import to_device
from nat2.errors import ConfigError, DataError
from nat2.progress import SILENT, Reporter
from nat2.seeds import numpy_generator
from nat2.wording import counted, first_few


@dataclass(frozen=True)
class Split:
    """Images of one split."""

    pixels: Tensor | StreamedPixels
    """8-bit values, shape (n, channels, side, side)."""
    labels: Tensor
    """Class indices, shape (n,)."""
    names: Sequence[str] = ()
    """Name of each image in its source."""
    balanced: bool = False
    """Whether training draws every class equally often, however many images it has."""
    kept_labels: Tensor | None = None
    """A copy of the labels on the CPU where `labels` are on a GPU, which would have to be waited for."""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def host_labels(self) -> Tensor:
        """The labels on the CPU."""
        return self.labels.cpu() if self.kept_labels is None else self.kept_labels

    def batches(self, order: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Images and labels of each batch, given its indices."""
        if isinstance(self.pixels, Tensor):
            for indices in order:
                chosen = to_device(indices, self.pixels.device)
                yield self.pixels[chosen], self.labels[chosen]
        else:
            listed = list(order)
            yield from zip(self.pixels.batches(listed), (self.labels[indices] for indices in listed), strict=True)

    def part(self, indices: Tensor) -> Split:
        """Some of the images, in memory."""
        names = [self.names[number] for number in indices.tolist()] if self.names else ()
        kept = None if self.kept_labels is None else self.kept_labels[indices]
        return replace(self, pixels=self.pixels[indices], labels=self.labels[indices], names=names, kept_labels=kept)

    def spread(self, count: int) -> Split:
        """At most `count` images, evenly spread over the split, in memory."""
        if count >= len(self) and isinstance(self.pixels, Tensor):
            return self
        return self.part(torch.linspace(0, len(self) - 1, min(count, len(self))).round().long())

    def resident(self, device: torch.device) -> Split:
        """The split with its images on `device`, if that is a GPU with room: at most a quarter of its free memory."""
        if device.type != "cuda" or (isinstance(self.pixels, Tensor) and self.pixels.device.type == "cuda"):
            return self
        if self.pixels.nbytes > _GPU_SHARE * torch.cuda.mem_get_info(device)[0]:
            return self
        return replace(self, pixels=self.pixels.to(device), labels=self.labels.to(device), kept_labels=self.host_labels)

    def joined(self, other: Split) -> Split:
        """The images of both, drawn as those of this split."""
        labels = torch.cat([self.labels, other.labels.to(self.labels.device)])
        kept = None if self.kept_labels is None else torch.cat([self.kept_labels, other.host_labels])
        names = [*self.names, *other.names]
        pixels: Tensor | StreamedPixels
        if isinstance(self.pixels, Tensor):
            pixels = torch.cat([self.pixels, other.pixels.to(self.pixels.device)])
        else:
            assert isinstance(other.pixels, StreamedPixels)  # of a data set all splits are, or none
            pixels = self.pixels.joined(other.pixels)
        return replace(self, pixels=pixels, labels=labels, names=names, kept_labels=kept)


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
    """SHA-256 of images, labels and classes: equal for equal data sets."""
    flip: bool = True
    """Whether a mirrored image is as good as the original."""
    notes: tuple[str, ...] = ()
    """What a user should know about how the images were read."""
    known: Known | None = None
    """What was published for the data set."""
    span: ValueRange | None = None
    """The values that became 0 and 255 in images deeper than 8 bits; None if there are no such images."""

    @property
    def channels(self) -> int:
        """1 if all images are grey, else 3."""
        return self.train.pixels.shape[1]

    @property
    def side(self) -> int:
        """Side of the stored images, in pixels."""
        return self.train.pixels.shape[2]


DEFAULT_VAL = 0.2
UNEQUAL = 3
"""Ratio of class sizes from which on the classes are strongly imbalanced, which is reported."""
_GPU_SHARE = 0.25  # of the free GPU memory that a split may take
_FEW = 10  # a class with fewer training images is reported
_LEAKS = (("train", "val"), ("train", "test"), ("val", "test"))  # trained on or selected by, measured on


def read_dataset(
    data: str,
    *,
    side: int,
    source: Opened | None = None,
    seed: int = 0,
    val_fraction: float | None = None,
    test_fraction: float = 0.2,
    reading: Reading = DEFAULT_READING,
    progress: Reporter = SILENT,
) -> Dataset:
    """Read and split images.

    Args:
        data: ``digits``; a folder of class folders (optionally under train/, val/, test/); a ``.npz`` file of arrays;
            CIFAR-10 or CIFAR-100 as downloaded, archive or folder; Tiny ImageNet's folder; ``hub:NAME``.
        source: The same, if it was opened before.
        side: Side at which images are stored: the largest resolution that is searched.
        seed: Decides which images go to which split, where the folder does not.
        val_fraction: Share of the images (of those under train/, if it exists) for validation, unless there is val/;
            by default what was published for the data set, or 0.2.
        test_fraction: Share of the images (of those under train/, if it exists) for the test, unless there is test/.
        reading: How image files are read, and where their pixels are kept; of no use with `source`.
        progress: A step is reported for each image.

    Raises:
        DataError: the images cannot be used; the message says which and why.
        RunError: the images do not fit into memory, and the cache cannot be written.
    """
    opened = source or open_source(data, reading)
    read = opened.read(side, progress=progress)
    known = KNOWN.get(read.known)
    treated = (f"recognised as {read.known}: split, crops and further augmentation are as published",) if known else ()
    divided = _split(read, seed, val_fraction, test_fraction, known)
    span = _span({name: pixels for name, (pixels, _, _) in divided.items()})
    splits = {
        name: Split(_as_tensor(pixels, span or SIXTEEN_BITS), torch.from_numpy(labels), names)
        for name, (pixels, labels, names) in divided.items()
    }
    facts = {name: _facts(split.pixels) for name, split in splits.items()}
    _refuse_constant(facts["train"], side**2, data)
    mean, std = (known.mean, known.std) if known is not None and known.mean else statistics_of(facts["train"], side**2)
    digests = {name: each.digests for name, each in facts.items()}
    fingerprint = hashlib.sha256(repr((read.classes, side)).encode())
    for name in ("train", "val", "test"):
        fingerprint.update(digests[name].tobytes())
        fingerprint.update(splits[name].labels.numpy().tobytes())
    return Dataset(
        name=name_of(data),
        classes=read.classes,
        mean=mean,
        std=std,
        fingerprint=fingerprint.hexdigest(),
        flip=read.flip,
        notes=(*read.notes, *treated, *remarks(splits, digests, read.classes)),
        known=known,
        span=span,
        train=splits["train"],
        val=splits["val"],
        test=splits["test"],
    )


def _facts(pixels: Tensor | StreamedPixels) -> Facts:
    return facts_of(pixels.numpy()) if isinstance(pixels, Tensor) else pixels.facts()


def remarks(splits: Mapping[str, Split], digests: Mapping[str, NDArray[np.uint8]], classes: Sequence[str]) -> list[str]:
    """What a user should know about the splits: unequal and tiny classes, duplicate pictures.

    Args:
        splits: By name.
        digests: Of the images of each split, shape (n, 64).
        classes: Their names.
    """
    counts = np.bincount(splits["train"].labels.numpy(), minlength=len(classes))
    least, most = int(counts.argmin()), int(counts.argmax())
    found = []
    if counts[most] >= UNEQUAL * counts[least]:
        found.append(
            f"classes differ in size: {counts[least]} training images of {classes[least]}, {counts[most]} of "
            f"{classes[most]}; accuracy counts images, balanced accuracy classes"
        )
    tiny = [f"{name} ({count})" for name, count in zip(classes, counts, strict=True) if count < _FEW]
    if tiny:
        found.append(f"fewer than {_FEW} training images of {first_few(tiny, 10)}")
    return found + _repeated(splits, digests, classes)


def _repeated(
    splits: Mapping[str, Split], digests: Mapping[str, NDArray[np.uint8]], classes: Sequence[str]
) -> list[str]:
    """Notes on images that are equal pixel by pixel as stored."""
    named = list(digests)
    groups = [[(named[part], number) for part, number in group] for group in repeated(list(digests.values()))]
    labels = {split: each.labels.tolist() for split, each in splits.items()}

    def called(place: tuple[str, int]) -> str:
        split, number = place
        name = splits[split].names[number] if splits[split].names else str(number)
        return f"{f'image {name} in {split}' if name.isdigit() else name} ({classes[labels[split][number]]})"

    contradicting, copies = [], []
    leaks: Counter[tuple[str, str]] = Counter()
    for group in groups:
        first_of = {labels[split][number]: (split, number) for split, number in reversed(group)}
        if len(first_of) > 1:
            contradicting.append(" = ".join(called(place) for _, place in sorted(first_of.items())))
        seen: dict[tuple[str, int], tuple[str, int]] = {}
        for split, number in group:
            label = labels[split][number]
            if (split, label) in seen:
                copies.append(f"{called(seen[split, label])} = {called((split, number))}")
            seen.setdefault((split, label), (split, number))
        for earlier, later in _LEAKS:
            leaks[earlier, later] += sum(
                split == later and (earlier, labels[split][number]) in seen for split, number in group
            )
    found = []
    if contradicting:
        found.append(
            f"the same picture under two classes, {counted(len(contradicting), 'time')}: "
            f"{first_few(contradicting, 3)}; keep each under one class"
        )
    if copies:
        found.append(
            f"the same picture twice in one class of one split, {counted(len(copies), 'time')}: {first_few(copies, 3)}"
        )
    return found + [
        f"{leaks[earlier, later]} of the {counted(len(digests[later]), 'image')} in {later} "
        f"{'is' if leaks[earlier, later] == 1 else 'are'} in {earlier} too, pixel by pixel; "
        f"accuracy on {later} is overestimated accordingly"
        for earlier, later in _LEAKS
        if leaks[earlier, later]
    ]


def name_of(data: str) -> str:
    """Name of a data set: that of its folder or file."""
    if data.startswith("hub:"):
        return data.removeprefix("hub:").replace("/", "-").replace(":", "-")
    path = Path(data).resolve()
    return path.name.partition(".")[0] if path.is_file() else path.name


def open_source(data: str, reading: Reading = DEFAULT_READING) -> Opened:
    """Find the images without reading all of them.

    Args:
        data: See `read_dataset`.
        reading: How image files are read, and where their pixels are kept.

    Raises:
        DataError: the images cannot be used.
    """
    if data == "digits":
        return Opened(8, lambda side, progress: digits(side, memory=reading.memory), 1797)
    listing: Listing | None
    if data.startswith("hub:"):
        listing = list_hub(data.removeprefix("hub:"))
    else:
        path = Path(data)
        if path.suffix == ".npz":
            return open_npz(path, memory=reading.memory)
        cifar = open_cifar(path, memory=reading.memory)
        if cifar is not None:
            return cifar
        listing = list_tiny_imagenet(path) or list_folder(path)
    return open_listing(listing, reading)


_Held = Pixels | UnscaledPixels | StreamedPixels


def _split(
    source: Source, seed: int, val_fraction: float | None, test_fraction: float, known: Known | None
) -> dict[str, tuple[_Held, NDArray[np.int64], Sequence[str]]]:
    """Images, labels and names by split."""
    given = {name: (source.pixels[name], source.labels[name], source.names[name]) for name in source.pixels}
    absent = [name for name in ("val", "test") if name not in given]
    rest = "train" if "train" in given else "all"
    if rest not in given:
        raise DataError("none of the training images could be read")
    pixels, labels, names = given.pop(rest)
    if val_fraction is None:
        val_fraction = _published_val(known, len(labels))
    fractions = [{"val": val_fraction, "test": test_fraction}[name] for name in absent]
    if sum(fractions) >= 1:
        raise ConfigError(
            "--val_fraction and --test_fraction must leave images for training; got "
            f"{val_fraction:g} and {test_fraction:g}"
        )
    parts = stratified(labels, source.classes, fractions, numpy_generator(seed, "split"))
    for name, part in zip(("train", *absent), parts, strict=True):
        given[name] = (_subset(pixels, part), labels[part], [names[number] for number in part])
    return given


def _span(pixels: Mapping[str, _Held]) -> ValueRange | None:
    """The range of the training images that are deeper than 8 bits; None if no image of any split is."""
    sketches = {name: each.sketches for name, each in pixels.items() if not isinstance(each, np.ndarray)}
    return ValueRange.of(sketches.get("train", ())) or (SIXTEEN_BITS if any(sketches.values()) else None)


def _refuse_constant(facts: Facts, size: int, data: str) -> None:
    """Refuse constant training images of `size` pixels."""
    values = constant_values(facts, size)
    if values is not None:
        raise DataError(
            f"every pixel of the training images in {data} has the same value ({', '.join(map(str, values))}); there "
            "is nothing to learn. Look at the images with a program that shows their values"
        )


def _published_val(known: Known | None, count: int) -> float:
    """The published share for validation, unless there are too few images for it."""
    if known is None or known.val is None:
        return DEFAULT_VAL
    share = known.val if known.val < 1 else known.val / count
    return share if share < 0.5 else DEFAULT_VAL


def _subset(pixels: _Held, part: NDArray[np.int64]) -> _Held:
    return pixels[part] if isinstance(pixels, np.ndarray) else pixels.subset(part)


def _as_tensor(pixels: _Held, span: ValueRange) -> Tensor | StreamedPixels:
    if isinstance(pixels, StreamedPixels):
        return pixels.scaled(span)
    if isinstance(pixels, UnscaledPixels):
        pixels = pixels.scaled(span)
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))
