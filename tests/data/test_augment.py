"""Random changes of images, against Pillow where Pillow has them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageOps

from nat2.data.augment import NAMES, OPERATIONS, apply, draw, neighbours
from nat2.data.settings import Augmentation
from nat2.data.transform import Pipeline

PIPELINE = Pipeline((0.4, 0.5, 0.6), (0.2, 0.3, 0.4))


def photos(count: int = 4, side: int = 24, channels: int = 3) -> torch.Tensor:
    """Smooth images with all the values that photographs have."""
    noise = torch.rand(count, channels, 6, 6, generator=torch.Generator().manual_seed(0))
    large = torch.nn.functional.interpolate(noise, (side, side), mode="bicubic")
    return ((large * 200).round() + 20).clamp(0, 255).byte()


def pil(image: torch.Tensor) -> Image.Image:
    array = image.permute(1, 2, 0).numpy()
    return Image.fromarray(array if array.shape[2] == 3 else array[..., 0])


def by_pillow(name: str, image: Image.Image, m: float) -> Image.Image:
    enhance = {
        "Brightness": ImageEnhance.Brightness, "Color": ImageEnhance.Color, "Contrast": ImageEnhance.Contrast,
        "Sharpness": ImageEnhance.Sharpness,
    }  # fmt: skip
    if name in enhance:
        return enhance[name](image).enhance(1 + 0.9 * m)
    return {
        "Posterize": lambda: ImageOps.posterize(image, 8 - round(4 * abs(m))),
        "Solarize": lambda: ImageOps.solarize(image, int(np.ceil(256 * (1 - abs(m)) - 1e-4))),
        "AutoContrast": lambda: ImageOps.autocontrast(image),
        "Equalize": lambda: ImageOps.equalize(image),
        "Invert": lambda: ImageOps.invert(image),
    }[name]()


@pytest.mark.parametrize("m", [-1.0, -0.4, 0.2, 1.0])
@pytest.mark.parametrize(
    "name",
    ["Brightness", "Color", "Contrast", "Sharpness", "Posterize", "Solarize", "AutoContrast", "Equalize", "Invert"],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_operations_on_values_are_pillows(name: str, m: float, channels: int) -> None:
    images = photos(channels=channels)
    ours = OPERATIONS[name](images.float() / 255, torch.full((len(images),), m)) * 255
    for image, result in zip(images, ours, strict=True):
        expected = torch.from_numpy(np.array(by_pillow(name, pil(image), m))).float()
        expected = expected.permute(2, 0, 1) if channels == 3 else expected[None]
        # Pillow rounds in between, and its sharpening leaves the border as it is.
        assert (result - expected).abs().max() <= 2.01


def test_operations_on_places_move_the_image() -> None:
    image = torch.zeros(1, 1, 33, 33)
    image[0, 0, 16, 24] = 1  # half way to the right
    one = torch.ones(1)

    def brightest(name: str) -> tuple[int, int]:
        place = int(OPERATIONS[name](image, one)[0, 0].argmax())
        return place // 33, place % 33

    assert brightest("TranslateX") == (16, 24 - round(33 * 150 / 331))
    assert brightest("Rotate")[0] == pytest.approx(16 - 8 * np.sin(np.pi / 6), abs=1)
    assert brightest("Rotate")[1] == pytest.approx(16 + 8 * np.cos(np.pi / 6), abs=1)
    assert brightest("ShearY")[0] == pytest.approx(16 - 0.3 * 8, abs=1)
    assert OPERATIONS["TranslateY"](torch.zeros(1, 1, 9, 9), one).max() == 0.5  # grey comes in


@pytest.mark.parametrize("policy", ["autoaugment", "randaugment"])
@pytest.mark.parametrize("channels", [1, 3])
def test_policies_keep_values_in_range_and_change_images_in_their_own_ways(policy: str, channels: int) -> None:
    augmentation = Augmentation(crop_scale=1, flip=False, policy=policy)  # type: ignore[arg-type]
    images = photos(64, channels=channels).float() / 255
    draws = draw(64, augmentation, torch.Generator().manual_seed(0))
    assert len(set(draws.operations.flatten().tolist())) > 8
    assert bool((draws.magnitudes < 0).any())
    assert bool((draws.magnitudes.abs() <= 1).all())
    changed = images
    for operations, magnitudes in zip(draws.operations.T, draws.magnitudes.T, strict=True):
        changed = apply(changed, operations, magnitudes)
    assert 0 <= float(changed.min()) <= float(changed.max()) <= 1
    alone = images
    for operations, magnitudes in zip(draws.operations.T, draws.magnitudes.T, strict=True):
        alone = torch.cat([apply(alone[i : i + 1], operations[i : i + 1], magnitudes[i : i + 1]) for i in range(64)])
    torch.testing.assert_close(changed, alone, atol=1e-5, rtol=0)
    assert NAMES[0] == "Identity"


def test_a_cut_out_square_has_the_mean_and_its_side() -> None:
    plain = Augmentation(crop_scale=1, flip=False)
    holed = Augmentation(crop_scale=1, flip=False, cutout=0.5)
    images = photos(32)
    results = [
        Pipeline(PIPELINE.mean, PIPELINE.std, each).augmented(images, 16, torch.Generator().manual_seed(0))
        for each in (plain, holed)
    ]
    changed = (results[0] != results[1]).any(1)
    assert bool((results[1].permute(0, 2, 3, 1)[changed] == 0).all())
    heights = changed.any(2).sum(1)
    assert int(heights.max()) == 8
    assert int(heights.min()) >= 4  # a centre inside the image keeps at least half of the square in it


@given(st.integers(1, 40), st.integers(0, 40), st.integers(0, 40), st.integers(0, 99))
def test_parts_of_a_batch_are_changed_as_in_the_whole(count: int, first: int, last: int, seed: int) -> None:
    augmentation = Augmentation(policy="autoaugment", cutout=0.3)
    pipeline = Pipeline(PIPELINE.mean, PIPELINE.std, augmentation)
    images = photos(count, side=8)
    whole = pipeline.augmented(images, 8, torch.Generator().manual_seed(seed))
    part = slice(min(first, last, count), min(max(first, last), count))
    if part.start < part.stop:
        generator = torch.Generator().manual_seed(seed)
        ours = pipeline.augmented(images[part], 8, generator, count=count, part=part)
        torch.testing.assert_close(ours, whole[part], atol=1e-5, rtol=1e-5)


@given(st.integers(1, 20))
def test_neighbours_are_each_others(count: int) -> None:
    other = neighbours(count, torch.device("cpu"))
    assert torch.equal(other[other], torch.arange(count))
    assert int((other == torch.arange(count)).sum()) == count % 2


def test_evaluation_may_look_at_the_middle_only() -> None:
    images = torch.zeros(2, 3, 64, 64, dtype=torch.uint8)
    images[:, :, 4:60, 4:60] = 200
    middle = Pipeline((0.0,) * 3, (1.0,) * 3, center=0.875)(images, 48)
    torch.testing.assert_close(middle, torch.full((2, 3, 48, 48), 200 / 255))
