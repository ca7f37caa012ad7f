"""What a search needs from a search space, and the simplest space: vectors of whole numbers."""

from __future__ import annotations

import math
import operator
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from nat2.errors import ArchError, ConfigError
from nat2.space.features import one_hot
from nat2.space.space import FeatureKind, Genomes, Sampling

A = TypeVar("A", bound=Hashable)


class Searchable(Protocol[A]):
    """A search space whose architectures are of type `A` and are encoded as vectors of whole numbers, the genomes.

    `nat2.space.SearchSpace` and `IntegerSpace` are examples; write your own to search something else.
    """

    @property
    def lower(self) -> Genomes:
        """Smallest value of each gene, shape (genes,)."""

    @property
    def upper(self) -> Genomes:
        """Largest value of each gene, shape (genes,)."""

    def canonical(self, genomes: Genomes) -> Genomes:
        """Map all genomes of the same architecture to the same values, shape (n, genes)."""

    def sample(self, count: int, generator: np.random.Generator, *, sampling: Sampling = "balanced") -> Genomes:
        """Draw canonical genomes, shape (count, genes)."""

    def features(self, genomes: Genomes, kind: FeatureKind = "integer") -> NDArray[np.float64]:
        """Inputs of a predictor, shape (n, features)."""

    def decode(self, genome: Genomes) -> A:
        """The architecture of a genome; equal architectures are equal objects."""

    def encode(self, arch: A) -> Genomes:
        """The canonical genome of an architecture."""

    def key(self, arch: A) -> str:
        """The architecture as a string, its identity in the archive."""

    def parse(self, key: str) -> A:
        """The architecture of a string."""


@dataclass(frozen=True)
class IntegerSpace:
    """Vectors of whole numbers from 0, every one of them an architecture.

    If several vectors stand for the same architecture, override `canonical` in a subclass: everything else follows
    from it.
    """

    choices: tuple[int, ...]
    """How many values each gene has."""

    def __post_init__(self) -> None:
        """Check the choices.

        Raises:
            ConfigError: there is no gene, or one without a value.
        """
        object.__setattr__(self, "choices", tuple(operator.index(count) for count in self.choices))
        if not self.choices or min(self.choices) < 1:
            raise ConfigError(f"a space needs genes of at least one value each; got {self.choices}")

    @property
    def lower(self) -> Genomes:
        """Smallest value of each gene."""
        return np.zeros(len(self.choices), dtype=np.int64)

    @property
    def upper(self) -> Genomes:
        """Largest value of each gene."""
        return np.array(self.choices) - 1

    @property
    def size(self) -> int:
        """How many architectures there are."""
        return math.prod(self.choices)

    def canonical(self, genomes: Genomes) -> Genomes:
        """The genomes unchanged: no two encode the same architecture."""
        return genomes

    def sample(self, count: int, generator: np.random.Generator, *, sampling: Sampling = "balanced") -> Genomes:
        """Draw genomes uniformly, shape (count, genes); both kinds of sampling are the same here."""
        return self.canonical(generator.integers(0, self.choices, size=(count, len(self.choices))))

    def features(self, genomes: Genomes, kind: FeatureKind = "integer") -> NDArray[np.float64]:
        """The genome itself, or one column per gene and value."""
        if kind == "integer":
            return genomes.astype(np.float64)
        return one_hot(genomes, self.lower, self.upper)

    def decode(self, genome: Genomes) -> tuple[int, ...]:
        """The canonical genome as a tuple."""
        return tuple(int(value) for value in self.canonical(np.asarray(genome)[None])[0])

    def encode(self, arch: tuple[int, ...]) -> Genomes:
        """The tuple as a genome.

        Raises:
            ArchError: it is not in the space.
        """
        if len(arch) != len(self.choices) or not all(0 <= v < n for v, n in zip(arch, self.choices, strict=True)):
            raise ArchError(f"{arch} is not in a space of {self.choices} choices")
        genome: Genomes = self.canonical(np.array(arch, dtype=np.int64)[None])[0]
        return genome

    def key(self, arch: tuple[int, ...]) -> str:
        """The values joined by dots, e.g. ``1.0.2``."""
        return ".".join(map(str, arch))

    def parse(self, key: str) -> tuple[int, ...]:
        """Read what `key` gives."""
        return tuple(map(int, key.split(".")))
