"""What is known about stored images without reading them again: digests, and the sums that their statistics need."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nat2.data.depth import Pixels

DIGEST = 64
"""Bytes of an image's digest (BLAKE2b)."""


@dataclass(frozen=True)
class Facts:
    """Facts about n images."""

    digests: NDArray[np.uint8]
    """Of the pixels in the order (channel, row, column), shape (n, 64)."""
    sums: NDArray[np.uint64]
    """Sum of the values of each channel, shape (n, channels)."""
    squares: NDArray[np.uint64]
    """Sum of the squared values of each channel, shape (n, channels)."""

    @staticmethod
    def empty(count: int, channels: int) -> Facts:
        """Room for the facts about `count` images."""
        return Facts(
            np.zeros((count, DIGEST), np.uint8),
            np.zeros((count, channels), np.uint64),
            np.zeros((count, channels), np.uint64),
        )

    def put(self, indices: NDArray[np.int64], other: Facts) -> None:
        """Write the facts about some of the images."""
        self.digests[indices], self.sums[indices], self.squares[indices] = other.digests, other.sums, other.squares

    def __getitem__(self, indices: NDArray[np.int64]) -> Facts:
        """The facts about some of the images."""
        return Facts(self.digests[indices], self.sums[indices], self.squares[indices])

    def __len__(self) -> int:
        return len(self.digests)


def facts_of(images: Pixels) -> Facts:
    """The facts about 8-bit images, shape (n, channels, side, side)."""
    facts = Facts.empty(len(images), images.shape[1])
    for number, image in enumerate(images):
        facts.digests[number] = np.frombuffer(hashlib.blake2b(image.tobytes()).digest(), np.uint8)
        flat = image.reshape(len(image), -1)
        facts.sums[number] = flat.sum(axis=1, dtype=np.uint64)
        facts.squares[number] = np.square(flat, dtype=np.uint32).sum(axis=1, dtype=np.uint64)
    return facts


def constant_values(facts: Facts, size: int) -> list[int] | None:
    """The value of each channel if all `size` values per image and channel are equal in all images, else None."""
    sums, squares, count = _totals(facts, size)
    if any(square * count != value**2 for value, square in zip(sums, squares, strict=True)):
        return None
    return [value // count for value in sums]


def statistics_of(facts: Facts, size: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Exact mean and standard deviation of each channel, of values in 0..1.

    Args:
        facts: About at least one image.
        size: Pixels of an image.
    """
    sums, squares, count = _totals(facts, size)
    means = tuple(value / (255 * count) for value in sums)
    variances = [(s * count - v**2) / (255 * count) ** 2 for v, s in zip(sums, squares, strict=True)]
    return means, tuple(max(variance**0.5, 1e-3) for variance in variances)


def _totals(facts: Facts, size: int) -> tuple[list[int], list[int], int]:
    """Sums and sums of squares by channel, and the number of values: whole numbers of any size, so nothing rounds."""
    return _summed(facts.sums), _summed(facts.squares), size * len(facts)


def _summed(values: NDArray[np.uint64]) -> list[int]:
    high, low = values >> np.uint64(32), values & np.uint64(2**32 - 1)
    return [(int(h) << 32) + int(w) for h, w in zip(high.sum(axis=0), low.sum(axis=0), strict=True)]


def repeated(digests: Sequence[NDArray[np.uint8]]) -> list[list[tuple[int, int]]]:
    """Equal images: groups of their places (part, index) in several parts, in the order of the first of each group.

    Args:
        digests: Of the images of each part, shape (n, 64).
    """
    parts = np.concatenate([np.full(len(part), number) for number, part in enumerate(digests)])
    indices = np.concatenate([np.arange(len(part)) for part in digests])
    short = np.ascontiguousarray(np.concatenate(digests)[:, :8]).view(np.uint64)[:, 0]
    order = np.argsort(short, kind="stable")
    same = short[order][1:] == short[order][:-1]
    candidates = np.sort(order[np.append(same, False) | np.insert(same, 0, False)]) if len(order) > 1 else order[:0]
    groups: dict[bytes, list[tuple[int, int]]] = {}
    for place in candidates.tolist():  # few, so that a dictionary of them is small
        part, index = int(parts[place]), int(indices[place])
        groups.setdefault(digests[part][index].tobytes(), []).append((part, index))
    return [group for group in groups.values() if len(group) > 1]
