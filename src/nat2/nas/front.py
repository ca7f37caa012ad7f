"""Evaluations as tables of numbers: their objectives, violations, and which of them are non-dominated."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nat2.nas.archive import Evaluation
from nat2.nas.evolve import Objectives
from nat2.nas.objectives import Objective, violation
from nat2.nas.select import Violated, front_of
from nat2.space.searchable import A


def minimised(evaluations: Sequence[Evaluation[A]], objectives: Sequence[Objective]) -> Objectives:
    """The objectives of evaluations, less being better, shape (n, objectives)."""
    return np.stack([each.minimised(_column(evaluations, each)) for each in objectives], axis=1)


def violations(evaluations: Sequence[Evaluation[A]], quantities: Sequence[Objective]) -> Violated:
    """How much evaluations violate the bounds of quantities, shape (n,); 0 for nothing."""
    columns = [_column(evaluations, each) for each in quantities]
    return violation(quantities, np.stack(columns, axis=1) if columns else np.empty((len(evaluations), 0)))


def front(
    evaluations: Sequence[Evaluation[A]], objectives: Sequence[Objective], quantities: Sequence[Objective]
) -> list[int]:
    """Indices of the non-dominated evaluations within the bounds; if none keeps them, of those that violate least.

    Args:
        evaluations: At least one.
        objectives: What is compared.
        quantities: Those whose bounds count.
    """
    numbers = front_of(minimised(evaluations, objectives), violations(evaluations, quantities))
    return [int(number) for number in numbers]


def _column(evaluations: Sequence[Evaluation[A]], quantity: Objective) -> NDArray[np.float64]:
    return np.array([evaluation[quantity.name] for evaluation in evaluations], dtype=np.float64)
