"""Which exits are kept."""

from __future__ import annotations

import copy
from itertools import chain, combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nat2.errors import ConfigError
from nat2.space import cost
from nat2.supernet import StaticNetwork
from nat2.training.distill import exit_weights
from nat2.training.prune import best_exits, keep_exits, subsets
from tests.training.conftest import MACRO, SPACE

NETWORK = StaticNetwork(MACRO, SPACE.largest, exits=(1, 2, 3, 4, 5)).eval()


def test_there_are_all_subsets_but_the_empty_one() -> None:
    found = list(subsets((1, 2, 3, 4, 5)))
    assert len(found) == len(set(found)) == 2**5 - 1


@given(st.integers(0, 1000), st.sampled_from(["UNIF", "ASC", "DESC", "MIX"]))
def test_no_subset_is_right_more_often_than_the_one_kept(seed: int, ramp: str) -> None:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 4, (20,), generator=generator)
    logits = torch.randn(5, 20, 4, generator=generator) + torch.nn.functional.one_hot(labels, 4) * torch.rand(
        5, 1, 1, generator=generator
    )
    weights = exit_weights(ramp, 5)[1]  # type: ignore[arg-type]
    kept = best_exits(NETWORK, logits, labels, weights)

    def right(exits: tuple[int, ...]) -> int:
        total = sum(weights[number - 1] * logits[number - 1] for number in exits)
        assert isinstance(total, torch.Tensor)
        return int((total.argmax(1) == labels).sum())

    every = chain.from_iterable(combinations((1, 2, 3, 4, 5), count) for count in range(1, 6))
    assert right(kept) == max(map(right, every))


def test_of_equals_the_cheapest_is_kept() -> None:
    labels = torch.tensor([0, 1, 2, 3])
    logits = torch.nn.functional.one_hot(labels, 4).float().expand(5, 4, 4)  # every exit is always right
    assert best_exits(NETWORK, logits, labels, torch.full((5,), 0.2)) == (1,)
    kept = best_exits(NETWORK, logits, labels, torch.full((5,), 0.2), allowed=lambda exits: len(exits) > 1)
    assert kept == (1, 2)
    with pytest.raises(ConfigError, match="no subset of the exits 1, 2, 3, 4, 5 keeps the budget"):
        best_exits(NETWORK, logits, labels, torch.full((5,), 0.2), allowed=lambda exits: False)


@pytest.mark.parametrize("kept", [(1,), (2, 3), (1, 4), (1, 2, 3, 4, 5)])
def test_a_pruned_network_answers_as_the_whole_one_and_costs_what_is_said(kept: tuple[int, ...]) -> None:
    cut = keep_exits(NETWORK, kept)
    assert (cut.exit_numbers, cut.arch.stages) == (kept, SPACE.largest.stages[: kept[-1]])
    assert not cut.training
    assert keep_exits(copy.deepcopy(NETWORK).train(), kept).training
    images = torch.rand(3, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole, part = NETWORK(images), cut(images)
    expected = whole[[number - 1 for number in kept]]
    torch.testing.assert_close(part if len(kept) > 1 else part[None], expected, rtol=1e-4, atol=1e-5)
    assert sum(p.numel() for p in cut.parameters()) == cost(MACRO, cut.arch, exits=kept).params


def test_of_subsets_that_are_right_as_often_the_one_with_better_five_best_answers_is_kept() -> None:
    """Where both are wrong exit 1 has the right answer last, exit 2 fifth; exit 1 is cheaper."""
    labels = torch.tensor([7, 7, 7, 7])
    right, last = torch.tensor([[0.0] * 7 + [9]]), torch.tensor([[8.0, 7, 6, 5, 4, 3, 2, 1]])
    fifth, sixth = (torch.cat([last[:, :7], torch.tensor([[score]])], dim=1) for score in (4.5, 3.5))
    network = StaticNetwork(MACRO, SPACE.largest, exits=(1, 2)).eval()

    def kept(first: list[torch.Tensor], second: list[torch.Tensor]) -> tuple[int, ...]:
        logits = torch.stack([torch.cat(first), torch.cat(second)])
        return best_exits(network, logits, labels, torch.tensor([0.5, 0.5]), allowed=lambda exits: len(exits) == 1)

    assert kept([right, right, last, last], [right, right, last, fifth]) == (2,)
    assert kept([right, right, last, last], [right, right, last, sixth]) == (1,)  # then the cheaper one
    assert kept([right, right, right, last], [right, right, fifth, fifth]) == (1,)  # being right comes first
