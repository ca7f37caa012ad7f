"""Random changes of training images, a batch at a time on any device: crop, flip, AutoAugment, RandAugment, cutout.

Every image of a batch is transformed independently. All random numbers of a batch are drawn on the CPU before the
first image is touched, so every device, and every process that holds a part of the batch, makes the same images.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn import functional as F

from nat2.data.settings import Augmentation
from nat2.data.transfer import by_channel, to_device

DEFAULT_CROP = 0.75
_GREY = 0.5  # fills the border when an image is rotated or translated (AutoAugment)
_LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, as Pillow
_BINS = 30  # steps between magnitude 0 and magnitude 1 (RandAugment)


@dataclass(frozen=True)
class Draws:
    """The random numbers of a batch; the first dimension of each is the image."""

    crop: Tensor
    """Side of the crop and position of its centre, both relative to the image's, shape (n, 3)."""
    mirror: Tensor
    """1, or -1 for mirrored images, shape (n,)."""
    operations: Tensor
    """Indices of the operations to apply in order, shape (n, k)."""
    magnitudes: Tensor
    """Their strengths, from -1 to 1, shape (n, k)."""
    hole: Tensor
    """Centre of the square to cut out, relative to the image's sides (0..1), shape (n, 2)."""

    def __getitem__(self, part: slice) -> Draws:
        """The draws for a part of the batch."""
        return Draws(**{field.name: getattr(self, field.name)[part] for field in fields(self)})


def draw(count: int, augmentation: Augmentation, generator: torch.Generator) -> Draws:
    """Draw the transformations of `count` images."""
    side = torch.empty(count).uniform_(augmentation.crop_scale or DEFAULT_CROP, 1, generator=generator).sqrt()
    shift = (torch.rand(2, count, generator=generator) * 2 - 1) * (1 - side)
    mirror = torch.ones(count)
    if augmentation.flip:
        mirror = torch.randint(0, 2, (count,), generator=generator) * 2.0 - 1
    operations, magnitudes = _POLICIES[augmentation.policy or "none"](count, augmentation, generator)
    hole = torch.rand(count, 2, generator=generator) if augmentation.cutout else torch.zeros(count, 2)
    return Draws(torch.stack([side, *shift], dim=1), mirror, operations, magnitudes, hole)


def augment(images: Tensor, augmentation: Augmentation, draws: Draws) -> Tensor:
    """Crop, mirror and transform images (n, 1 or 3, side, side) of values 0..1 as drawn."""
    if augmentation.crop_scale == 1:
        mirrored = to_device((draws.mirror < 0).view(-1, 1, 1, 1), images.device)
        images = torch.where(mirrored, images.flip(3), images) if augmentation.flip else images
    else:
        side, right, down = draws.crop.unbind(1)
        zero = torch.zeros_like(side)
        matrix = torch.stack([side * draws.mirror, zero, right, zero, side, down], dim=1).view(-1, 2, 3)
        grid = F.affine_grid(to_device(matrix, images.device), list(images.shape), align_corners=False)
        images = F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    for operations, magnitudes in zip(draws.operations.unbind(1), draws.magnitudes.unbind(1), strict=True):
        images = apply(images, operations, magnitudes)
    return images


def cut_out(inputs: Tensor, augmentation: Augmentation, draws: Draws) -> Tensor:
    """Fill a square of each normalised image with 0, the mean; it may extend beyond the border (cutout)."""
    if not augmentation.cutout:
        return inputs
    side = inputs.shape[-1]
    places = (torch.arange(side, device=inputs.device) + 0.5) / side
    down, right = (
        (places - centre[:, None]).abs() < augmentation.cutout / 2 for centre in to_device(draws.hole, inputs.device).T
    )
    return inputs.masked_fill((down[:, :, None] & right[:, None, :])[:, None], 0.0)


def apply(images: Tensor, operations: Tensor, magnitudes: Tensor) -> Tensor:
    """Apply to each image the operation with its index (`NAMES`), at its magnitude (-1..1)."""
    result = images.clone()
    # Images with the same operation beside each other: two copies to the device, however many operations there are.
    order = operations.argsort(stable=True)
    counts = torch.bincount(operations, minlength=len(NAMES)).tolist()
    places, values = (torch.split(to_device(each, images.device), counts) for each in (order, magnitudes[order]))
    for name, place, value in zip(NAMES, places, values, strict=True):
        if len(place) and name != "Identity":
            result[place] = OPERATIONS[name](images[place], value)
    return result


# -- operations: images (n, channels, side, side) of values 0..1 and magnitudes (n,) of -1..1 to images


