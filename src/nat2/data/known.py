"""Published data sets: the split, normalisation and augmentation that NAT2's experiments used."""

from __future__ import annotations

from dataclasses import dataclass

from nat2.data.settings import Policy


@dataclass(frozen=True)
class Known:
    """What is known of a data set (NAT2, data policy)."""

    val: float | None = None
    """Images for validation cut from the training images: a number, or a share below 1; None if there is a split."""
    crop_scale: float = 1.0
    """Smallest share of the area that a random crop keeps."""
    policy: Policy = "none"
    """Further augmentation of training images."""
    center: float = 1.0
    """Share of the side that evaluation crops to."""
    mean: tuple[float, ...] = ()
    """Of each channel; measured on the training images if none was published."""
    std: tuple[float, ...] = ()
    """Of each channel."""


_CIFAR = Known(
    val=5000,
    policy="autoaugment",
    mean=(0.49139968, 0.48215827, 0.44653124),
    std=(0.24703233, 0.24348505, 0.26158768),
)
KNOWN: dict[str, Known] = {
    "cifar-10": _CIFAR,
    "cifar-100": _CIFAR,
    "tiny-imagenet": Known(
        val=0.15, crop_scale=0.85, center=0.875, mean=(0.4802, 0.4481, 0.3975), std=(0.2770, 0.2691, 0.2821)
    ),
    "cinic-10": Known(),
    "food-101": Known(val=0.15, policy="autoaugment"),
    "aircraft": Known(crop_scale=0.35, policy="randaugment"),
    "cars": Known(val=0.15, crop_scale=0.25, policy="randaugment"),
    "dtd": Known(crop_scale=0.2, policy="randaugment"),
    "pets": Known(val=0.15, policy="randaugment"),
    "stl-10": Known(val=0.15, crop_scale=0.75, policy="randaugment"),
    "flowers-102": Known(val=1000, policy="randaugment"),
}
"""By name. Which of the last six were trained with RandAugment is not published; all are here."""

_SPELLINGS = {
    "cifar10": "cifar-10", "cifar100": "cifar-100", "tinyimagenet": "tiny-imagenet", "tinyimagenet200": "tiny-imagenet",
    "cinic10": "cinic-10", "food101": "food-101", "fgvcaircraft": "aircraft", "stanfordcars": "cars", "dtd": "dtd",
    "oxfordiiitpet": "pets", "oxfordpets": "pets", "stl10": "stl-10", "oxfordflowers102": "flowers-102",
    "oxford102flowers": "flowers-102", "flowers102": "flowers-102", "oxfordflowers": "flowers-102",
}  # fmt: skip


def known_as(name: str) -> str:
    """The data set that a name on the hub refers to (``uoft-cs/cifar10`` is ``cifar-10``); empty if not listed here."""
    return _SPELLINGS.get("".join(letter for letter in name.rpartition("/")[2].lower() if letter.isalnum()), "")
