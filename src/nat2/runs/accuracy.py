"""How far an accuracy can be trusted: its standard error, and whether it beats chance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


def chance_of(counts: Sequence[int]) -> float | None:
    """Accuracy of always naming the largest class: its share of the images; None if there are none.

    Args:
        counts: Images of each class.
    """
    total = sum(counts)
    return max(counts) / total if total else None


def standard_error(share: float, images: int) -> float:
    """Standard error of an accuracy, as a share from 0 to 1.

    The binomial sqrt(p (1 - p) / n). Where all answers are right, or all wrong, that would be 0, which no sample can
    show; there half an image is added to each side (Agresti and Coull's interval at one standard error), so
    p = 0.5 / (n + 1) and n + 1 take the places of p and n.

    Args:
        share: The accuracy, 0..1.
        images: On how many images it was measured, at least 1.

    Raises:
        ValueError: `share` or `images` is out of range.
    """
    if not 0 <= share <= 1 or images < 1:
        raise ValueError(f"an accuracy is a share (0..1) of at least one image; got {share} of {images}")
    if 0 < round(share * images) < images:
        return math.sqrt(share * (1 - share) / images)
    edge = 0.5 / (images + 1)
    return math.sqrt(edge * (1 - edge) / (images + 1))


def imbalanced(counts: Sequence[int]) -> bool:
    """Whether accuracy needs balanced accuracy beside it: the largest class has at least twice the images of the
    smallest.

    Args:
        counts: Images of each class.
    """
    return bool(counts) and max(counts) >= _IMBALANCE * min(counts)


_IMBALANCE = 2


@dataclass(frozen=True)
class Accuracy:
    """An accuracy, with what is known of the images it was measured on."""

    share: float
    """0..1."""
    images: int | None = None
    """None if their number is unknown."""
    chance: float | None = None
    """Share of their largest class; None if it is unknown."""
    spread: float | None = None
    """The standard error where it is not the binomial one: of a balanced accuracy."""

    @staticmethod
    def over(share: float, counts: Sequence[int]) -> Accuracy:
        """An accuracy on images of which there are `counts` of each class; none if they are unknown."""
        return Accuracy(share, sum(counts) or None, chance_of(counts))

    @property
    def standard_error(self) -> float | None:
        """See `standard_error`; None if the number of images is unknown."""
        if self.spread is not None:
            return self.spread
        return None if self.images is None else standard_error(self.share, self.images)

    @property
    def beats_chance(self) -> bool:
        """Whether it is more than one standard error above chance; True where that cannot be known."""
        error = self.standard_error
        return error is None or self.chance is None or self.share - error > self.chance

    @property
    def percent(self) -> str:
        """In percent, without the sign: ``97.8 ± 0.8``; two decimals if the standard error is below 0.05."""
        error = self.standard_error
        if error is None:
            return f"{100 * self.share:.1f}"
        digits = 1 if 100 * error >= 0.05 else 2
        return f"{100 * self.share:.{digits}f} ± {100 * error:.{digits}f}"
