"""The files of an image cache, which only ever grow: records of pixels in one, and an entry for each in the other.

A record is complete before its entry is written, so a process may be killed at any moment and the next one continues.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from nat2.data.depth import DeepImage, Pixels
from nat2.data.record import ENTRY, ends_of, pack, seal, size_of, sound
from nat2.data.threads import workers
from nat2.errors import RunError
from nat2.progress import FoundDone, Reporter

_CHUNK = 256  # records that are written at a time: at most as many images are lost if the process is killed
_SYNC = 256 * 2**20  # bytes after which the disk is told to keep what was written
_SAMPLE = 64  # records that are verified when a cache is opened; all are when they are read
_AHEAD = 1024  # images that are decoded ahead of the writing

Decoded = Pixels | DeepImage | str
"""An image, or why it cannot be read."""
_Packed = tuple[NDArray[Any], bytes]


class Store:
    """The files of a cache."""

    def __init__(self, folder: Path, side: int) -> None:
        """Name the files; they need not exist.

        Args:
            folder: The cache.
            side: Of its images, in pixels.
        """
        self.folder, self.side = folder, side
        self.data, self.index = folder / "images.bin", folder / "index.bin"

    def entries(self) -> NDArray[Any]:
        """The entries whose records are there, up to the first that a process did not finish writing."""
        try:
            content, length = self.index.read_bytes(), self.data.stat().st_size
        except FileNotFoundError:
            return np.zeros(0, ENTRY)
        found = np.frombuffer(content[: len(content) // ENTRY.itemsize * ENTRY.itemsize], ENTRY)
        good = sound(found)
        good[good] = ends_of(found[good], self.side) <= length
        return found if good.all() else found[: int(good.argmin())]

    def damaged(self, entries: NDArray[Any]) -> bool:
        """Whether one of a sample of the records, spread over all of them, is not what was written."""
        places = np.linspace(0, len(entries) - 1, min(_SAMPLE, len(entries))).astype(int)
        return not all(self._verified(entries[place]) for place in places)

    def without_torn_end(self, entries: NDArray[Any]) -> NDArray[Any]:
        """The entries up to the first whose record did not reach the disk before the machine stopped."""
        ends = ends_of(entries, self.side)
        first = int(np.searchsorted(ends, max(0, int(ends[-1]) - _SYNC))) if len(ends) else 0
        torn = (place for place in range(first, len(entries)) if not self._verified(entries[place]))
        return entries[: next(torn, len(entries))]

    def _verified(self, entry: Any) -> bool:
        with self.data.open("rb") as file:
            file.seek(int(entry["offset"]))
            return zlib.crc32(file.read(size_of(int(entry["kind"]), self.side))) == int(entry["checksum"])


def rows_of(entries: NDArray[Any], identities: NDArray[np.uint64]) -> NDArray[np.int64]:
    """The entry of each identity; -1 where there is none."""
    if not len(entries):
        return np.full(len(identities), -1)
    held = entries["identity"]
    order = np.argsort(held, kind="stable")
    places = order[np.searchsorted(held, identities, sorter=order).clip(max=len(held) - 1)]
    return np.where(held[places] == identities, places, -1)


class Filling:
    """Adds to a store the images that it lacks; for the process that holds the lock."""

    def __init__(
        self,
        store: Store,
        identities: NDArray[np.uint64],
        decode: Callable[[int], Decoded],
        progress: Reporter,
    ) -> None:
        """Look at what there is.

        Args:
            store: Files in a folder that exists.
            identities: Of all images that there should be.
            decode: Decodes the image at an index, or tells why it cannot be read; called by several threads at once.
            progress: A step is reported for each image.
        """
        self._store, self._identities, self._decode, self._progress = store, identities, decode, progress
        entries = store.entries()
        if store.damaged(entries):
            progress.say(f"the image cache {store.folder} is damaged: the images are decoded again")
            entries = entries[:0]
        entries = store.without_torn_end(entries)
        rows = rows_of(entries, identities)
        if 2 * np.unique(rows[rows >= 0]).size < len(entries):  # most are of images that are no more: begin again
            entries, rows = entries[:0], np.full(len(identities), -1)
        self._missing = np.flatnonzero(rows < 0).tolist()
        self._start = int(ends_of(entries, store.side).max()) if len(entries) else 0
        self._index_start = entries.nbytes
        self._end = self._synced = self._start
        self._pending: list[_Packed] = []

    def run(self) -> dict[int, str]:
        """Decode and write; returns why some images cannot be read, by index.

        Raises:
            OSError: the files cannot be written; they are as they were.
            RunError: there is not enough space; the files are as they were.
        """
        self._progress.step(FoundDone(len(self._identities) - len(self._missing)))
        store, bad = self._store, dict[int, str]()
        if not self._index_start:  # others may be reading the files that there are: they keep those
            store.index.unlink(missing_ok=True)
            store.data.unlink(missing_ok=True)
        try:
            with store.data.open("ab") as data, store.index.open("ab") as index:
                data.truncate(self._start)
                index.truncate(self._index_start)
                try:
                    for left, (number, found) in zip(_countdown(len(self._missing)), self._decoded(), strict=True):
                        if isinstance(found, str):
                            bad[number] = found
                        else:
                            self._pending.append(found)
                        if len(self._pending) == _CHUNK:
                            self._check_space(left)
                            self._write(data, index)
                        self._progress.step()
                finally:  # what was decoded before an interruption is kept
                    self._write(data, index)
                _sync(data, index)
        except (OSError, RunError):
            self._undo()
            raise
        return bad

    def _decoded(self) -> Iterator[tuple[int, _Packed | str]]:
        """The missing images in order, decoded ahead by threads."""
        waiting: deque[tuple[int, Future[_Packed | str]]] = deque()
        with workers() as pool:
            for number in self._missing:
                waiting.append((number, pool.submit(self._packed, number)))
                if len(waiting) > _AHEAD:
                    first, future = waiting.popleft()
                    yield first, future.result()
            for each, future in waiting:
                yield each, future.result()

    def _packed(self, number: int) -> _Packed | str:
        image = self._decode(number)
        return image if isinstance(image, str) else pack(image, int(self._identities[number]))

    def _check_space(self, left: int) -> None:
        """Refuse at the first chunk what will not fit, by the mean size of its records."""
        if self._end > self._start:
            return
        pending = sum(len(content) for _, content in self._pending)
        needed = pending + left * (pending // len(self._pending) + ENTRY.itemsize)
        free = shutil.disk_usage(self._store.folder).free
        if needed > free:
            raise RunError(
                f"the image cache {self._store.folder} needs {told_size(needed)}, and {told_size(free)} are free "
                f"there; {ADVICE}"
            )

    def _write(self, data: IO[bytes], index: IO[bytes]) -> None:
        if not self._pending:
            return
        pending, self._pending = self._pending, []
        entries, contents = np.concatenate([entry for entry, _ in pending]), [content for _, content in pending]
        sizes = np.array([len(content) for content in contents], np.uint64)
        entries["offset"] = self._end + np.cumsum(sizes) - sizes
        data.write(b"".join(contents))
        data.flush()
        index.write(seal(entries).tobytes())
        index.flush()
        self._end += int(sizes.sum())
        if self._end - self._synced > _SYNC:
            _sync(data, index)
            self._synced = self._end

    def _undo(self) -> None:
        """Leave the files as they were: what is on a full disk for nothing should go."""
        with contextlib.suppress(OSError):
            os.truncate(self._store.index, self._index_start)
            os.truncate(self._store.data, self._start)


def _countdown(count: int) -> range:
    return range(count - 1, -1, -1)


def _sync(*files: IO[bytes]) -> None:
    for file in files:
        os.fsync(file.fileno())


ADVICE = (
    "free some space, choose another folder with --cache, or decode the images whenever they are needed with --cache "
    "none, which is several times slower"
)


def told_size(size: int) -> str:
    """A number of bytes in readable form: ``1.2 GiB``."""
    for unit, power in (("GiB", 30), ("MiB", 20)):
        if size >= 2**power:
            return f"{size / 2**power:.1f} {unit}"
    return f"{size / 2**10:.1f} KiB"
