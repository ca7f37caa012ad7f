"""Spaces by name: what counts, what is the same, and what is refused."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import nat2
from nat2.errors import ArchError, ConfigError
from nat2.space.named import NamedArch, NamedSpace, Parameter, categorical, integer, ordered
from nat2.testing import check_space

SPACE = NamedSpace(
    optimiser=categorical(["sgd", "adam", "none"]),
    momentum=ordered([0.0, 0.9, 0.99], when={"optimiser": "sgd"}),
    nesterov=categorical([False, True], when={"momentum": [0.9, 0.99]}),
    decay=ordered([None, 1e-4], when={"optimiser": ["sgd", "adam"]}),
    layers=integer(2, 8, step=3),
)


def test_a_space_by_name_keeps_the_laws_of_a_space() -> None:
    check_space(SPACE)


def test_a_condition_on_a_parameter_that_does_not_count_does_not_hold() -> None:
    arch = SPACE.decode(SPACE.encode({"optimiser": "adam", "decay": None, "layers": 5, "momentum": 0.9}))
    assert dict(arch) == {"optimiser": "adam", "decay": None, "layers": 5}
    nested = SPACE.decode(np.array([1, 1, 1, 0, 0]))  # momentum would allow nesterov, but does not count itself
    assert set(nested) == {"optimiser", "decay", "layers"}


def test_the_size_is_the_number_of_different_architectures() -> None:
    every = {SPACE.decode(np.array(genome)) for genome in itertools.product(*(range(n + 1) for n in SPACE.upper))}
    # sgd: momentum 0, or two with nesterov or not, times two decays; adam: two decays; none: one; times three depths
    assert SPACE.size == len(every) == 3 * ((1 + 2 * 2) * 2 + 2 + 1)
    assert NamedSpace(a=integer(1, 4), b=categorical(["xyz", "w"])).size == 8


@given(st.integers(0, 10**6))
def test_architectures_are_mappings_that_can_be_looked_up_and_written_down(seed: int) -> None:
    genome = SPACE.sample(1, np.random.default_rng(seed))[0]
    arch = SPACE.decode(genome)
    assert SPACE.parse(SPACE.key(arch)) == arch == dict(arch)
    assert {arch: 1}[NamedArch(dict(reversed(list(arch.items()))))] == 1
    assert repr(arch).startswith(f"optimiser={arch['optimiser']!r}")


def test_structure_puts_ordered_values_on_a_line_and_others_in_columns() -> None:
    space = NamedSpace(kind=categorical(["a", "b"]), size=ordered([1, 2, 10], when={"kind": "b"}))
    seen = space.features(np.array([[0, 0], [1, 0], [1, 1], [1, 2]]), "structure")
    assert seen.tolist() == [[1, 0, 0, 0], [0, 1, -1, 1], [0, 1, 0, 1], [0, 1, 1, 1]]
    hot = space.features(np.array([[0, 0], [1, 0]]), "one-hot")
    assert hot.tolist() == [[1, 0, 0, 0, 0], [0, 1, 1, 0, 0]]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NamedSpace(), "at least one parameter"),
        (lambda: NamedSpace(a=[1, 2]), "a must be an integer"),  # type: ignore[arg-type]
        (lambda: integer(3, 2), "low <= high"),
        (lambda: integer(1, 2, step=0), "step of at least 1"),
        (lambda: integer(1.5, 2), "`low` must be a whole number"),  # type: ignore[arg-type]
        (lambda: ordered([]), "at least one value"),
        (lambda: ordered([1, True]), "each value once"),
        (lambda: ordered([1.0, float("nan")]), "finite"),
        (lambda: categorical("adam"), "are a list"),
        (lambda: categorical([print]), "name it instead"),  # type: ignore[list-item]
        (lambda: NamedSpace(a=integer(1, 2, when={"b": 1}), b=integer(1, 2)), "must be about a parameter before it"),
        (lambda: NamedSpace(a=integer(1, 2), b=integer(1, 2, when={"a": 3})), r"a has no value \[3\]"),
        (lambda: NamedSpace(a=integer(1, 2), b=integer(1, 2, when={"a": []})), "none given"),
    ],
)
def test_spaces_that_mean_nothing_are_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize(
    ("arch", "message"),
    [
        ({"optimiser": "adam", "decay": None}, "lacks layers"),
        ({"optimiser": "adam", "decay": None, "layers": 3}, "layers must be one of 2, 5, 8; got 3"),
        ({"optimiser": "adam", "decay": None, "layers": 2, "rate": 1}, "no parameter 'rate'"),
        ([1, 0, 0, 0, 0], "a mapping of values by name"),
    ],
)
def test_what_is_not_in_the_space_is_refused(arch: Any, message: str) -> None:
    with pytest.raises(ArchError, match=message):
        SPACE.encode(arch)


def test_a_space_by_name_is_searched() -> None:
    def loss(arch: NamedArch) -> float:
        return abs(arch["layers"] - 5) + (arch.get("momentum") != 0.9) + (arch.get("nesterov") is not True)  # type: ignore[operator]

    settings = nat2.SearchSettings(archive=10, generations=4, candidates=4, predictor="bayesian", inner_generations=5)
    found = nat2.search(SPACE, loss, [nat2.Objective(name="loss")], settings=settings)
    assert found.best()["loss"] == 0
    assert {each.arch["layers"] for each in found.front} == {5}


def test_a_parameter_alone_is_a_value_object() -> None:
    assert integer(1, 3) == ordered([1, 2, 3]) == Parameter((1, 2, 3), True) != categorical([1, 2, 3])
