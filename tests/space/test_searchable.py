"""Spaces that are nothing but vectors."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nat2.errors import ArchError, ConfigError
from nat2.space import IntegerSpace

CHOICES = st.lists(st.integers(1, 9), min_size=1, max_size=12).map(tuple)


@given(CHOICES, st.integers(0, 2**32 - 1))
def test_encoding_and_writing_lose_nothing(choices: tuple[int, ...], seed: int) -> None:
    space = IntegerSpace(choices)
    for genome in space.sample(5, np.random.default_rng(seed)):
        arch = space.decode(genome)
        np.testing.assert_array_equal(space.encode(arch), genome)
        assert space.parse(space.key(arch)) == arch


def test_every_vector_is_drawn_and_counted() -> None:
    space = IntegerSpace((2, 3, 1))
    drawn = space.sample(500, np.random.default_rng(0))
    assert len({space.decode(genome) for genome in drawn}) == space.size == 6
    assert space.decode(space.upper) == (1, 2, 0)


def test_one_hot_features_have_a_one_a_gene() -> None:
    space = IntegerSpace((2, 3, 1))
    genomes = space.sample(20, np.random.default_rng(0))
    for kind in ("one-hot", "structure"):
        features = space.features(genomes, kind)
        assert features.shape == (20, 6)
        assert (features.sum(1) == 3).all()


@pytest.mark.parametrize("choices", [(), (3, 0), (-1,)])
def test_spaces_without_architectures_are_refused(choices: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="at least one value"):
        IntegerSpace(choices)


@pytest.mark.parametrize("arch", [(0,), (2, 0), (0, 0, 0), (-1, 0)])
def test_vectors_outside_the_space_are_refused(arch: tuple[int, ...]) -> None:
    with pytest.raises(ArchError, match="not in a space"):
        IntegerSpace((2, 3)).encode(arch)
