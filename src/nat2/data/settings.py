"""Settings of the images: how they are read and kept, and how training images are augmented."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from nat2.errors import ConfigError
from nat2.validation import check_not_negative, check_share, check_types

Policy = Literal["none", "auto", "autoaugment", "randaugment"]
DEFAULT_CACHE, NO_CACHE = "auto", "none"


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How image files are read, and where their pixels are kept."""

    skip_bad_images: bool = False
    """Leave unreadable images out instead of refusing the folder."""
    memory: float | None = None
    """GiB that the images may take, by default half of what is available."""
    cache: str = DEFAULT_CACHE
    """Folder for the decoded images of large data sets; `auto` is ``NAT2_CACHE`` or the user's cache folder, `none`
    decodes images whenever they are needed."""


DEFAULT_READING = Reading()


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Random changes of training images."""

    crop_scale: float | None = None
    """Smallest share of the image's area that a random crop keeps, above 0 and at most 1; by default what was published
    for the data set, else 0.75, or 1 where the preset quick begins with trained weights."""
    flip: bool = True
    """Mirror half of the images."""
    policy: Policy | None = None
    """Further geometry and colour operations: `autoaugment` (pairs found for CIFAR-10), `randaugment` (two at random),
    `none`, or `auto`: RandAugment in the second phase of the fine-tuning of a network that is far more accurate on
    training than on validation images, else none. By default what was published for the data set, or, of other data
    sets, `auto` in the preset quick and none in the others."""
    magnitude: float = 9.0
    """Strength of RandAugment, from 0 to 30."""
    cutout: float = 0.0
    """Side of a square that is cut out, relative to the image's, from 0 (none) to below 1; 0.5 is usual for CIFAR."""
    mixup: float = 0.0
    """Mix pairs of images with weights drawn from Beta(`mixup`, `mixup`); 0 for none."""

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigError: a number is outside its range.
        """
        given: object = self.policy
        if given is False:  # as YAML reads `off`
            object.__setattr__(self, "policy", "none")
        check_types(self, "the augmentation")
        if self.crop_scale is not None and not 0 < self.crop_scale <= 1:
            raise ConfigError(f"`crop_scale` of the augmentation must be above 0 and at most 1; got {self.crop_scale}")
        if not 0 <= self.magnitude <= 30:
            raise ConfigError(f"`magnitude` of the augmentation must be from 0 to 30; got {self.magnitude}")
        check_share(self, "the augmentation", "cutout")
        check_not_negative(self, "the augmentation", "mixup")
