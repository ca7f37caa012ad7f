"""What predictors see of networks."""

from __future__ import annotations

import numpy as np
import pytest

from nat2.space import Arch, Layer, Macro, SearchSpace
from nat2.space.features import structure

FAMILIES = [
    Macro(classes=10, early_exits=exits, dense_skips=False, parallel_blocks=parallel)
    for exits in (False, True)
    for parallel in (False, True)
]


@pytest.mark.parametrize("macro", FAMILIES, ids=lambda macro: macro.family)
def test_different_networks_look_different(macro: Macro) -> None:
    space = SearchSpace.of(macro, (48, 56, 64))
    genomes = np.unique(space.sample(500, np.random.default_rng(0)), axis=0)
    assert len(np.unique(structure(space, genomes).round(9), axis=0)) == len(genomes)


def test_what_is_not_executed_is_nothing() -> None:
    space = SearchSpace(resolutions=(48, 64))
    one = Arch(48, 1.0, ((Layer(3, 3),) * 2,))
    two = Arch(48, 1.0, ((Layer(3, 3),) * 2, (Layer(7, 6),) * 4))
    first, second = structure(space, space.encode_all([one, two]))
    head = 3 + 2 + 1 + 5
    layers = first[head : head + 60].reshape(5, 4, 3)
    assert (layers[0, :2] == (1, -1, -1)).all()
    assert not layers[0, 2:].any()
    assert not layers[1:].any()
    layers = second[head : head + 60].reshape(5, 4, 3)
    assert (layers[1] == (1, 1, 1)).all()
    sums = second[head + 60 : head + 75].reshape(5, 3)
    assert sums[:2].tolist() == [[2, -2, -2], [4, 4, 4]]
    assert second[head + 75 : head + 78].tolist() == [6, 2, 2]


def test_a_space_with_one_choice_has_features() -> None:
    space = SearchSpace(resolutions=(48,), kernels=(3,), expands=(4,), depths=(2,), early_exits=False)
    assert np.isfinite(structure(space, space.lower[None])).all()
