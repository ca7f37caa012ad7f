"""Search spaces by name: integers, ordered and unordered choices, and conditions between them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nat2.errors import ArchError, ConfigError
from nat2.space.features import one_hot
from nat2.space.space import FeatureKind, Genomes, Sampling
from nat2.wording import shown

Value = str | int | float | bool | None
"""What a parameter can be."""


@dataclass(frozen=True)
class Parameter:
    """A parameter with its values; made by `integer`, `ordered` and `categorical`."""

    values: tuple[Value, ...]
    is_ordered: bool
    """Whether neighbouring values are alike."""
    when: tuple[tuple[str, tuple[Value, ...]], ...] = ()
    """Other parameters, and those of their values with which this one counts."""

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ConfigError: there is none, one is there twice, or one cannot be written down.
        """
        if not self.values:
            raise ConfigError("a parameter needs at least one value")
        wrong = [value for value in self.values if not isinstance(value, str | int | float | bool | None)]
        if wrong:
            raise ConfigError(f"values are texts, numbers, True, False or None; got {wrong[0]!r}: name it instead")
        if any(isinstance(value, float) and not math.isfinite(value) for value in self.values):
            raise ConfigError(f"values must be finite; got {self.values!r}")
        if len(set(self.values)) < len(self.values):
            raise ConfigError(f"a parameter has each value once (1, 1.0 and True are equal); got {self.values!r}")


When = Mapping[str, Value | Sequence[Value]]


def integer(low: int, high: int, *, step: int = 1, when: When | None = None) -> Parameter:
    """A parameter with the values ``low``, ``low + step`` and so on up to ``high``.

    Args:
        low: The smallest value.
        high: The largest value, if a whole number of steps leads to it.
        step: Distance of the values.
        when: A condition: for each of some other parameters the value, or a list of values, with which this one counts.

    Raises:
        ConfigError: there is no such value.
    """
    numbers = {"low": low, "high": high, "step": step}
    wrong = [name for name, value in numbers.items() if isinstance(value, bool) or not isinstance(value, int)]
    if wrong:
        raise ConfigError(f"`{wrong[0]}` must be a whole number; got {numbers[wrong[0]]!r}")
    if step < 1 or low > high:
        raise ConfigError(f"an integer needs low <= high and a step of at least 1; got {low}, {high} and {step}")
    return Parameter(tuple(range(low, high + 1, step)), True, _condition(when))


def ordered(values: Sequence[Value], *, when: When | None = None) -> Parameter:
    """A parameter whose values have an order, e.g. ``ordered([16, 32, 64])``: neighbours are alike."""
    return Parameter(_several(values), True, _condition(when))


def categorical(values: Sequence[Value], *, when: When | None = None) -> Parameter:
    """A parameter whose values have no order, e.g. ``categorical(["adam", "sgd"])``."""
    return Parameter(_several(values), False, _condition(when))


def _several(values: Sequence[Value]) -> tuple[Value, ...]:
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise ConfigError(f"the values of a parameter are a list; got {values!r}")
    return tuple(values)


def _condition(when: When | None) -> tuple[tuple[str, tuple[Value, ...]], ...]:
    listed = ((name, v if isinstance(v, list | tuple) else (v,)) for name, v in (when or {}).items())
    return tuple((name, tuple(values)) for name, values in listed)


class NamedArch(Mapping[str, Value]):
    """Values by name of the parameter, without those that do not count; hashable."""

    def __init__(self, values: Mapping[str, Value]) -> None:
        """Take over some values."""
        self._values = dict(values)

    def __getitem__(self, name: str) -> Value:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __hash__(self) -> int:
        return hash(frozenset(self._values.items()))

    def __repr__(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self._values.items())


