"""Which exits of a network to keep: every subset is tried on validation images (AEP, prune)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import combinations

import torch
from torch import Tensor

from nat2.errors import ConfigError
from nat2.space.cost import cost
from nat2.supernet.static import StaticNetwork, channels_last
from nat2.training.distill import ensemble


def subsets(exits: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Every way to keep at least one of the exits, each ascending."""
    for count in range(1, len(exits) + 1):
        yield from combinations(exits, count)


@torch.no_grad()
def best_exits(
    network: StaticNetwork,
    logits: Tensor,
    labels: Tensor,
    weights: Tensor,
    *,
    allowed: Callable[[tuple[int, ...]], bool] = lambda exits: True,
) -> tuple[int, ...]:
    """The subset of a network's exits whose joint answer is most often right.

    Of equals the one whose five best answers hold the right one more often, then the one with fewer operations.

    Args:
        network: With all its exits.
        logits: Theirs on validation images, shape (exits, N, classes).
        labels: Shape (N,).
        weights: Of the outputs, shape (exits,); the answer of some is the sum of theirs, not scaled.
        allowed: Whether a subset may be kept.

    Raises:
        ConfigError: none may.
    """
    exits = network.exit_numbers
    five = min(5, logits.shape[-1])

    def rank(kept: tuple[int, ...]) -> tuple[int, int, int]:
        rows = [exits.index(number) for number in kept]
        best = ensemble(logits[rows], weights[rows]).topk(five, dim=1).indices
        right = best == labels[:, None]
        macs = cost(network.macro, network.arch, exits=kept).macs
        return int(right[:, 0].sum()), int(right.sum()), -macs

    choices = [kept for kept in subsets(exits) if allowed(kept)]
    if not choices:
        raise ConfigError(f"no subset of the exits {', '.join(map(str, exits))} keeps the budget; widen it")
    return max(choices, key=rank)


def keep_exits(network: StaticNetwork, kept: Sequence[int]) -> StaticNetwork:
    """The network with some of its exits, cut after the last of them; the weights are copied."""
    arch = replace(network.arch, stages=network.arch.stages[: max(kept)])
    cut = StaticNetwork(network.macro, arch, exits=tuple(kept))
    weights = network.state_dict()
    cut.load_state_dict({name: weights[name] for name in cut.state_dict()})
    return channels_last(cut, next(network.parameters()).device).train(network.training)
