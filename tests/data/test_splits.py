"""Splits that never mix."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nat2.data.splits import stratified
from nat2.errors import DataError


@given(
    st.lists(st.integers(3, 60), min_size=2, max_size=6),
    st.floats(0.01, 0.45),
    st.floats(0.01, 0.45),
    st.integers(0, 2**32 - 1),
)
def test_parts_are_disjoint_complete_and_hold_every_class(
    counts: list[int], val: float, test: float, seed: int
) -> None:
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    parts = stratified(labels, [str(c) for c in range(len(counts))], (val, test), np.random.default_rng(seed))
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(len(labels)))
    for part in parts:
        assert set(labels[part]) == set(range(len(counts)))
    for part, fraction in zip(parts[1:], (val, test), strict=True):
        shares = np.bincount(labels[part]) - fraction * np.array(counts)
        assert (np.abs(shares) <= 1).all()


def test_the_seed_decides_the_split() -> None:
    labels = np.repeat([0, 1], 50)
    first, again, other = (stratified(labels, "ab", (0.2,), np.random.default_rng(s)) for s in (0, 0, 1))
    np.testing.assert_array_equal(first[1], again[1])
    assert (first[1] != other[1]).any()


def test_classes_with_too_few_images_are_all_named() -> None:
    labels = np.repeat([0, 1, 2], [2, 9, 1])
    with pytest.raises(DataError, match=r"at least 3 images.*cat \(2\), fox \(1\)"):
        stratified(labels, ["cat", "dog", "fox"], (0.2, 0.2), np.random.default_rng(0))
