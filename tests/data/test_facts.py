"""What is known of images without reading them again: exact statistics, and which are equal."""

from __future__ import annotations

import numpy as np
import pytest

from nat2.data.facts import constant_values, facts_of, repeated, statistics_of


@pytest.mark.parametrize(("channels", "high"), [(1, 255), (3, 255), (3, 1)])
def test_statistics_are_those_of_all_values(channels: int, high: int) -> None:
    images = np.random.default_rng(0).integers(0, high + 1, (7, channels, 5, 5), dtype=np.uint8)
    mean, std = statistics_of(facts_of(images), 25)
    values = images.swapaxes(0, 1).reshape(channels, -1) / 255
    assert mean == pytest.approx(values.mean(axis=1), rel=1e-12)
    assert std == pytest.approx(np.maximum(values.std(axis=1), 1e-3), rel=1e-12)


def test_sums_beyond_64_bits_are_exact() -> None:
    facts = facts_of(np.full((2, 1, 3, 3), 200, np.uint8))
    facts.squares[:] = np.uint64(2**64 - 1)
    facts.sums[:] = 0
    assert statistics_of(facts, 9)[1] == pytest.approx(((2 * (2**64 - 1) / 18) ** 0.5 / 255,))


def test_constant_images_are_found_by_channel() -> None:
    images = np.zeros((4, 3, 6, 6), np.uint8)
    images[:, 1], images[:, 2] = 9, 255
    assert constant_values(facts_of(images), 36) == [0, 9, 255]
    images[2, 1, 3, 3] = 8
    assert constant_values(facts_of(images), 36) is None


def test_equal_images_are_grouped_in_order() -> None:
    images = np.random.default_rng(0).integers(0, 256, (9, 1, 4, 4), dtype=np.uint8)
    first, second = facts_of(images[[0, 1, 2, 1, 3]]).digests, facts_of(images[[4, 2, 1]]).digests
    assert repeated([first, second]) == [[(0, 1), (0, 3), (1, 2)], [(0, 2), (1, 1)]]
    alike = first.copy()
    alike[:, 8:] += 1  # digests that begin in the same way
    assert repeated([first[:1], alike[:1]]) == []
    assert repeated([first[:0], second[:1]]) == []
    assert repeated([first[:0]]) == []
