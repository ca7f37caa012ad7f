"""A run knows how far the errors that it measures can be off by chance, and chooses by what to expect."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from nat2.nas.archive import Evaluation
from nat2.nas.objectives import OBJECTIVES
from nat2.pipeline.finetune import chosen_of
from nat2.pipeline.stages import with_noise
from nat2.space import Arch
from nat2.training.settings import FinetuneSettings


def test_errors_on_the_same_images_are_noisy_and_nothing_else_is() -> None:
    names = ("error", "int8_error", "params", "latency")
    error, in_8_bits, *others = with_noise([OBJECTIVES[name] for name in names], 400)
    assert not any(each.noise for each in others)
    for each in (error, in_8_bits):  # half of what it is on images of their own
        assert each.standard_errors(np.array([0.1]))[0] == pytest.approx(np.sqrt(0.1 * 0.9 / 400) / 2, rel=0.01)
        assert (each.unit, each.cost) == ("share", "predicted")


def evaluation(key: str, error: float, params: float) -> Evaluation[Arch]:
    return Evaluation(Arch.from_key(key), {"error": error, "params": params, "macs": params})


@pytest.mark.parametrize("expected", [0.12, -0.01])
def test_what_is_fine_tuned_is_chosen_by_expected_values_and_keeps_the_measured_ones(expected: float) -> None:
    keys = ["r48-w0.5-k3e3.k3e3", "r48-w0.5-k3e3.k3e4", "r48-w0.5-k3e3.k3e6"]
    measured = [evaluation(key, *values) for key, values in zip(keys, [(0.3, 1), (0.1, 2), (0.11, 3)], strict=True)]
    # The second was lucky, so that it has no place on the front beside the first and the third.
    front = [evaluation(keys[0], 0.29, 1), evaluation(keys[2], expected, 3)]
    context: Any = SimpleNamespace(
        config=SimpleNamespace(finetune=FinetuneSettings(), networks=5),
        objectives=(OBJECTIVES["error"], OBJECTIVES["params"]),
        evaluator=SimpleNamespace(validation=range(200)),
    )
    found: Any = SimpleNamespace(front=tuple(front), evaluated=tuple(measured))
    assert chosen_of(context, found) == [measured[0], measured[2]]
