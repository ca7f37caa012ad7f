"""Images that stay on disk: read when a batch needs them, by threads that work ahead of the training loop."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nat2.data.depth import SIXTEEN_BITS, DeepImage, Pixels, Sketch, ValueRange
from nat2.data.facts import Facts, facts_of
from nat2.environment import available_cores

_AHEAD = 2  # batches that are prefetched
_CHUNK = 16 * 2**20  # bytes that are read at a time when all images are


@dataclass(frozen=True)
class StoredImages:
    """How to read images that are stored somewhere, by index."""

    read: Callable[[int], Pixels | DeepImage]
    """Returns the image at an index, shape (side, side, 1 or channels); called by several threads at once."""
    sketches: Mapping[int, Sketch | None] = field(default_factory=dict)
    """Of the images deeper than 8 bits, by index."""
    facts: Facts | None = None
    """Facts that are known without reading, by index."""
    known: NDArray[np.bool_] | None = None
    """Whether the facts about an image are known, by index."""


class StreamedPixels:
    """The images of a split with the interface of an array; indexing reads them."""

    def __init__(
        self,
        images: StoredImages,
        indices: NDArray[np.int64],
        side: int,
        channels: int,
        *,
        span: ValueRange = SIXTEEN_BITS,
    ) -> None:
        """Hold how to read the images, and no pixels.

        Args:
            images: How to read them.
            indices: Of the images of the split.
            side: Of the images.
            channels: Of the images.
            span: The range that is mapped to 8 bits.
        """
        self._images = images
        self._indices = indices
        self._side, self._channels = side, channels
        self._span = span

    def __len__(self) -> int:
        return len(self._indices)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(n, channels, side, side)."""
        return len(self), self._channels, self._side, self._side

    @property
    def nbytes(self) -> int:
        """Bytes that the pixels would take in memory."""
        return len(self) * self._channels * self._side**2

    def __getitem__(self, indices: Tensor) -> Tensor:
        """The images at some indices, 8-bit, shape (n, channels, side, side)."""
        return next(self.batches([indices]))

    def subset(self, part: NDArray[np.int64]) -> StreamedPixels:
        """The images of a part."""
        return StreamedPixels(self._images, self._indices[part], self._side, self._channels, span=self._span)

    @property
    def sketches(self) -> list[Sketch]:
        """Of the images that are deeper than 8 bits."""
        if not self._images.sketches:
            return []
        return [each for index in self._indices.tolist() if (each := self._images.sketches.get(index)) is not None]

    def scaled(self, span: ValueRange) -> StreamedPixels:
        """The same images, with those deeper than 8 bits mapped from a range."""
        return StreamedPixels(self._images, self._indices, self._side, self._channels, span=span)

    def joined(self, other: StreamedPixels) -> StreamedPixels:
        """The images of both."""
        count, ours, theirs = len(self), self._at, other._at
        numbers = np.arange(count + len(other))
        images = StoredImages(lambda number: ours(number) if number < count else theirs(number - count))
        return StreamedPixels(images, numbers, self._side, self._channels)

    def facts(self) -> Facts:
        """Facts about all images; those that are not known are found by reading the images."""
        found, unknown = Facts.empty(len(self), self._channels), np.arange(len(self))
        if self._images.facts is not None and self._images.known is not None:
            known = self._images.known[self._indices]
            found.put(np.flatnonzero(known), self._images.facts[self._indices[known]])
            unknown = np.flatnonzero(~known)
        parts = [torch.from_numpy(part) for part in self._chunks(unknown)]
        for part, images in zip(parts, self.batches(parts), strict=True):
            found.put(part.numpy(), facts_of(images.numpy()))
        return found

    def to(self, device: torch.device) -> Tensor:
        """All images on a device, shape (n, channels, side, side)."""
        held = torch.empty(self.shape, dtype=torch.uint8, device=device)
        first = 0
        for images in self.batches(torch.from_numpy(part) for part in self._chunks(np.arange(len(self)))):
            held[first : first + len(images)] = images.to(device)
            first += len(images)
        return held

    def _chunks(self, indices: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        size = max(1, _CHUNK // (self._channels * self._side**2))
        return [indices[first : first + size] for first in range(0, len(indices), size)]

    def batches(self, order: Iterable[Tensor]) -> Iterator[Tensor]:
        """The batches at the given indices, a few prefetched."""
        waiting: deque[tuple[Pixels, list[Future[None]]]] = deque()
        workers = available_cores()
        with ThreadPoolExecutor(workers) as pool:
            try:
                for indices in order:
                    numbers = indices.tolist()
                    batch: Pixels = np.empty((len(numbers), *self.shape[1:]), np.uint8)
                    parts = [range(first, len(numbers), workers) for first in range(min(workers, len(numbers)))]
                    waiting.append((batch, [pool.submit(self._fill, batch, numbers, part) for part in parts]))
                    if len(waiting) > _AHEAD:
                        yield _finished(*waiting.popleft())
                while waiting:
                    yield _finished(*waiting.popleft())
            finally:
                for future in (future for _, futures in waiting for future in futures):
                    future.cancel()

    def _fill(self, batch: Pixels, numbers: list[int], part: range) -> None:
        """Read every image of a part of a batch into its place."""
        for place in part:
            batch[place] = self._at(numbers[place]).transpose(2, 0, 1)

    def _at(self, number: int) -> Pixels:
        image = self._images.read(int(self._indices[number]))
        return image.scaled(self._span) if isinstance(image, DeepImage) else image


def _finished(batch: Pixels, futures: list[Future[None]]) -> Tensor:
    for future in futures:
        future.result()
    return torch.from_numpy(batch)
