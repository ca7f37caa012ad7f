"""Whether any network of a space keeps a budget, and which ones do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from nat2.errors import ConfigError, Nat2Error
from nat2.nas.budget import format_bound, format_value
from nat2.nas.evolve import evolve
from nat2.nas.functions import ExactCost
from nat2.nas.objectives import Objective, violation
from nat2.seeds import derive, numpy_generator
from nat2.space.searchable import A, Searchable
from nat2.space.space import Genomes

_INVALID = 1e30  # violation of an invalid genome: more than any other


def check_budget(
    space: Searchable[A],
    quantities: Sequence[Objective],
    costs: Mapping[str, ExactCost],
    *,
    seed: int = 0,
    change: str = "the space",
) -> Genomes:
    """Networks that keep all bounds on exact quantities, at least one.

    Args:
        space: The search space.
        quantities: Those that may be bounded; only exact ones are looked at.
        costs: The functions of the exact ones, by name.
        seed: Decides where the search for such networks begins.
        change: What the error advises to change beside the budget.

    Returns:
        Canonical genomes, shape (n, genes).

    Raises:
        ConfigError: none was found; the nearest possible values are named.
    """
    bounds = [each for each in quantities if each.cost == "exact" and each.bounded]
    ends = space.canonical(np.stack([space.lower, space.upper]))
    drawn = np.unique(np.concatenate([ends, space.sample(1000, numpy_generator(seed, "budget"))]), axis=0)

    def violated(genomes: Genomes) -> NDArray[np.float64]:
        return exact_violation(bounds, exact(bounds, costs, genomes))

    computed = [each for each in quantities if each.cost == "exact"]
    valid = np.isfinite(exact(computed, costs, drawn)).all(axis=1)
    if not valid.any():
        raise ConfigError(
            f"the exact objectives ({', '.join(each.name for each in computed)}) are not finite for any of "
            f"{len(drawn):,} architectures; a value that is not finite marks an architecture as invalid"
        )
    kept = drawn[(violated(drawn) <= 0) & valid]
    if len(kept):
        return kept
    nearest = drawn[np.argsort(violated(drawn), kind="stable")[:50]]
    last = evolve(
        space,
        lambda genomes: np.minimum(violated(genomes), _INVALID)[:, None],
        n_objectives=1,
        population=50,
        generations=25,
        start=nearest,
        seed=derive(seed, "budget"),
    )
    excess = violated(last)
    if excess.min() <= 0:
        return last[excess <= 0]
    closest = exact(bounds, costs, last[[int(excess.argmin())]])[0]
    values = ", ".join(
        f"{each.name} {format_value(float(value), each.unit)}" for each, value in zip(bounds, closest, strict=True)
    )
    raise ConfigError(
        f"no network of the space keeps the budget ({', '.join(map(format_bound, bounds))}); the nearest has {values}. "
        f"Widen the budget, or change {change}"
    )


def exact_violation(quantities: Sequence[Objective], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """By how much genomes violate the bounds of exact quantities, shape (n, quantities) to (n,).

    Infinity if a value is not finite: such a genome is invalid.
    """
    finite = np.isfinite(values).all(axis=1)
    violated: NDArray[np.float64] = np.where(
        finite, violation(quantities, np.where(np.isfinite(values), values, 0.0)), np.inf
    )
    return violated


def exact(quantities: Sequence[Objective], costs: Mapping[str, ExactCost], genomes: Genomes) -> NDArray[np.float64]:
    """Values of exact quantities of canonical genomes, shape (n, quantities); `costs` has their functions by name.

    Values that are not finite mark a genome as invalid.

    Raises:
        ConfigError: the function of one of them fails, or does not return a number for each network.
    """
    if not quantities:
        return np.zeros((len(genomes), 0))
    return np.stack([_computed(each.name, costs[each.name], genomes) for each in quantities], axis=1)


def _computed(name: str, cost: ExactCost, genomes: Genomes) -> NDArray[np.float64]:
    try:
        values = np.asarray(cost(genomes), dtype=np.float64)
    except Nat2Error:
        raise
    except Exception as error:  # whatever the user's function does
        raise ConfigError(f"the exact objective {name} fails ({type(error).__name__}: {error})") from error
    if values.shape != (len(genomes),):
        raise ConfigError(
            f"the exact objective {name} must return a number for each network, shape ({len(genomes)},); got shape "
            f"{values.shape}"
        )
    return values
