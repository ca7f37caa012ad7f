"""The one definition of how stored images become network inputs, for training, search, test and export."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from nat2.data.augment import augment, cut_out, draw
from nat2.data.dataset import Split
from nat2.data.depth import ValueRange
from nat2.data.settings import Augmentation
from nat2.data.transfer import by_channel, to_device


@dataclass(frozen=True)
class Pipeline:
    """Stored 8-bit images to normalised inputs at any resolution."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    augmentation: Augmentation = field(default_factory=Augmentation)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    center: float = 1.0
    """Share of the side of an image that evaluation crops to, at its centre."""
    span: ValueRange | None = None
    """The values mapped to 0 and 255 in images deeper than 8 bits, if there are any."""

    def __call__(self, pixels: Tensor, resolution: int) -> Tensor:
        """Inputs for evaluation: centre cropped, resized (bilinear, antialiased), scaled to 0..1, normalised.

        Args:
            pixels: 8-bit images, shape (n, channels, side, side).
            resolution: Side of the result.

        Returns:
            Shape (n, channels, resolution, resolution), channels_last.
        """
        return self.normalize(self.prepared(pixels, resolution))

    def prepared(self, pixels: Tensor, resolution: int) -> Tensor:
        """The same without normalisation: the input of an exported network."""
        return resize(scale(to_device(central(pixels, self.center), self.device)), resolution)

    def shipped(self, split: Split, resolution: int, *, batch_size: int = 256) -> Iterator[Tensor]:
        """A split's images in order, in batches, as an exported network takes them: values 0..1."""
        order = torch.arange(len(split)).tensor_split(-(-len(split) // batch_size))
        yield from (self.prepared(pixels, resolution) for pixels, _ in split.batches(order))

    def augmented(
        self, pixels: Tensor, resolution: int, generator: torch.Generator, *, count: int = 0, part: slice = slice(None)
    ) -> Tensor:
        """Inputs for training: augmented, then resized and normalised.

        Args:
            pixels: 8-bit images, shape (n, channels, side, side).
            resolution: Side of the result.
            generator: Source of the augmentation.
            count: Size of the batch, if these images are a part of it.
            part: Which part of the batch they are.
        """
        draws = draw(count or len(pixels), self.augmentation, generator)[part]
        images = augment(scale(to_device(pixels, self.device)), self.augmentation, draws)
        return cut_out(self.normalize(resize(images, resolution)), self.augmentation, draws)

    def normalize(self, images: Tensor) -> Tensor:
        """Subtract the training images' mean and divide by their deviation."""
        mean, std = by_channel(self.mean, images.device), by_channel(self.std, images.device)
        return ((images - mean) / std).contiguous(memory_format=torch.channels_last)


def scale(pixels: Tensor) -> Tensor:
    """8-bit values to 0..1."""
    return pixels.float() / 255


def resize(images: Tensor, resolution: int) -> Tensor:
    """Square images (n, channels, side, side) at another resolution."""
    if images.shape[-1] == resolution:
        return images
    size = (resolution, resolution)
    return F.interpolate(images, size, mode="bilinear", antialias=True, align_corners=False)


def central(pixels: Tensor, share: float) -> Tensor:
    """The middle of square images (n, channels, side, side), `share` of their side."""
    side = pixels.shape[-1]
    kept = max(1, round(side * share))
    first = (side - kept) // 2
    return pixels[..., first : first + kept, first : first + kept]


def steps_per_epoch(count: int, batch_size: int) -> int:
    """Number of batches per epoch that `shuffled_batches` makes of `count` images."""
    return count // min(batch_size, count)


def training_batches(
    split: Split, batch_size: int, generator: torch.Generator, *, steps: int | None = None
) -> Iterator[Tensor]:
    """Indices of the batches of a training loop; every loop draws its images here.

    Takes what `shuffled_batches` does, and the images in place of their number: of a `balanced` split every class is
    drawn equally often.
    """
    labels = split.host_labels if split.balanced else None
    return shuffled_batches(len(split), batch_size, generator, steps=steps, balance=labels)


def shuffled_batches(
    count: int,
    batch_size: int,
    generator: torch.Generator,
    *,
    steps: int | None = None,
    balance: Tensor | None = None,
) -> Iterator[Tensor]:
    """Indices of batches in random order.

    Args:
        count: Images.
        batch_size: Images per batch; an incomplete last batch of an epoch is dropped.
        generator: Source of the order.
        steps: Number of batches, across several epochs if need be, each in a new order; one epoch by default.
        balance: Labels of the images, to draw every class equally often; by default every image is drawn once an epoch.
    """
    size, epoch = min(batch_size, count), steps_per_epoch(count, batch_size)
    order = torch.empty(0, dtype=torch.long)
    for step in range(epoch if steps is None else steps):
        place = step % epoch
        if place == 0:
            order = (
                torch.randperm(count, generator=generator) if balance is None else balanced_order(balance, generator)
            )
        yield order[place * size : (place + 1) * size]


def balanced_order(labels: Tensor, generator: torch.Generator) -> Tensor:
    """As many indices as there are labels, in random order, the same number of each class.

    A remainder goes to random classes, one index each. Small classes are repeated; no image is drawn again before all
    of its class have been.

    Args:
        labels: Class indices, shape (n,).
        generator: Source of the order.
    """
    count, present = len(labels), sorted(set(labels.tolist()))
    quotas = torch.full((len(present),), count // len(present))
    quotas += torch.randperm(len(present), generator=generator) < count % len(present)
    drawn = []
    for label, quota in zip(present, quotas.tolist(), strict=True):
        own = torch.nonzero(labels == label).flatten()
        rounds = [own[torch.randperm(len(own), generator=generator)] for _ in range(-(-quota // len(own)))]
        drawn.append(torch.cat(rounds)[:quota])
    return torch.cat(drawn)[torch.randperm(count, generator=generator)]


def _room(device: torch.device) -> int:
    """Bytes that resized images may take."""
    return torch.cuda.mem_get_info(device)[0] // 4 if device.type == "cuda" else 512 * 2**20


class ResizedImages:
    """A split's evaluation inputs at each requested resolution, kept if they fit into memory."""

    def __init__(
        self, split: Split, pipeline: Pipeline, *, batch_size: int = 256, memory_limit: int | None = None
    ) -> None:
        """Nothing is computed yet.

        Args:
            split: The images.
            pipeline: Makes the inputs.
            batch_size: Images per batch.
            memory_limit: Bytes for all resolutions together; by default 512 MiB, or a quarter of a GPU's free memory.
        """
        self.labels = split.labels.to(pipeline.device)
        self._split = split
        self._pipeline = pipeline
        self._batch_size = batch_size
        self._limit = _room(pipeline.device) if memory_limit is None else memory_limit
        self._kept: dict[int, list[Tensor]] = {}
        self._parts: dict[int, ResizedImages] = {}

    def __len__(self) -> int:
        return len(self._split)

    def part(self, share: float, *, least: int = 1) -> ResizedImages:
        """A share of the images, above 0 and at most 1, evenly spread over all classes; at least `least`."""
        count = min(len(self), max(least, round(len(self) * share)))
        if count == len(self):
            return self
        if count not in self._parts:
            indices = torch.linspace(0, len(self) - 1, count).round().long()
            split = self._split.part(indices)
            self._parts[count] = ResizedImages(split, self._pipeline, batch_size=self._batch_size)
        return self._parts[count]

    def batches(self, resolution: int) -> Iterator[Tensor]:
        """The inputs in order, in batches."""
        kept = self._kept.get(resolution)
        if kept is None:
            # Batches of nearly equal size: the statistics of a last batch of one image could not be computed.
            parts = torch.arange(len(self)).tensor_split(-(-len(self) // self._batch_size))
            batches = (self._pipeline(pixels, resolution) for pixels, _ in self._split.batches(parts))
            values = len(self) * self._split.pixels.shape[1] * resolution**2
            if 4 * values * (len(self._kept) + 1) > self._limit:
                yield from batches
                return
            kept = self._kept[resolution] = list(batches)
        yield from kept
