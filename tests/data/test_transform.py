"""One definition of how images become inputs."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nat2.data.augment import augment as apply_drawn
from nat2.data.augment import draw
from nat2.data.dataset import Split
from nat2.data.settings import Augmentation
from nat2.data.transform import (
    Pipeline,
    ResizedImages,
    balanced_order,
    resize,
    scale,
    shuffled_batches,
    training_batches,
)
from tests.pixels import pixels_of


def pixels(count: int = 6, side: int = 16, channels: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, channels, side, side), dtype=torch.uint8, generator=generator)


def augment(images: torch.Tensor, augmentation: Augmentation, generator: torch.Generator) -> torch.Tensor:
    return apply_drawn(images, augmentation, draw(len(images), augmentation, generator))


PIPELINE = Pipeline((0.4, 0.5, 0.6), (0.2, 0.3, 0.4))


def test_inputs_are_normalised_and_channels_last() -> None:
    inputs = PIPELINE(pixels(), 16)
    assert inputs.is_contiguous(memory_format=torch.channels_last)
    restored = inputs * torch.tensor(PIPELINE.std).view(1, 3, 1, 1) + torch.tensor(PIPELINE.mean).view(1, 3, 1, 1)
    torch.testing.assert_close((restored * 255).round().byte(), pixels())


@pytest.mark.parametrize("resolution", [8, 16, 24])
def test_resizing_keeps_the_mean(resolution: int) -> None:
    images = scale(pixels())
    resized = resize(images, resolution)
    assert resized.shape[-2:] == (resolution, resolution)
    torch.testing.assert_close(resized.mean(), images.mean(), atol=0.02, rtol=0)


def test_without_crop_and_flip_augmentation_changes_nothing() -> None:
    images = scale(pixels())
    same = augment(images, Augmentation(crop_scale=1.0, flip=False), torch.Generator().manual_seed(0))
    torch.testing.assert_close(same, images, atol=1e-5, rtol=0)


def test_flipping_mirrors_some_images_and_leaves_the_others() -> None:
    images = scale(pixels(40))
    flipped = augment(images, Augmentation(crop_scale=1.0, flip=True), torch.Generator().manual_seed(0))
    same = (flipped - images).abs().amax((1, 2, 3)) < 1e-4
    mirrored = (flipped - images.flip(3)).abs().amax((1, 2, 3)) < 1e-4
    assert (same ^ mirrored).all()
    assert 8 < int(mirrored.sum()) < 32


@given(st.floats(0.2, 1.0), st.integers(0, 2**32 - 1))
def test_crops_stay_inside_the_image(crop_scale: float, seed: int) -> None:
    ramp = torch.linspace(0, 1, 32).expand(4, 1, 32, 32).contiguous()
    generator = torch.Generator().manual_seed(seed)
    cropped = augment(ramp, Augmentation(crop_scale=crop_scale, flip=False), generator)
    row = cropped[:, 0, 16]
    assert (row.diff() > -1e-6).all()  # nothing is reflected at the border
    span = (row[:, -1] - row[:, 0]) * 31 / 31
    assert (span >= crop_scale**0.5 - 0.08).all()


def test_the_seed_decides_the_crops() -> None:
    first, again, other = (PIPELINE.augmented(pixels(), 16, torch.Generator().manual_seed(s)) for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@given(st.integers(1, 50), st.integers(1, 20))
def test_an_epoch_shows_no_image_twice(count: int, batch_size: int) -> None:
    batches = list(shuffled_batches(count, batch_size, torch.Generator().manual_seed(0)))
    indices = torch.cat(batches)
    assert len(set(indices.tolist())) == len(indices)
    assert len(batches) == count // min(batch_size, count)


@pytest.mark.parametrize("memory_limit", [0, 2**30])
def test_kept_and_recomputed_inputs_are_the_same(memory_limit: int) -> None:
    split = Split(pixels(10), torch.zeros(10, dtype=torch.long))
    images = ResizedImages(split, PIPELINE, batch_size=4, memory_limit=memory_limit)
    first, second = (torch.cat(list(images.batches(12))) for _ in range(2))
    assert torch.equal(first, second)
    torch.testing.assert_close(first, PIPELINE(pixels_of(split), 12))
    assert bool(images._kept) == bool(memory_limit)


@pytest.mark.parametrize("count", [1, 4, 5, 9])
def test_no_batch_is_left_with_a_single_image_of_many(count: int) -> None:
    images = ResizedImages(Split(pixels(count), torch.zeros(count, dtype=torch.long)), PIPELINE, batch_size=4)
    sizes = [len(batch) for batch in images.batches(16)]
    assert sum(sizes) == count
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) <= 4


COUNTS = st.lists(st.integers(1, 30), min_size=2, max_size=6)


@given(COUNTS, st.integers(0, 2**32 - 1))
def test_a_balanced_epoch_holds_every_class_equally_often_and_repeats_only_what_it_must(
    counts: list[int], seed: int
) -> None:
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    order = balanced_order(labels, torch.Generator().manual_seed(seed))
    assert len(order) == len(labels)
    drawn = torch.bincount(labels[order], minlength=len(counts))
    assert drawn.max() - drawn.min() <= 1
    times = torch.bincount(order, minlength=len(labels))
    for label in range(len(counts)):
        own = times[labels == label]
        assert own.max() - own.min() <= 1


@pytest.mark.parametrize("counts", [(1, 5, 12), (3, 3, 3), (40, 1, 2)])
def test_in_expectation_a_balanced_batch_holds_every_class_equally_often(counts: tuple[int, ...]) -> None:
    """Remainders and the batch that an epoch leaves out favour no class."""
    labels = torch.arange(3).repeat_interleave(torch.tensor(counts))
    split = Split(pixels(len(labels)), labels, balanced=True)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.cat([torch.cat(list(training_batches(split, 4, generator))) for _ in range(500)])
    shares = torch.bincount(labels[drawn]) / len(drawn)
    torch.testing.assert_close(shares, torch.full((3,), 1 / 3), atol=4 * (2 / 9 / len(drawn)) ** 0.5, rtol=0)


def test_without_balance_batches_are_the_shuffled_images() -> None:
    split = Split(pixels(10), torch.tensor([0] * 9 + [1]))
    batches = list(training_batches(split, 3, torch.Generator().manual_seed(1), steps=5))
    shuffled = list(shuffled_batches(10, 3, torch.Generator().manual_seed(1), steps=5))
    assert all(torch.equal(one, other) for one, other in zip(batches, shuffled, strict=True))


def test_parts_and_joined_splits_draw_as_the_split_they_come_from() -> None:
    split = Split(pixels(4), torch.tensor([0, 0, 0, 1]), ("a", "b", "c", "d"), balanced=True)
    other = dataclasses.replace(split, balanced=False)
    assert split.part(torch.tensor([0, 3])).balanced
    assert split.joined(other).balanced
    assert not other.joined(split).balanced
    assert split.joined(other).names == [*"abcd"] * 2
