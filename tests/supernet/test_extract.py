"""A plain network answers as the super-network does."""

from __future__ import annotations

import pytest
import torch

from nat2.space import Arch, SearchSpace, cost
from nat2.supernet import SuperNetwork, calibrate, extract, normalize_by, normalize_by_stored
from nat2.supernet.static import BatchNorm
from tests.supernet.conftest import FAMILIES, random_network
from tests.supernet.test_network import images, some_archs


def test_extracted_networks_answer_as_the_super_network(network: SuperNetwork) -> None:
    for arch in some_archs(network, 8):
        statistics = calibrate(network, arch, [images(16)])
        with torch.no_grad():
            expected = network(images(), arch, normalize=normalize_by(statistics))
            actual = extract(network, arch, statistics)(images())
            stored = extract(network, arch)(images())
            expected_stored = network(images(), arch, normalize=normalize_by_stored)
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(stored, expected_stored, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("exits", [(1, 2, 3, 4, 5), (2, 4), (3,)])
@pytest.mark.parametrize("family", [family for family in FAMILIES if family.startswith("EE")])
def test_networks_with_all_or_some_exits_answer_as_the_super_network(family: str, exits: tuple[int, ...]) -> None:
    network = random_network(FAMILIES[family])
    arch = SearchSpace.of(network.macro, (32,)).largest
    statistics = calibrate(network, arch, [images(16)], exits=exits)
    static = extract(network, arch, statistics, exits=exits)
    with torch.no_grad():
        expected = network(images(), arch, normalize=normalize_by(statistics), exits=exits)
        actual = static(images())
    torch.testing.assert_close(actual, expected if len(exits) > 1 else expected[0], rtol=1e-5, atol=1e-5)
    assert sum(p.numel() for p in static.parameters()) == cost(network.macro, arch, exits=exits).params


def test_training_the_copy_leaves_the_super_network_alone() -> None:
    network = random_network(FAMILIES["EE_D"])
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    arch: Arch = SearchSpace.of(network.macro, (32,)).largest
    copy = extract(network, arch).train()
    optimizer = torch.optim.SGD(copy.parameters(), lr=1.0)
    copy(images()).sum().backward()
    optimizer.step()
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize("momentum", [0.1, 0.3, None])
def test_its_batch_norms_are_torchs_without_the_count(momentum: float | None) -> None:
    """With a momentum of None, a mean over all batches, they need the count and keep it."""
    ours, theirs = BatchNorm(3, momentum=momentum), torch.nn.BatchNorm2d(3, momentum=momentum)
    for _ in range(3):
        x = 2 + torch.randn(4, 3, 5, 5)
        assert torch.equal(ours(x), theirs(x))
    assert torch.equal(ours.eval()(x), theirs.eval()(x))
    for name in ("running_mean", "running_var"):
        assert torch.equal(ours.get_buffer(name), theirs.get_buffer(name))
    assert int(ours.get_buffer("num_batches_tracked")) == (3 if momentum is None else 0)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