def _moved(images: Tensor, matrix: Tensor) -> Tensor:
    """Each output position reads the input at `matrix` (n, 2, 3) times itself, in coordinates -1..1."""
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    return F.grid_sample(images - _GREY, grid, align_corners=False) + _GREY


def _matrix(m: Tensor, rows: Callable[[Tensor, Tensor, Tensor], list[Tensor]]) -> Tensor:
    return torch.stack(rows(m, torch.ones_like(m), torch.zeros_like(m)), dim=1).view(-1, 2, 3)


def _shear_x(images: Tensor, m: Tensor) -> Tensor:
    return _moved(images, _matrix(0.3 * m, lambda m, one, zero: [one, m, zero, zero, one, zero]))


def _shear_y(images: Tensor, m: Tensor) -> Tensor:
    return _moved(images, _matrix(0.3 * m, lambda m, one, zero: [one, zero, zero, m, one, zero]))


def _translate_x(images: Tensor, m: Tensor) -> Tensor:
    return _moved(images, _matrix(2 * 150 / 331 * m, lambda m, one, zero: [one, zero, m, zero, one, zero]))


def _translate_y(images: Tensor, m: Tensor) -> Tensor:
    return _moved(images, _matrix(2 * 150 / 331 * m, lambda m, one, zero: [one, zero, zero, zero, one, m]))


def _rotate(images: Tensor, m: Tensor) -> Tensor:
    angle = math.radians(30) * m
    return _moved(images, _matrix(angle, lambda a, _, zero: [a.cos(), -a.sin(), zero, a.sin(), a.cos(), zero]))


def _blend(images: Tensor, plain: Tensor, m: Tensor) -> Tensor:
    """Move away from a plain version of the images (m > 0) or towards it (m < 0), by at most nine tenths."""
    return (plain + (1 + 0.9 * m).view(-1, 1, 1, 1) * (images - plain)).clamp(0, 1)


def _grey(images: Tensor) -> Tensor:
    if images.shape[1] == 1:
        return images
    return (images * by_channel(_LUMA, images.device)).sum(1, keepdim=True)


def _brightness(images: Tensor, m: Tensor) -> Tensor:
    return _blend(images, torch.zeros_like(images), m)


def _color(images: Tensor, m: Tensor) -> Tensor:
    return _blend(images, _grey(images).expand_as(images), m)


def _contrast(images: Tensor, m: Tensor) -> Tensor:
    return _blend(images, _grey(images).mean((1, 2, 3), keepdim=True), m)


def _sharpness(images: Tensor, m: Tensor) -> Tensor:
    channels = images.shape[1]
    kernel = images.new_ones(channels, 1, 3, 3)
    kernel[:, :, 1, 1] = 5
    smooth = images.clone()
    smooth[..., 1:-1, 1:-1] = F.conv2d(images, kernel / 13, groups=channels)
    return _blend(images, smooth, m)


def _posterize(images: Tensor, m: Tensor) -> Tensor:
    """Keep 8 to 4 bits."""
    bits = 8 - (4 * m.abs()).round()
    step = (2 ** (8 - bits)).view(-1, 1, 1, 1)
    return ((images * 255).round() / step).floor() * step / 255


def _solarize(images: Tensor, m: Tensor) -> Tensor:
    """Invert values above a threshold, which falls from white to black as the magnitude grows."""
    threshold = ((1 - m.abs()) * 256 / 255).view(-1, 1, 1, 1)  # magnitude 0 puts it above white
    return torch.where(images >= threshold, 1 - images, images)


def _invert(images: Tensor, m: Tensor) -> Tensor:
    return 1 - images


def _auto_contrast(images: Tensor, m: Tensor) -> Tensor:
    low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    span = high - low
    return torch.where(span > 0, (images - low) / span.clamp(min=1e-6), images)


