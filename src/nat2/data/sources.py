"""Where images come from: the bundled digits, folders of class folders, Tiny ImageNet as downloaded."""

from __future__ import annotations

import contextlib
import io
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nat2.data.decode import read_square
from nat2.data.depth import DeepImage, Pixels, Sketch, UnscaledPixels, channels_of, joined
from nat2.data.formats import why_unreadable
from nat2.data.listing import Item, Listing, list_folder
from nat2.data.stream import StreamedPixels
from nat2.environment import available_cores
from nat2.errors import DataError
from nat2.wording import counted, first_few

_CHUNK = 1024  # images that are decoded at a time


@dataclass(frozen=True)
class Source:
    """Images as read, before they are split: everything, or by the split that they came in."""

    classes: tuple[str, ...]
    pixels: Mapping[str, Pixels | UnscaledPixels | StreamedPixels]
    """By split name (``all`` if the source has no splits), shape (n, side, side, channels)."""
    labels: Mapping[str, NDArray[np.int64]]
    """By split name, shape (n,)."""
    names: Mapping[str, Sequence[str]]
    """By split name, the name of each image in the source: its file, or its number."""
    notes: tuple[str, ...] = ()
    """What a user should know about how the images were read."""
    flip: bool = True
    """Whether a mirrored image is as good as the original."""
    known: str = ""
    """Name of a published data set (`KNOWN`)."""


@dataclass(frozen=True)
class Opened:
    """A source that was found and can be read."""

    side: int
    """Median length of the images' shorter sides, in pixels."""
    reader: Callable[[int, Callable[[], object]], Source]
    """Reads the images at a side and calls its second argument after each."""
    count: int
    """Number of images."""

    def read(self, side: int, *, tick: Callable[[], object] = lambda: None) -> Source:
        """Read the images at a side; `tick` is called after each."""
        return self.reader(side, tick)


def digits(side: int, *, memory: float | None = None) -> Source:
    """The 1,797 real 8x8 digits that scikit-learn bundles, enlarged to `side`.

    Raises:
        DataError: they do not fit into `memory` GiB (`fits`).
    """
    from sklearn.datasets import load_digits

    if not fits(1797, side, memory):
        raise DataError(f"the digits at {side} x {side} pixels do not fit into --memory; use smaller --resolutions")

    bunch = load_digits()
    images = (bunch.images * (255 / 16)).round().astype(np.uint8)
    enlarged = [np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC)) for image in images]
    return Source(
        classes=tuple(map(str, bunch.target_names)),
        pixels={"all": np.stack(enlarged)[..., None]},
        labels={"all": bunch.target.astype(np.int64)},
        names={"all": numbered(len(images))},
        flip=False,
    )


def numbered(count: int) -> tuple[str, ...]:
    """Numbers as names, for images without names."""
    return tuple(map(str, range(count)))


def open_listing(listing: Listing, *, skip_bad_images: bool = False, memory: float | None = None) -> Opened:
    """Image files as a source; see `read_listing`."""

    def read(side: int, tick: Callable[[], object]) -> Source:
        return read_listing(listing, side=side, skip_bad_images=skip_bad_images, memory=memory, tick=tick)

    return Opened(_median_side(listing), read, listing.count)


def read_listing(
    listing: Listing,
    *,
    side: int,
    skip_bad_images: bool = False,
    memory: float | None = None,
    tick: Callable[[], object] = lambda: None,
) -> Source:
    """Decode image files; if they do not fit into memory, check them and leave them on disk.

    Every image is turned upright, resized to `side` along its shorter side and cropped to its centre square. Grey
    images stay grey if all are; palettes are resolved, transparent parts become white. Images deeper than 8 bits keep
    their values until the range of the training images is known.

    Args:
        listing: The files.
        side: Of the result, in pixels.
        skip_bad_images: Leave unreadable images out.
        memory: GiB that the images may take (`fits`).
        tick: Called after each image.

    Raises:
        DataError: images cannot be read and `skip_bad_images` is not set (all of them are listed), or no image of a
            class can be read.
    """
    stream = not fits(listing.count, side, memory)
    decoded = _decode(listing, side, keep=not stream, tick=tick)
    bad, deep = decoded.bad, sum(map(len, decoded.sketches.values()))
    if bad and not skip_bad_images:
        them = "it" if len(bad) == 1 else "them"
        raise DataError(
            f"{counted(len(bad), 'image')} cannot be read; replace or delete {them}, or leave {them} out with "
            "--skip-bad-images:\n  " + "\n  ".join(bad)
        )
    if bad:
        _check_left(listing, decoded.good)
    notes = list(listing.notes)
    if bad:
        notes.append(f"{counted(len(bad), 'image')} cannot be read, left out: {first_few(bad, 5)}")
    count = sum(map(len, decoded.good.values()))
    if 0 < deep < count:
        notes.append(
            f"{deep} of the {count} images {'is' if deep == 1 else 'are'} deeper than 8 bits: such values are scaled "
            "by the range of those among the training images, while 8-bit images keep theirs"
        )
    if stream:
        notes.append("the images do not fit into --memory and are decoded when they are needed")
    pixels = {split: _pixels(listing, decoded, split, side, stream) for split, good in decoded.good.items() if good}
    return Source(
        classes=listing.classes,
        pixels=pixels,
        labels={
            split: np.array([listing.items[split][number][1] for number in decoded.good[split]], dtype=np.int64)
            for split in pixels
        },
        names={split: [listing.names[split][number] for number in decoded.good[split]] for split in pixels},
        notes=tuple(notes),
        known=listing.known,
    )


