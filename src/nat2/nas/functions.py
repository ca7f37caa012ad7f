"""The functions that a search calls: what evaluates, measures and adapts the networks behind the genomes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic, Protocol, SupportsFloat, TypeVar

from numpy.typing import ArrayLike

from nat2.space.searchable import A
from nat2.space.space import Genomes

Measured = Mapping[str, float] | float
A_contra = TypeVar("A_contra", contravariant=True)
ExactCost = Callable[[Genomes], ArrayLike]
"""Takes canonical genomes, shape (n, genes); gives a finite number for each, shape (n,)."""
Measurement = Callable[[A], SupportsFloat]
"""Takes an architecture; gives a finite number that does not depend on the weights."""
Adapt = Callable[[int, Genomes], None]
"""Takes the number of a generation and the genomes of good architectures, shape (n, genes)."""


class Evaluate(Protocol[A_contra]):
    """Evaluates an architecture: a value for each predicted objective by name, or a number if there is only one."""

    def __call__(self, arch: A_contra, /) -> Measured:
        """Measure. With successive halving it is also called with ``share``, the part of the images to look at."""


@dataclass(frozen=True)
class SearchFunctions(Generic[A]):
    """What a search calls, by the cost class of the objectives that it serves."""

    evaluate: Evaluate[A]
    """Gives the ``predicted`` objectives of an architecture."""
    exact: Mapping[str, ExactCost] = field(default_factory=dict)
    """For each ``exact`` objective, by name: canonical genomes, shape (n, genes), to values, shape (n,)."""
    measured: Mapping[str, Measurement[A]] = field(default_factory=dict)
    """For each ``measured`` objective, by name: an architecture to its value."""
    adapt: Adapt | None = None
    """Called after each generation with its number and the genomes of good architectures, shape (n, genes). It may
    change what `evaluate` works with; then the archive is evaluated again. None: `evaluate` never changes."""

    @staticmethod
    def of(evaluate: Evaluate[A] | SearchFunctions[A]) -> SearchFunctions[A]:
        """`evaluate` itself if it is a `SearchFunctions`, else one with nothing but `evaluate`."""
        return evaluate if isinstance(evaluate, SearchFunctions) else SearchFunctions(evaluate)
