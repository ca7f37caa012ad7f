"""How long a training is: gradient steps, in parts after which it can be interrupted; and how large a batch."""

from __future__ import annotations

from dataclasses import dataclass

from nat2.data.transform import steps_per_epoch

_PART = 25  # steps between two moments at which a training counted in steps can be interrupted
_BATCHES = ((150, 16), (1500, 32))  # (most images, batch size)
_LARGE_BATCH = 64
_SMALL, _GROWTH = 2000, 4.0  # images up to which the fewest steps are made; how many times as many at most


def batch_size_for(given: int | None, images: int) -> int:
    """The batch size of a training: the given one, by default one that suits the number of images; at most all.

    Few images are seen in small batches, so that an epoch has several steps and each of them differs from the last.
    """
    if given is None:
        given = next((size for most, size in _BATCHES if images <= most), _LARGE_BATCH)
    return min(given, images)


def growth(images: int) -> float:
    """The factor from 1 to 4 by which the number of training images multiplies the steps of each stage.

    Below the lower bound a network does not learn however few images there are; above the upper one the time of a quick
    run is better spent elsewhere.
    """
    return min(_GROWTH, max(1.0, images / _SMALL))


@dataclass(frozen=True)
class Length:
    """A number of gradient steps, cut into parts of nearly equal length."""

    steps: int
    parts: int
    epoch: int
    """Steps of a pass over the images."""

    @staticmethod
    def of(images: int, batch_size: int, *, epochs: int | None, steps: int | None) -> Length:
        """Of a training that is counted in epochs, each a part, or in steps, some 25 of which are a part."""
        epoch = steps_per_epoch(images, batch_size)
        if steps is None:
            return Length((epochs or 0) * epoch, epochs or 0, epoch)
        return Length(steps, -(-steps // _PART), epoch)

    def before(self, part: int) -> int:
        """Steps before a part, which is counted from 0."""
        return part * self.steps // max(1, self.parts)

    def within(self, part: int) -> int:
        """Steps of a part."""
        return self.before(part + 1) - self.before(part)

    def ends_epoch(self, part: int) -> bool:
        """Whether another pass over the images is complete after a part, or it is the last part."""
        return part + 1 == self.parts or self.before(part + 1) // self.epoch > self.before(part) // self.epoch

    @property
    def passes(self) -> int:
        """After how many parts `ends_epoch`."""
        return sum(self.ends_epoch(part) for part in range(self.parts))
