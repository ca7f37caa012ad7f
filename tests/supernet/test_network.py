"""The super-network is a function of weights, images and architecture."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nat2.space import Arch, Layer, SearchSpace
from nat2.supernet import SuperNetwork, calibrate, normalize_by, normalize_by_stored
from nat2.supernet.layers import ElasticDepthwise
from nat2.supernet.static import dense_sum, depthwise
from tests.supernet.conftest import FAMILIES, random_network


def images(count: int = 4, resolution: int = 32) -> torch.Tensor:
    return torch.randn(count, 3, resolution, resolution, generator=torch.Generator().manual_seed(1))


def some_archs(network: SuperNetwork, count: int = 4) -> list[Arch]:
    space = SearchSpace.of(network.macro, (32,))
    return [space.smallest, space.largest, *space.sample_distinct(count, np.random.default_rng(0))]


def test_evaluating_leaves_every_bit_of_the_network_alone(network: SuperNetwork) -> None:
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    for arch in some_archs(network):
        statistics = calibrate(network, arch, [images()])
        with torch.no_grad():
            network(images(), arch, normalize=normalize_by(statistics))
            network(images(), arch)
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


def test_an_answer_does_not_depend_on_what_was_asked_before(network: SuperNetwork) -> None:
    arch, *others = some_archs(network)
    with torch.no_grad():
        first = network(images(), arch)
        for other in others:
            network(images(), other)
        assert torch.equal(network(images(), arch), first)


def test_logits_have_one_row_an_image_and_one_block_an_exit() -> None:
    network = random_network(FAMILIES["EE_D"])
    largest = SearchSpace.of(network.macro, (32,)).largest
    assert network(images(), largest).shape == (4, 5)
    joint = network(images(), largest, exits=(1, 2, 3, 4, 5))
    assert joint.shape == (5, 4, 5)
    torch.testing.assert_close(joint[-1], network(images(), largest))
    second = Arch(32, largest.width, largest.stages[:2])
    torch.testing.assert_close(joint[1], network(images(), second))


def test_gradients_reach_the_active_path_only(network: SuperNetwork) -> None:
    space = SearchSpace.of(network.macro, (32,))
    arch = space.smallest
    network(images(), arch).sum().backward()
    for path, parameter in network.named_parameters():
        part, *place = path.split(".")
        if part == "exits":
            active = int(place[0]) == arch.exit
        elif part == "stages":
            stage, layer = int(place[0]), int(place[1])
            active = stage < arch.exit and layer < len(arch.stages[stage])
        else:
            active = True
        assert (parameter.grad is not None) == active, path
    depthwise_weight = network.stages[0][0].depthwise.weight  # type: ignore[index, union-attr]
    used = network.macro.layer_shapes[0][0].mid_channels(3)
    assert depthwise_weight.grad[:used].any()
    assert not depthwise_weight.grad[used:].any()


def test_smaller_kernels_begin_as_the_centre_of_the_larger() -> None:
    layer = ElasticDepthwise(6, 1)
    torch.nn.init.normal_(layer.weight)
    torch.testing.assert_close(layer.kernel(7, 4), layer.weight[:4])
    torch.testing.assert_close(layer.kernel(5, 4), layer.weight[:4, :, 1:-1, 1:-1])
    torch.testing.assert_close(layer.kernel(3, 6), layer.weight[:, :, 2:-2, 2:-2])


def test_kernel_transforms_are_applied_in_a_chain() -> None:
    layer = ElasticDepthwise(2, 1)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    five = (layer.matrix_7to5 @ layer.weight[1, 0, 1:-1, 1:-1].reshape(25)).view(5, 5)
    three = (layer.matrix_5to3 @ five[1:-1, 1:-1].reshape(9)).view(3, 3)
    torch.testing.assert_close(layer.kernel(5, 2)[1, 0], five)
    torch.testing.assert_close(layer.kernel(3, 2)[1, 0], three)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [3, 5, 7])
@pytest.mark.parametrize("side", [1, 2, 3, 4, 9])
def test_taps_that_meet_only_padding_can_be_left_out(side: int, size: int, stride: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 4, side, side, generator=generator)
    weight = torch.randn(4, 1, size, size, generator=generator, requires_grad=True)
    plain = torch.nn.functional.conv2d(x, weight, stride=stride, padding=size // 2, groups=4)
    cropped = depthwise(x, weight, stride)
    torch.testing.assert_close(cropped, plain)
    factor = torch.randn(plain.shape, generator=generator)
    (expected,) = torch.autograd.grad((plain * factor).sum(), weight)
    (actual,) = torch.autograd.grad((cropped * factor).sum(), weight)
    torch.testing.assert_close(actual, expected)


def test_dense_skips_add_what_the_residual_has_not_brought() -> None:
    y1, y2, y3, y4 = (torch.tensor(float(10**power)) for power in range(4))
    assert dense_sum([y1]) == y1
    assert dense_sum([y1, y2]) == y2
    assert dense_sum([y1, y2, y3]) == y3 + y1
    assert dense_sum([y1, y2, y3, y4]) == y4 + y1 + y2


def test_dense_skips_change_stages_of_three_layers_and_more_only() -> None:
    dense, base = random_network(FAMILIES["EE_D"]), random_network(FAMILIES["EE_B"])
    for depth, equal in ((2, True), (3, False), (4, False)):
        arch = Arch(32, 0.35, ((Layer(3, 4),) * depth,) * 3)
        with torch.no_grad():
            same = torch.equal(dense(images(), arch), base(images(), arch))
        assert same == equal


def test_the_generator_decides_the_weights() -> None:
    first, again, other = (
        SuperNetwork(FAMILIES["EE_D"], generator=torch.Generator().manual_seed(seed)).state_dict() for seed in (0, 0, 1)
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["stem.conv.weight"], other["stem.conv.weight"])


def test_weights_begin_with_the_published_spread() -> None:
    network = SuperNetwork(FAMILIES["EE_D"], generator=torch.Generator().manual_seed(0))
    weight = network.stages[4][1].project.weight.detach()  # type: ignore[index, union-attr]
    assert float(weight.std()) == pytest.approx((2 / weight.shape[0]) ** 0.5, rel=0.05)
    linear = network.exits["5"].classifier  # type: ignore[union-attr]
    assert float(linear.weight.detach().abs().max()) == pytest.approx(linear.in_features**-0.5, rel=0.02)
    assert not linear.bias.any()


def test_stored_statistics_are_used_when_asked_for(network: SuperNetwork) -> None:
    arch = some_archs(network)[0]
    with torch.no_grad():
        whole = network(images(), arch, normalize=normalize_by_stored)
        one = network(images()[:1], arch, normalize=normalize_by_stored)
    torch.testing.assert_close(one, whole[:1])
