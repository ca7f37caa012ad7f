"""Images that stay on disk: decoded when a batch needs them, by threads that work ahead of the training."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nat2.environment import available_cores

Pixels = NDArray[np.uint8]

_AHEAD = 2  # batches that are decoded before they are asked for


class StreamedPixels:
    """The images of a split, as an array would hold them; indexing decodes."""

    def __init__(self, read: Callable[[int], Pixels], indices: NDArray[np.int64], side: int, channels: int) -> None:
        """Hold nothing but how to read.

        Args:
            read: The image of an index, shape (side, side, channels); called by several threads at once.
            indices: Those of the split's images.
            side: Of the images.
            channels: Of the images.
        """
        self._read = read
        self._indices = indices
        self._side, self._channels = side, channels

    def __len__(self) -> int:
        return len(self._indices)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(n, channels, side, side)."""
        return len(self), self._channels, self._side, self._side

    def __getitem__(self, indices: Tensor) -> Tensor:
        """The images of some indices, 8-bit, shape (n, channels, side, side)."""
        return next(self.batches([indices]))

    def subset(self, part: NDArray[np.int64]) -> StreamedPixels:
        """The images of a part."""
        return StreamedPixels(self._read, self._indices[part], self._side, self._channels)

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
        """The batches of an order, a few decoded ahead."""
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
        return self._read(int(self._indices[number]))


def _stacked(batch: list[Future[Pixels]]) -> Tensor:
    images = np.stack([future.result() for future in batch])
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
