"""Decoded images on disk: each image file is decoded once, and every later run and process reads its pixels.

Images are read with ``pread`` rather than through a memory map. Processes share the page cache all the same, but it is
not counted as their memory, and a file that is truncated meanwhile raises an error instead of ending the process.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import weakref
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import features

from nat2.data.decode import DECODER
from nat2.data.depth import DeepImage, Pixels
from nat2.data.facts import Facts
from nat2.data.record import ENTRY, channels_in, is_deep, size_of, sketch_in, unpack
from nat2.data.settings import DEFAULT_CACHE
from nat2.data.store import ADVICE, Decoded, Filling, Store, rows_of
from nat2.data.stream import StoredImages
from nat2.errors import DataError, RunError
from nat2.progress import FoundDone, Reporter

_FORMAT = 1  # of the files


@dataclass(frozen=True)
class Origin:
    """What a cache holds images of. Another folder, side or decoder has another cache."""

    place: str
    """Folder, or name on the hub."""
    side: int
    """Of the stored images, in pixels."""

    def folder_in(self, root: Path) -> Path:
        """Where the cache is."""
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(self.place).name).strip("-.")[:40] or "images"
        key = hashlib.sha256(json.dumps(self.described()).encode()).hexdigest()[:12]
        return root / f"{name}-{self.side}px-{key}"

    def described(self) -> dict[str, object]:
        """Everything but the images' content that decides about the pixels."""
        libraries = {name: features.version(name) for name in ("jpg", "libjpeg_turbo", "webp", "libtiff", "jpg_2000")}
        decoder = {"format": _FORMAT, "decoder": DECODER, "Pillow": PIL.__version__, "HEIF": _heif(), **libraries}
        return {"images": self.place, "side": self.side, "decoder": decoder}


def _heif() -> str | None:
    try:
        from pillow_heif import __version__
    except ImportError:
        return None
    return str(__version__)


def cache_root(chosen: str = DEFAULT_CACHE) -> Path:
    """The folder of all caches: the chosen one, or ``NAT2_CACHE``, or ``nat2`` in the user's cache folder."""
    if chosen != DEFAULT_CACHE:
        return Path(chosen)
    if os.environ.get("NAT2_CACHE"):
        return Path(os.path.expanduser(os.environ["NAT2_CACHE"]))
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "nat2"


def identity(name: str, version: str) -> int:
    """A number that tells this version of an image from all others in a cache."""
    return int.from_bytes(hashlib.blake2b(os.fsencode(f"{name}\0{version}"), digest_size=8).digest(), "little")


class CachedImages:
    """Images in a cache, by their index in a listing."""

    def __init__(self, folder: Path, side: int, entries: NDArray[Any], present: NDArray[np.bool_]) -> None:
        """Open the cache.

        Args:
            folder: The cache.
            side: Of its images.
            entries: Of each image of the listing.
            present: Whether the image could be read.
        """
        self._folder, self._side = folder, side
        self._entries = entries
        self._offsets, self._checksums, self._kinds = (
            np.ascontiguousarray(entries[name]) for name in ("offset", "checksum", "kind")
        )
        self.present = present
        """Whether each image could be read."""
        self._file = os.open(folder / "images.bin", os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)

    @property
    def folder(self) -> Path:
        """The cache."""
        return self._folder

    @property
    def size(self) -> int:
        """Bytes of all images in the cache."""
        return os.fstat(self._file).st_size

    @property
    def deep(self) -> NDArray[np.bool_]:
        """Which images are deeper than 8 bits."""
        return self.present & is_deep(self._kinds)

    @property
    def grey(self) -> bool:
        """Whether all images are grey."""
        return bool((channels_in(self._kinds)[self.present] == 1).all())

    def read(self, number: int) -> Pixels | DeepImage:
        """The image at an index, shape (side, side, channels).

        Raises:
            DataError: it is damaged; the cache is discarded.
        """
        return unpack(self._record(number), int(self._kinds[number]), self._side)

    def _record(self, number: int) -> bytes:
        size = size_of(int(self._kinds[number]), self._side)
        try:
            content = os.pread(self._file, size, int(self._offsets[number]))
        except OSError:  # the disk cannot read it
            content = b""
        if zlib.crc32(content) != int(self._checksums[number]):
            with contextlib.suppress(OSError):
                (self._folder / "index.bin").unlink(missing_ok=True)
            raise DataError(
                f"the image cache {self._folder} is damaged and was discarded; give the same command again to decode "
                "the images again and continue. If it happens again, check the disk or choose another with --cache"
            )
        return content

    def part(self, part: slice, channels: int) -> StoredImages:
        """A part of the images, numbered from 0, for splits with 1 or 3 channels."""
        entries, first = self._entries[part], part.start
        facts = Facts(entries["digest"], entries["sums"][:, :channels], entries["squares"][:, :channels])
        known = self.present[part] & (entries["kind"] == channels)  # others are scaled, or repeated in each channel
        sketches = {
            number: sketch_in(self._record(first + number), int(entries["kind"][number]))
            for number in np.flatnonzero(self.deep[part]).tolist()
        }
        return StoredImages(lambda number: self.read(first + number), sketches, facts, known)


def cached_images(
    root: Path, origin: Origin, identities: Sequence[int], decode: Callable[[int], Decoded], progress: Reporter
) -> tuple[CachedImages, Mapping[int, str]]:
    """Images from a cache; those that it lacks are decoded and added.

    Args:
        root: Folder of all caches.
        origin: Of the images.
        identities: Of each image.
        decode: Decodes the image at an index, or tells why it cannot be read; called by several threads at once.
        progress: A step is reported for each image.

    Returns:
        The images, and why others cannot be read, by index.

    Raises:
        RunError: the cache cannot be written, or there is not enough space for it.
    """
    folder, wanted, bad = origin.folder_in(root), np.array(identities, np.uint64), dict[int, str]()
    store = Store(folder, origin.side)
    try:
        entries = store.entries()
        rows = rows_of(entries, wanted)
        if (rows < 0).any() or store.damaged(entries):
            folder.mkdir(parents=True, exist_ok=True)
            with _locked(folder, progress):
                (folder / "about.json").write_text(json.dumps(origin.described(), indent=2))
                bad = Filling(store, wanted, decode, progress).run()
                entries = store.entries()
                rows = rows_of(entries, wanted)
        else:
            progress.step(FoundDone(len(wanted)))
        present = rows >= 0
        chosen = entries[np.where(present, rows, 0)] if len(entries) else np.zeros(len(wanted), ENTRY)
        return CachedImages(folder, origin.side, chosen, present), bad
    except OSError as error:
        raise _unusable(folder, error) from error


@contextlib.contextmanager
def _locked(folder: Path, progress: Reporter) -> Iterator[None]:
    """Let no other process write the cache; wait for one that does."""
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress.say(f"waiting for another process that decodes these images into {folder}")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _unusable(folder: Path, error: OSError) -> RunError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return RunError(
            f"the disk is full: the image cache {folder} could not be written, and what was added was removed; {ADVICE}"
        )
    return RunError(
        f"the image cache {folder} cannot be used ({error.strerror or error}); choose another folder with --cache, or "
        "decode the images whenever they are needed with --cache none, which is several times slower"
    )
