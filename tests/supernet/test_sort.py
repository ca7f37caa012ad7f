"""Channel sorting changes the order, not the function."""

from __future__ import annotations

import itertools

import pytest
import torch

from nat2.space import SearchSpace
from nat2.supernet import SuperNetwork, normalize_by_stored
from nat2.supernet.layers import ElasticMBConv
from nat2.supernet.sort import sort_channels
from tests.supernet.test_network import images


@pytest.mark.parametrize("supported", [(), (4, 6), (3, 4, 6)])
def test_the_largest_network_stays_the_same_function(network: SuperNetwork, supported: tuple[int, ...]) -> None:
    largest = SearchSpace.of(network.macro, (32,)).largest
    with torch.no_grad():
        before = network(images(), largest, normalize=normalize_by_stored)
        sort_channels(network, supported=supported)
        after = network(images(), largest, normalize=normalize_by_stored)
    torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("supported", [(), (4, 6), (3, 4, 6)])
def test_importance_falls_within_each_bucket(network: SuperNetwork, supported: tuple[int, ...]) -> None:
    widths = sorted({*supported, 6})
    members = {
        id(module): [
            module.project.weight.abs().sum((0, 2, 3))[low:high].sort(descending=True).values
            for low, high in itertools.pairwise([0, *(module.shape.mid_channels(w) for w in widths)])
        ]
        for module in network.modules()
        if isinstance(module, ElasticMBConv)
    }
    sort_channels(network, supported=supported)
    for module in network.modules():
        if isinstance(module, ElasticMBConv):
            importance = module.project.weight.abs().sum((0, 2, 3))
            bounds = [0, *(module.shape.mid_channels(w) for w in widths)]
            for (low, high), before in zip(itertools.pairwise(bounds), members[id(module)], strict=True):
                torch.testing.assert_close(importance[low:high], before)  # sorted, and the bucket's own channels
