"""Evaluations as tables of numbers."""

from __future__ import annotations

import numpy as np

from nat2.nas.archive import Evaluation
from nat2.nas.front import front, minimised, violations
from nat2.nas.objectives import Objective

ERROR, GAIN = Objective(name="error"), Objective(name="gain", direction="max")
SIZE = Objective(name="size", cost="exact", high=10)


def evaluations(*rows: tuple[float, float, float]) -> list[Evaluation[int]]:
    return [Evaluation(n, dict(zip(("error", "gain", "size"), row, strict=True))) for n, row in enumerate(rows)]


def test_values_are_turned_so_that_less_is_better() -> None:
    assert minimised(evaluations((0.1, 2, 1), (0.2, 3, 1)), [ERROR, GAIN]).tolist() == [[0.1, -2], [0.2, -3]]
    assert minimised([], [ERROR, GAIN]).shape == (0, 2)


def test_violations_are_those_of_all_quantities() -> None:
    np.testing.assert_allclose(violations(evaluations((0.1, 2, 15), (0.2, 3, 10)), [ERROR, SIZE]), [0.5, 0])
    assert violations(evaluations((0.1, 2, 15)), []).tolist() == [0]


def test_a_front_is_of_those_that_keep_bounds_on_what_is_not_compared() -> None:
    rows = evaluations((0.1, 2, 15), (0.2, 3, 10), (0.3, 3, 5), (0.3, 4, 5))
    assert front(rows, [ERROR, GAIN], [ERROR, GAIN, SIZE]) == [1, 3]
    assert front(rows[:1], [ERROR, GAIN], [ERROR, GAIN, SIZE]) == [0]  # the nearest, if none keeps them
