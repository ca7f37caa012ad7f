"""Statistics of one sub-network."""

from __future__ import annotations

import pytest
import torch

from nat2.errors import ConfigError
from nat2.space import SearchSpace
from nat2.supernet import SuperNetwork, calibrate, normalize_by, normalize_by_stored, store_statistics
from tests.supernet.conftest import FAMILIES, random_network
from tests.supernet.test_network import images, some_archs


def test_one_batch_normalised_by_its_own_statistics_gives_the_same_answers(network: SuperNetwork) -> None:
    for arch in some_archs(network):
        statistics = calibrate(network, arch, [images(16)])
        with torch.no_grad():
            by_batch = network(images(16), arch)
            calibrated = network(images(16), arch, normalize=normalize_by(statistics))
        torch.testing.assert_close(calibrated, by_batch, rtol=1e-4, atol=1e-4)


def test_batches_are_weighted_by_their_size() -> None:
    network = random_network(FAMILIES["EE_D"])
    arch = SearchSpace.of(network.macro, (32,)).smallest
    mixed = images(12)
    mixed[8:] += 3
    mean, var = calibrate(network, arch, [mixed[:8], mixed[8:]])["stem.bn"]
    features = network.stem.conv(mixed)
    parts = (features[:8], features[8:])
    expected_mean = sum(len(part) / 12 * part.mean((0, 2, 3)) for part in parts)
    expected_var = sum(len(part) / 12 * part.var((0, 2, 3), correction=0) for part in parts)
    torch.testing.assert_close(mean, expected_mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(var, expected_var, rtol=1e-4, atol=1e-5)


def test_statistics_cover_exactly_the_active_norms(network: SuperNetwork) -> None:
    for arch in some_archs(network):
        paths = set(calibrate(network, arch, [images()]))
        layers = [layer for stage in arch.stages for layer in stage]
        norms = sum(3 * bool(layer.blocks & 4) + bool(layer.blocks & 2) + bool(layer.blocks & 1) for layer in layers)
        assert len(paths) == 3 + norms + 1
        assert f"exits.{arch.exit}.expand_bn" in paths


def test_no_batches_are_refused(network: SuperNetwork) -> None:
    with pytest.raises(ConfigError, match="at least one batch"):
        calibrate(network, some_archs(network)[0], [])


def test_batches_of_one_image_are_refused(network: SuperNetwork) -> None:
    with pytest.raises(ConfigError, match="at least two images"):
        calibrate(network, some_archs(network)[0], [images(4), images(1)])


def test_stored_statistics_are_what_uncalibrated_sub_networks_answer_with(network: SuperNetwork) -> None:
    largest = SearchSpace.of(network.macro, (32,)).largest
    statistics = calibrate(network, largest, [images(16)], exits=network.macro.exits)
    store_statistics(network, statistics)
    with torch.no_grad():
        stored = network(images(8), largest, normalize=normalize_by_stored, exits=network.macro.exits)
        calibrated = network(images(8), largest, normalize=normalize_by(statistics), exits=network.macro.exits)
    assert torch.equal(stored, calibrated)