def _check_left(listing: Listing, good: Mapping[str, Sequence[int]]) -> None:
    """Refuse to leave out all images of a class in a split."""
    lost = [
        listing.classes[label] if split == "all" else f"{listing.classes[label]} in {split}"
        for split, items in listing.items.items()
        for label in sorted({label for _, label in items} - {items[number][1] for number in good[split]})
    ]
    if lost:
        raise DataError(
            f"no image can be read of {first_few(lost, 10)}, and the class would be lost; "
            "replace the images, or delete the class"
        )


@dataclass(frozen=True)
class _Decoded:
    """The decoded images of a listing; all but the first two fields by split."""

    bad: list[str]
    """Names of the images that cannot be read, with the reason."""
    grey: bool
    """Whether all are grey."""
    good: Mapping[str, list[int]]
    """Indices of the images that can be read."""
    sketches: Mapping[str, dict[int, Sketch | None]]
    """Of the images deeper than 8 bits, by index."""
    images: Mapping[str, list[Pixels | DeepImage]]
    """The images that can be read; empty if they are not kept."""


def _decode(listing: Listing, side: int, *, keep: bool, tick: Callable[[], object]) -> _Decoded:
    bad: list[str] = []
    good: dict[str, list[int]] = {split: [] for split in listing.items}
    sketches: dict[str, dict[int, Sketch | None]] = {split: {} for split in listing.items}
    images: dict[str, list[Pixels | DeepImage]] = {split: [] for split in listing.items}
    grey = True
    for split, items in listing.items.items():
        with _workers() as pool:
            for first in range(0, len(items), _CHUNK):  # in chunks, so that images that are only checked do not pile up
                results = pool.map(lambda item: _try_decode(item[0], side), items[first : first + _CHUNK])
                for number, result in enumerate(results, start=first):
                    tick()
                    if isinstance(result, str):
                        bad.append(f"{listing.names[split][number]}: {result}")
                        continue
                    if isinstance(result, DeepImage):
                        sketches[split][number] = result.sketch
                    grey = grey and channels_of(result) == 1
                    good[split].append(number)
                    if keep:
                        images[split].append(result)
    return _Decoded(bad, grey, good, sketches, images)


@contextlib.contextmanager
def _workers() -> Iterator[ThreadPoolExecutor]:
    """A thread pool; work that has not begun is cancelled when the program is interrupted."""
    pool = ThreadPoolExecutor(available_cores())
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _pixels(
    listing: Listing, decoded: _Decoded, split: str, side: int, stream: bool
) -> Pixels | UnscaledPixels | StreamedPixels:
    """The images of a split, before the split into training, validation and test."""
    channels = 1 if decoded.grey else 3
    if stream:
        reader, numbers = partial(_read_item, listing.items[split], listing.names[split], side), decoded.good[split]
        return StreamedPixels(reader, np.array(numbers), side, channels, sketches=decoded.sketches[split])
    return joined(decoded.images[split], side, channels)


def _read_item(items: Sequence[tuple[Item, int]], names: Sequence[str], side: int, number: int) -> Pixels | DeepImage:
    result = _try_decode(items[number][0], side)
    if isinstance(result, str):
        raise DataError(f"{names[number]} could be read when the run began and can no longer be: {result}")
    return result


def folder(root: Path, *, side: int, skip_bad_images: bool = False, memory: float | None = None) -> Source:
    """Read a folder of class folders, optionally under ``train/``, ``val/`` and ``test/``; see `read_listing`.

    Raises:
        DataError: the folder is missing or empty, has one class only, its splits have different classes, or images
            cannot be read.
    """
    return read_listing(list_folder(root), side=side, skip_bad_images=skip_bad_images, memory=memory)


def fits(count: int, side: int, memory: float | None) -> bool:
    """Whether `count` colour images at a side fit into `memory` GiB, by default half of the machine's.

    Up to four copies exist while they are read and split, and each process of a machine holds its own.
    """
    if memory is None:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30 / 2
    return 4 * count * side**2 * 3 * int(os.environ.get("LOCAL_WORLD_SIZE", "1")) <= memory * 2**30


def _try_decode(item: Item, side: int) -> Pixels | DeepImage | str:
    """The decoded image, or why it cannot be read."""
    try:
        return read_square(item if isinstance(item, Path) else item(), side)
    except Exception as error:  # Pillow may raise anything on damaged files
        return why_unreadable(item if isinstance(item, Path) else None, error)


def _median_side(listing: Listing) -> int:
    """Median length of the images' shorter sides, in pixels, from the headers of at most a thousand files."""
    items = [item for items in listing.items.values() for item, _ in items]
    sides = []
    for item in items[:: max(1, len(items) // 1000)]:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                with Image.open(item if isinstance(item, Path) else io.BytesIO(item())) as image:
                    sides.append(min(image.size))
        except Exception:  # reported when the image is decoded
            continue
    return int(np.median(sides)) if sides else 64