def _equalize(images: Tensor, m: Tensor) -> Tensor:
    """Equalise the histogram of each channel, as Pillow does."""
    n, channels, height, width = images.shape
    levels = (images * 255).round().long().view(n * channels, -1)
    counts = torch.zeros(n * channels, 256, device=images.device, dtype=torch.long)
    counts.scatter_add_(1, levels, torch.ones_like(levels))
    brightest = counts.gather(1, levels.amax(1, keepdim=True))
    step = (height * width - brightest) // 255
    below = counts.cumsum(1) - counts
    table = ((below + step // 2) // step.clamp(min=1)).clamp(max=255)
    table = torch.where(step > 0, table, torch.arange(256, device=images.device))
    return (table.gather(1, levels).to(images) / 255).view_as(images)


OPERATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "ShearX": _shear_x,
    "ShearY": _shear_y,
    "TranslateX": _translate_x,
    "TranslateY": _translate_y,
    "Rotate": _rotate,
    "Brightness": _brightness,
    "Color": _color,
    "Contrast": _contrast,
    "Sharpness": _sharpness,
    "Posterize": _posterize,
    "Solarize": _solarize,
    "AutoContrast": _auto_contrast,
    "Equalize": _equalize,
    "Invert": _invert,
}
NAMES = ("Identity", *OPERATIONS)
_SIGNED = torch.tensor([name in ("Identity", *tuple(OPERATIONS)[:9]) for name in NAMES])


# -- policies: which operations are drawn


def _no_policy(count: int, augmentation: Augmentation, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    return torch.zeros(count, 0, dtype=torch.long), torch.zeros(count, 0)


def _with_signs(operations: Tensor, magnitudes: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    signs = torch.randint(0, 2, operations.shape, generator=generator) * 2.0 - 1
    return operations, torch.where(_SIGNED[operations], magnitudes * signs, magnitudes)


def _rand_augment(count: int, augmentation: Augmentation, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Two of all operations except inversion, with equal probability and the same magnitude (RandAugment)."""
    operations = torch.randint(0, len(NAMES) - 1, (count, 2), generator=generator)
    return _with_signs(operations, torch.full((count, 2), augmentation.magnitude / _BINS), generator)


def _auto_augment(count: int, augmentation: Augmentation, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """One of the pairs of operations that AutoAugment found for CIFAR-10, with their probabilities and magnitudes."""
    chosen = torch.randint(0, len(_CIFAR_PAIRS), (count,), generator=generator)
    numbers, chances, strengths = _CIFAR_TABLE[chosen].unbind(2)
    applied = torch.rand(count, 2, generator=generator) < chances
    return _with_signs(torch.where(applied, numbers, 0.0).long(), strengths, generator)


_CIFAR_PAIRS = (
    # twice: operation, probability in tenths, magnitude in ninths (AutoAugment, policy for CIFAR-10)
    ("Invert", 1, 7, "Contrast", 2, 6), ("Rotate", 7, 2, "TranslateX", 3, 9), ("Sharpness", 8, 1, "Sharpness", 9, 3),
    ("ShearY", 5, 8, "TranslateY", 7, 9), ("AutoContrast", 5, 8, "Equalize", 9, 2),
    ("ShearY", 2, 7, "Posterize", 3, 7), ("Color", 4, 3, "Brightness", 6, 7), ("Sharpness", 3, 9, "Brightness", 7, 9),
    ("Equalize", 6, 5, "Equalize", 5, 1), ("Contrast", 6, 7, "Sharpness", 6, 5), ("Color", 7, 7, "TranslateX", 5, 8),
    ("Equalize", 3, 7, "AutoContrast", 4, 8), ("TranslateY", 4, 3, "Sharpness", 2, 6),
    ("Brightness", 9, 6, "Color", 2, 8), ("Solarize", 5, 2, "Invert", 0, 3), ("Equalize", 2, 0, "AutoContrast", 6, 0),
    ("Equalize", 2, 8, "Equalize", 6, 4), ("Color", 9, 9, "Equalize", 6, 6), ("AutoContrast", 8, 4, "Solarize", 2, 8),
    ("Brightness", 1, 3, "Color", 7, 0), ("Solarize", 4, 5, "AutoContrast", 9, 3),
    ("TranslateY", 9, 9, "TranslateY", 7, 9), ("AutoContrast", 9, 2, "Solarize", 8, 3),
    ("Equalize", 8, 8, "Invert", 1, 3), ("TranslateY", 7, 9, "AutoContrast", 9, 1),
)  # fmt: skip
_CIFAR_TABLE = torch.tensor(
    [
        [[NAMES.index(pair[at]), pair[at + 1] / 10, pair[at + 2] / 9] for at in (0, 3)]  # type: ignore[operator]
        for pair in _CIFAR_PAIRS
    ]
)
_POLICIES: dict[str, Callable[[int, Augmentation, torch.Generator], tuple[Tensor, Tensor]]] = {
    "none": _no_policy,
    "auto": _no_policy,
    "autoaugment": _auto_augment,
    "randaugment": _rand_augment,
}


def neighbours(count: int, device: torch.device) -> Tensor:
    """The other image of each pair of neighbours in a batch; the last image of an odd batch is its own."""
    order = torch.arange(count, device=device)
    return torch.where(order.bitwise_xor(1) < count, order.bitwise_xor(1), order)
