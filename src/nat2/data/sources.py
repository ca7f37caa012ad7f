"""Where images come from: the bundled digits, folders of class folders, Tiny ImageNet as downloaded."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nat2.data.cache import Origin, cache_root, cached_images, identity
from nat2.data.decode import read_square
from nat2.data.depth import DeepImage, Pixels, Sketch, UnscaledPixels, channels_of, joined
from nat2.data.formats import why_unreadable
from nat2.data.listing import Item, Listing, list_folder
from nat2.data.settings import DEFAULT_READING, NO_CACHE, Reading
from nat2.data.store import told_size
from nat2.data.stream import StoredImages, StreamedPixels
from nat2.data.threads import workers
from nat2.environment import available_memory
from nat2.errors import DataError
from nat2.progress import SILENT, Reporter
from nat2.wording import counted, first_few

_CHUNK = 1024  # images that are decoded at a time
_SMALL = 256 * 2**20  # bytes of pixels that are decoded at every start and kept in memory; more go to a cache


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
    reader: Callable[[int, Reporter], Source]
    """Reads the images at a side and reports a step for each."""
    count: int
    """Number of images."""

    def read(self, side: int, *, progress: Reporter = SILENT) -> Source:
        """Read the images at a side; a step is reported for each."""
        return self.reader(side, progress)


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


def open_listing(listing: Listing, reading: Reading = DEFAULT_READING) -> Opened:
    """Image files as a source; see `read_listing`."""

    def read(side: int, progress: Reporter) -> Source:
        return read_listing(listing, side=side, reading=reading, progress=progress)

    return Opened(_median_side(listing), read, listing.count)


def read_listing(
    listing: Listing, *, side: int, reading: Reading = DEFAULT_READING, progress: Reporter = SILENT
) -> Source:
    """Decode image files and keep the pixels: of small sets in memory, of others in a cache on disk, or nowhere.

    Every image is turned upright, resized to `side` along its shorter side and cropped to its centre square. Grey
    images stay grey if all are; palettes are resolved, transparent parts become white. Images deeper than 8 bits keep
    their values until the range of the training images is known.

    Args:
        listing: The files.
        side: Of the result, in pixels.
        reading: Whether to leave unreadable images out, and where pixels are kept.
        progress: A step is reported for each image.

    Raises:
        DataError: images cannot be read and are not to be left out (all of them are listed), or no image of a class
            can be read.
        RunError: the cache cannot be written.
    """
    in_memory = fits(listing.count, side, reading.memory)
    if reading.cache != NO_CACHE and not (in_memory and listing.count * 3 * side**2 <= _SMALL):
        decoded = _cached(listing, side, reading.cache, progress)
    else:
        decoded = _decode(listing, side, keep=in_memory, progress=progress)
    bad, count, deep = decoded.bad, sum(map(len, decoded.good.values())), decoded.deep
    notes = list(listing.notes)
    if bad and not reading.skip_bad_images:
        them = "it" if len(bad) == 1 else "them"
        raise DataError(
            f"{counted(len(bad), 'image')} cannot be read; replace or delete {them}, or leave {them} out with "
            "--skip-bad-images:\n  " + "\n  ".join(bad)
        )
    if bad:
        _check_left(listing, decoded.good)
        notes.append(f"{counted(len(bad), 'image')} cannot be read, left out: {first_few(bad, 5)}")
    if 0 < deep < count:
        notes.append(
            f"{deep} of the {count} images {'is' if deep == 1 else 'are'} deeper than 8 bits: such values are scaled "
            "by the range of those among the training images, while 8-bit images keep theirs"
        )
    if decoded.note:
        notes.append(decoded.note)
    held = [split for split, good in decoded.good.items() if good]
    return Source(
        classes=listing.classes,
        pixels={split: decoded.pixels[split] for split in held},
        labels={
            split: np.array([listing.items[split][number][1] for number in decoded.good[split]], dtype=np.int64)
            for split in held
        },
        names={split: [listing.names[split][number] for number in decoded.good[split]] for split in held},
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
    """The images of a listing after each was decoded once."""

    bad: Sequence[str]
    """Names of the images that cannot be read, with the reason."""
    good: Mapping[str, Sequence[int]]
    """By split, the indices of the images that can be read."""
    deep: int
    """How many of them are deeper than 8 bits."""
    pixels: Mapping[str, Pixels | UnscaledPixels | StreamedPixels]
    """By split, the images that can be read."""
    note: str = ""
    """What a user should know about where they are."""


def _decode(listing: Listing, side: int, *, keep: bool, progress: Reporter) -> _Decoded:
    """Decode the images, and keep them in memory or only see whether they can be read."""
    bad: list[str] = []
    good: dict[str, list[int]] = {split: [] for split in listing.items}
    sketches: dict[str, dict[int, Sketch | None]] = {split: {} for split in listing.items}
    images: dict[str, list[Pixels | DeepImage]] = {split: [] for split in listing.items}
    channels = 1
    for split, items in listing.items.items():
        with workers() as pool:
            for first in range(0, len(items), _CHUNK):  # in chunks, so that images that are only checked do not pile up
                results = pool.map(lambda item: _try_decode(item[0], side), items[first : first + _CHUNK])
                for number, result in enumerate(results, start=first):
                    progress.step()
                    if isinstance(result, str):
                        bad.append(f"{listing.names[split][number]}: {result}")
                        continue
                    if isinstance(result, DeepImage):
                        sketches[split][number] = result.sketch
                    channels = max(channels, channels_of(result))
                    good[split].append(number)
                    if keep:
                        images[split].append(result)
    pixels: dict[str, Pixels | UnscaledPixels | StreamedPixels] = {}
    for split, numbers in good.items():
        if keep and numbers:
            pixels[split] = joined(images[split], side, channels)
        elif numbers:
            stored = StoredImages(partial(_read_item, listing, split, side), sketches[split])
            pixels[split] = StreamedPixels(stored, np.array(numbers), side, channels)
    note = "" if keep else "the images do not fit into --memory and are decoded whenever they are needed"
    return _Decoded(bad, good, sum(map(len, sketches.values())), pixels, note)


def _cached(listing: Listing, side: int, cache: str, progress: Reporter) -> _Decoded:
    """Decode the images that are not in the cache yet."""
    splits = list(listing.items)
    items = [item for split in splits for item, _ in listing.items[split]]
    names = [name for split in splits for name in listing.names[split]]
    versions = [_version(item, listing.versions.get(split, "")) for split in splits for item, _ in listing.items[split]]
    images, why = cached_images(
        cache_root(cache),
        Origin(listing.origin, side),
        [identity(name, version) for name, version in zip(names, versions, strict=True)],
        lambda number: _try_decode(items[number], side),
        progress,
    )
    progress.say(f"decoded images: {images.folder} ({told_size(images.size)})")
    bounds = pairwise(accumulate((len(listing.items[split]) for split in splits), initial=0))
    parts = {split: slice(first, last) for split, (first, last) in zip(splits, bounds, strict=True)}
    good = {split: np.flatnonzero(images.present[part]) for split, part in parts.items()}
    channels = 1 if images.grey else 3
    return _Decoded(
        bad=[f"{names[number]}: {reason}" for number, reason in why.items()],
        good={split: numbers.tolist() for split, numbers in good.items()},
        deep=int(images.deep.sum()),
        pixels={
            split: StreamedPixels(images.part(part, channels), good[split], side, channels)
            for split, part in parts.items()
        },
    )


def _version(item: Item, otherwise: str) -> str:
    """What changes when an image file is written anew."""
    if not isinstance(item, Path):
        return otherwise
    try:
        status = os.stat(item)
    except OSError:  # reported when the image is decoded
        return ""
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"


def _read_item(listing: Listing, split: str, side: int, number: int) -> Pixels | DeepImage:
    result = _try_decode(listing.items[split][number][0], side)
    if isinstance(result, str):
        name = listing.names[split][number]
        raise DataError(f"{name} could be read when the run began and can no longer be: {result}")
    return result


def folder(root: Path, *, side: int, reading: Reading = DEFAULT_READING) -> Source:
    """Read a folder of class folders, optionally under ``train/``, ``val/`` and ``test/``; see `read_listing`.

    Raises:
        DataError: the folder is missing or empty, has one class only, its splits have different classes, or images
            cannot be read.
    """
    return read_listing(list_folder(root), side=side, reading=reading)


def fits(count: int, side: int, memory: float | None) -> bool:
    """Whether `count` colour images at a side fit into `memory` GiB, by default half of what is available.

    Up to four copies exist while they are read and split, and each process of a machine holds its own.
    """
    limit = available_memory() / 2 if memory is None else memory * 2**30
    return 4 * count * side**2 * 3 * int(os.environ.get("LOCAL_WORLD_SIZE", "1")) <= limit


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