class NamedSpace:
    """A search space of named parameters.

        space = NamedSpace(
            optimiser=categorical(["sgd", "adam"]),
            momentum=ordered([0.0, 0.9, 0.99], when={"optimiser": "sgd"}),
            layers=integer(1, 6),
        )

    Its architectures are mappings (`NamedArch`): ``arch["layers"]``. A parameter whose condition does not hold is
    absent from them, so that settings that differ only in what does not count are one architecture.
    """

    def __init__(self, /, **parameters: Parameter) -> None:
        """Name the parameters; a condition may be about earlier ones.

        Raises:
            ConfigError: there is none, or a condition is about an unknown or later parameter or value.
        """
        if not parameters:
            raise ConfigError("a space needs at least one parameter")
        self.parameters: Mapping[str, Parameter] = dict(parameters)
        """By name."""
        before: dict[str, Parameter] = {}
        for name, parameter in self.parameters.items():
            if not isinstance(parameter, Parameter):
                raise ConfigError(f"{name} must be an integer(), ordered() or categorical(); got {parameter!r}")
            for other, values in parameter.when:
                if other not in before:
                    raise ConfigError(f"the condition of {name} must be about a parameter before it; got {other!r}")
                unknown = [value for value in values if value not in before[other].values]
                if unknown or not values:
                    raise ConfigError(f"the condition of {name}: {other} has no value {unknown or '(none given)'}")
            before[name] = parameter
        self._sizes = np.array([len(each.values) for each in self.parameters.values()])

    @cached_property
    def _conditions(self) -> list[list[tuple[int, NDArray[np.int64]]]]:
        """For each gene the genes that it depends on, and the values of those with which it counts."""
        names, parameters = list(self.parameters), list(self.parameters.values())
        return [
            [
                (names.index(other), np.array([self.parameters[other].values.index(value) for value in values]))
                for other, values in parameter.when
            ]
            for parameter in parameters
        ]

    @property
    def lower(self) -> Genomes:
        """Smallest value of each gene: the place of the first value."""
        return np.zeros(len(self._sizes), dtype=np.int64)

    @property
    def upper(self) -> Genomes:
        """Largest value of each gene: the place of the last value."""
        upper: Genomes = self._sizes - 1
        return upper

    @property
    def size(self) -> int:
        """How many architectures there are; counts them one by one if there are conditions."""
        if not any(each.when for each in self.parameters.values()):
            return math.prod(self._sizes.tolist())
        ways: dict[tuple[int, ...], int] = {(): 1}  # by the genes that later conditions look at
        needed = [{o for later in self._conditions[g + 1 :] for o, _ in later} for g in range(len(self._sizes))]
        held: list[int] = []
        for gene, size in enumerate(self._sizes.tolist()):
            following: dict[tuple[int, ...], int] = {}
            keep = [g for g in [*held, gene] if g in needed[gene]]
            for state, count in ways.items():
                known = dict(zip(held, state, strict=True))
                counts = all(known[other] in values for other, values in self._conditions[gene])
                for value in range(size) if counts else (-1,):  # what does not count has no value
                    here = known | {gene: value}
                    place = tuple(here[g] for g in keep)
                    following[place] = following.get(place, 0) + count
            ways, held = following, keep
        return sum(ways.values())

    def counting(self, genomes: Genomes) -> NDArray[np.bool_]:
        """Which genes count, shape (n, genes)."""
        counts = np.ones(genomes.shape, dtype=bool)
        for gene, conditions in enumerate(self._conditions):
            for other, values in conditions:
                counts[:, gene] &= counts[:, other] & np.isin(genomes[:, other], values)
        return counts

    def canonical(self, genomes: Genomes) -> Genomes:
        """Set genes that do not count to 0, shape (n, genes)."""
        return np.where(self.counting(genomes), genomes, 0)

    def sample(self, count: int, generator: np.random.Generator, *, sampling: Sampling = "balanced") -> Genomes:
        """Draw canonical genomes, shape (count, genes): each parameter uniformly, without what does not count."""
        return self.canonical(generator.integers(0, self._sizes, size=(count, len(self._sizes))))

    def features(self, genomes: Genomes, kind: FeatureKind = "integer") -> NDArray[np.float64]:
        """Inputs of a predictor, shape (n, features).

        ``integer`` is the genome and ``one-hot`` has one column per parameter and value. ``structure`` has one column,
        from -1 to 1, for an ordered parameter, one per value for others, and for parameters with a condition one that
        says whether it holds. What does not count is 0.
        """
        if kind == "integer":
            return genomes.astype(np.float64)
        counts = self.counting(genomes)
        columns = []
        for gene, parameter in enumerate(self.parameters.values()):
            here, size = counts[:, [gene]], len(parameter.values)
            ends = self.lower[[gene]], self.upper[[gene]]
            if kind == "structure" and parameter.is_ordered:
                columns.append(np.where(here, 2 * genomes[:, [gene]] / max(1, size - 1) - 1, 0.0))
            else:
                columns.append(np.where(here, one_hot(genomes[:, [gene]], *ends), 0.0))
            if kind == "structure" and parameter.when:
                columns.append(here.astype(np.float64))
        return np.concatenate(columns, axis=1)

    def decode(self, genome: Genomes) -> NamedArch:
        """The architecture of a genome."""
        genomes = np.asarray(genome, dtype=np.int64)[None]
        counts = self.counting(genomes)[0]
        values = zip(self.parameters.items(), genomes[0].tolist(), counts.tolist(), strict=True)
        return NamedArch({name: each.values[place] for (name, each), place, here in values if here})

    def encode(self, arch: Mapping[str, Value]) -> Genomes:
        """The canonical genome of an architecture, or of any mapping of values; what does not count may be absent.

        Raises:
            ArchError: a value is missing or not allowed, or a parameter is unknown.
        """
        if not isinstance(arch, Mapping):
            raise ArchError(f"an architecture of this space is a mapping of values by name; got {arch!r}")
        if unknown := [name for name in arch if name not in self.parameters]:
            raise ArchError(f"the space has no parameter {unknown[0]!r}; it has {', '.join(self.parameters)}")
        genome = self.lower
        for gene, (name, parameter) in enumerate(self.parameters.items()):
            if name in arch:
                if arch[name] not in parameter.values:
                    allowed = shown(map(repr, parameter.values), 20)
                    raise ArchError(f"{name} must be one of {allowed}; got {arch[name]!r}")
                genome[gene] = parameter.values.index(arch[name])
        counts = self.counting(genome[None])[0]
        missing = [name for name, here in zip(self.parameters, counts, strict=True) if here and name not in arch]
        if missing:
            raise ArchError(f"{arch!r} lacks {missing[0]}")
        return np.where(counts, genome, 0)

    def key(self, arch: Mapping[str, Value]) -> str:
        """The architecture as JSON."""
        return json.dumps(dict(arch))

    def parse(self, key: str) -> NamedArch:
        """Read what `key` gives."""
        values: Any = json.loads(key)
        return self.decode(self.encode(values))
