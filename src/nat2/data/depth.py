"""Images of more than 8 bits: their range is measured on the training images, and mapped to 8 bits for all splits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]

QUANTILES = 100
"""Evenly spaced quantiles that stand for an image: a few outliers do not affect them."""
_CENTRAL = (0.001, 0.999)  # of all quantiles of the training images


@dataclass(frozen=True)
class Sketch:
    """How the values of an image are distributed."""

    low: float
    """Smallest value, before the image was resized."""
    high: float
    """Largest value, before the image was resized."""
    quantiles: NDArray[np.float32]
    """Evenly spaced quantiles of the resized image."""


@dataclass(frozen=True)
class ValueRange:
    """The values that become black and white."""

    low: float
    high: float

    @staticmethod
    def of(sketches: Iterable[Sketch]) -> ValueRange | None:
        """From the smallest to the largest value of some images without outliers; None if there are no images.

        An outlier lies further from the central 99.8 % of the values than their spread, so that a hot pixel or a
        missing value does not use up the grey levels of everything else.
        """
        known = list(sketches)
        if not known:
            return None
        low, high = min(each.low for each in known), max(each.high for each in known)
        inner = np.quantile(np.concatenate([each.quantiles for each in known]), _CENTRAL)
        first, last = float(inner[0]), float(inner[1])
        spread = last - first
        if spread > 0:
            low, high = max(low, first - spread), min(high, last + spread)
        return ValueRange(low, high)

    def scale(self, values: NDArray[np.float32]) -> Pixels:
        """Values to 8 bits: `low` becomes 0, `high` 255, and values outside are clipped."""
        if self.high <= self.low:
            return np.zeros(values.shape, dtype=np.uint8)
        scaled = (values.astype(np.float64) - self.low) * 255 / (self.high - self.low)
        return np.rint(scaled).clip(0, 255).astype(np.uint8)


SIXTEEN_BITS = ValueRange(0, 65535)
"""The nominal range of 16 bits, used if no training image is deeper than 8 bits."""


@dataclass(frozen=True)
class DeepImage:
    """A resized image whose values are not yet 8 bits."""

    values: NDArray[np.float32]
    """Shape (side, side, 1 or 3), multiplied by the opacity."""
    sketch: Sketch | None
    """None if all of it is transparent."""
    clear: NDArray[np.float32] | None = None
    """Transparency, 0..1, shape (side, side, 1); None if all of the image is opaque."""

    def scaled(self, span: ValueRange) -> Pixels:
        """The image in 8 bits, on white."""
        return span.scale(self.values if self.clear is None else self.values + np.float32(span.high) * self.clear)


def channels_of(image: Pixels | DeepImage) -> int:
    """1 if an image is grey, else 3."""
    return int((image.values if isinstance(image, DeepImage) else image).shape[2])


def joined(images: Sequence[Pixels | DeepImage], side: int, channels: int) -> Pixels | UnscaledPixels:
    """Images of shape (side, side, 1 or `channels`) as one array, if none of them is deeper than 8 bits."""
    plain = [image for image in images if not isinstance(image, DeepImage)]
    if len(plain) < len(images):
        return UnscaledPixels(images, side, channels)
    return np.stack([np.broadcast_to(image, (side, side, channels)) for image in plain])


class UnscaledPixels:
    """The images of a split, some of them deeper than 8 bits, until the range of the training images is known."""

    def __init__(self, images: Sequence[Pixels | DeepImage], side: int, channels: int) -> None:
        """Hold images of shape (side, side, 1 or `channels`)."""
        self._images: list[Pixels | DeepImage | None] = list(images)
        self._side, self._channels = side, channels

    def __len__(self) -> int:
        return len(self._images)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(n, side, side, channels), like that of an array."""
        return len(self), self._side, self._side, self._channels

    @property
    def sketches(self) -> list[Sketch]:
        """Of the images that are deeper than 8 bits."""
        return [image.sketch for image in self._images if isinstance(image, DeepImage) and image.sketch]

    def subset(self, part: NDArray[np.int64]) -> UnscaledPixels:
        """The images of a part."""
        images = [self._images[number] for number in part]
        return UnscaledPixels([image for image in images if image is not None], self._side, self._channels)

    def scaled(self, span: ValueRange) -> Pixels:
        """All images in 8 bits. Each is released once converted, because memory may not hold both; call it once."""
        pixels: Pixels = np.empty(self.shape, dtype=np.uint8)
        for number, image in enumerate(self._images):
            assert image is not None
            pixels[number] = image.scaled(span) if isinstance(image, DeepImage) else image
            self._images[number] = None
        return pixels


def sketch(values: NDArray[np.float32], low: float, high: float) -> Sketch:
    """The sketch of an image.

    Args:
        values: Opaque values of the resized image; any shape.
        low: Smallest value before resizing.
        high: Largest value before resizing.
    """
    places = (np.arange(QUANTILES) + 0.5) / QUANTILES
    quantiles = np.quantile(values, places) if values.size else np.zeros(QUANTILES)
    return Sketch(low, high, quantiles.astype(np.float32))
