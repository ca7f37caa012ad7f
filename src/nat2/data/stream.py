"""Images that stay on disk: decoded when a batch needs them, by threads that work ahead of the training loop."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nat2.data.depth import SIXTEEN_BITS, DeepImage, Pixels, Sketch, ValueRange
from nat2.environment import available_cores

_AHEAD = 2  # batches that are prefetched


class StreamedPixels:
    """The images of a split with the interface of an array; indexing decodes."""

    def __init__(
        self,
        read: Callable[[int], Pixels | DeepImage],
        indices: NDArray[np.int64],
        side: int,
        channels: int,
        *,
        sketches: Mapping[int, Sketch | None] | None = None,
        span: ValueRange = SIXTEEN_BITS,
    ) -> None:
        """Hold how to read the images, and no pixels.

        Args:
            read: Returns the image at an index, shape (side, side, 1 or `channels`); called by several threads at once.
            indices: Of the images of the split.
            side: Of the images.
            channels: Of the images.
            sketches: Of the images deeper than 8 bits, by index.
            span: The range that is mapped to 8 bits.
        """
        self._read = read
        self._indices = indices
        self._side, self._channels = side, channels
        self._sketches, self._span = sketches or {}, span

    def __len__(self) -> int:
        return len(self._indices)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(n, channels, side, side)."""
        return len(self), self._channels, self._side, self._side

    def __getitem__(self, indices: Tensor) -> Tensor:
        """The images at some indices, 8-bit, shape (n, channels, side, side)."""
        return next(self.batches([indices]))

    def subset(self, part: NDArray[np.int64]) -> StreamedPixels:
        """The images of a part."""
        return self._with(self._indices[part], self._span)

    @property
    def sketches(self) -> list[Sketch]:
        """Of the images that are deeper than 8 bits."""
        return [each for index in self._indices.tolist() if (each := self._sketches.get(index)) is not None]

    def scaled(self, span: ValueRange) -> StreamedPixels:
        """The same images, with those deeper than 8 bits mapped from a range."""
        return self._with(self._indices, span)

    def _with(self, indices: NDArray[np.int64], span: ValueRange) -> StreamedPixels:
        return StreamedPixels(self._read, indices, self._side, self._channels, sketches=self._sketches, span=span)

    def joined(self, other: StreamedPixels) -> StreamedPixels:
        """The images of both."""
        count, ours, theirs = len(self), self._at, other._at
        numbers = np.arange(count + len(other))
        return StreamedPixels(
            lambda number: ours(number) if number < count else theirs(number - count),
            numbers,
            self._side,
            self._channels,
        )

    def batches(self, order: Iterable[Tensor]) -> Iterator[Tensor]:
        """The batches at the given indices, a few prefetched."""
        waiting: deque[list[Future[Pixels]]] = deque()
        with ThreadPoolExecutor(available_cores()) as pool:
            try:
                for indices in order:
                    waiting.append([pool.submit(self._at, number) for number in indices.tolist()])
                    if len(waiting) > _AHEAD:
                        yield _stacked(waiting.popleft())
                while waiting:
                    yield _stacked(waiting.popleft())
            finally:
                for future in (future for batch in waiting for future in batch):
                    future.cancel()

    def _at(self, number: int) -> Pixels:
        image = self._read(int(self._indices[number]))
        pixels = image.scaled(self._span) if isinstance(image, DeepImage) else image
        return np.broadcast_to(pixels, (self._side, self._side, self._channels))


def _stacked(batch: list[Future[Pixels]]) -> Tensor:
    images = np.stack([future.result() for future in batch])
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
