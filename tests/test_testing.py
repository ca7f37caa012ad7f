"""What `check_space` says about spaces that break a law, and about those that keep all."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import nat2
from nat2.errors import SpaceError
from nat2.space import Genomes, IntegerSpace, Macro, SearchSpace

CHECK = nat2.testing.check_space


class Sorted(IntegerSpace):
    """The order of the genes means nothing; said in one place."""

    def canonical(self, genomes: Genomes) -> Genomes:
        return np.sort(genomes, axis=1)


@pytest.mark.parametrize(
    "space",
    [IntegerSpace((3, 4, 5)), IntegerSpace((1,)), Sorted((4, 4, 4)), SearchSpace.of(Macro(classes=2), (16, 24))],
)
def test_good_spaces_pass(space: Any) -> None:
    CHECK(space)


def test_sample_and_encode_follow_from_canonical() -> None:
    space = Sorted((4, 4))
    assert (np.diff(space.sample(50, np.random.default_rng(0)), axis=1) >= 0).all()
    assert space.encode((3, 1)).tolist() == [1, 3]
    assert space.decode(np.array([3, 1])) == (1, 3)


def broken(**methods: Any) -> Any:
    return type("Broken", (IntegerSpace,), methods)((3, 3))


@pytest.mark.parametrize(
    ("methods", "law"),
    [
        ({"canonical": lambda self, genomes: genomes[:, ::-1]}, "changes nothing the second time"),
        ({"canonical": lambda self, genomes: genomes + 1}, "stays within"),
        ({"canonical": lambda self, genomes: genomes[:1]}, "keeps the shape"),
        ({"canonical": lambda self, genomes: np.minimum(genomes, genomes[0])}, "each genome by itself"),
        (
            {"sample": lambda self, count, generator, sampling="": np.random.randint(0, 3, (count, 2))},
            "generator alone",
        ),
        (
            {"sample": lambda self, count, generator, sampling="": np.zeros((1, 2), int)},
            r"shape \(200, 2\); got \(1, 2\)",
        ),
        (
            {"canonical": lambda self, g: np.sort(g, 1), "encode": lambda self, a: np.array(a)[::-1]},
            "`encode` of `decode`",
        ),
        ({"decode": lambda self, genome: [int(v) for v in genome]}, "unhashable"),
        ({"decode": lambda self, genome: (int(genome[0]), 0)}, "decode to different architectures"),
        ({"key": lambda self, arch: str(arch[0])}, "different keys; .* both give"),
        ({"key": lambda self, arch: 3}, "`key` gives a string; got 3"),
        ({"parse": lambda self, key: (0, 0)}, r"parsed as \(0, 0\)"),
        ({"parse": lambda self, key: None.nothing}, "keys: AttributeError"),  # type: ignore[attr-defined]
        ({"features": lambda self, genomes, kind="": genomes - genomes.mean(0)}, "do not depend on the others"),
        ({"features": lambda self, genomes, kind="": genomes[:, 0]}, r"shape \(n, features\)"),
        ({"features": lambda self, genomes, kind="": genomes / 0.0}, "finite"),
        ({"lower": np.array([0, 4])}, "nowhere above `upper`; gene 1 has 4 and 2"),
        ({"lower": np.zeros(2)}, "are integers"),
        ({"lower": np.zeros(3, int)}, "same shape"),
    ],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_each_broken_law_is_named_with_an_example(methods: dict[str, Any], law: str) -> None:
    with pytest.raises(SpaceError, match=f"(?s)Broken breaks .* of a search space:.*{law}"):
        CHECK(broken(**methods))


def test_a_space_that_changes_its_argument_is_found_out() -> None:
    def canonical(self: Any, genomes: Genomes) -> Genomes:
        genomes[:, 0] = 0
        return genomes

    with pytest.raises(SpaceError, match="does not change its argument"):
        CHECK(broken(canonical=canonical))


def test_the_package_completes() -> None:
    assert set(nat2.__all__) <= set(dir(nat2))
    for name in nat2.__all__:
        assert getattr(nat2, name) is not None
