"""The super-network is a function of weights, images and architecture."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from nat2.errors import ArchError, ConfigError
from nat2.space import Arch, Layer, SearchSpace, cost
from nat2.supernet import SuperNetwork, SuperNetworks, calibrate, extract, normalize_by, normalize_by_stored
from nat2.supernet.layers import ElasticDepthwise
from nat2.supernet.slices import sliced
from nat2.supernet.static import dense_sum
from nat2.training.distill import Teacher, distillation_loss
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


def is_active(path: str, arch: Arch) -> bool:
    """Whether a parameter takes part in a sub-network's answer."""
    room, *place = path.split(".")
    if room == "exits":
        return int(place[0]) == arch.exit
    if room == "stem":
        return True
    stage, position, part = int(place[0]), int(place[1]), place[2]
    if stage >= arch.exit or position >= len(arch.stages[stage]):
        return False
    layer = arch.stages[stage][position]
    block = {"conv": 2, "conv_bn": 2, "transform": 1, "transform_bn": 1}.get(part, 4)
    largest_kernel = {"matrix_7to5": 5, "matrix_5to3": 3}.get(place[-1], 7)
    return bool(layer.blocks & block) and layer.kernel <= largest_kernel


def test_gradients_reach_the_active_path_only(network: SuperNetwork) -> None:
    teacher = Teacher(extract(network, SearchSpace.of(network.macro, (32,)).largest, exits=network.macro.exits), "ASC")
    labels = torch.arange(4) % 5
    for arch in some_archs(network):
        network.zero_grad(set_to_none=True)
        distillation_loss(network(images(), arch), labels, teacher(images())).backward()  # type: ignore[no-untyped-call]
        for path, parameter in network.named_parameters():
            assert (parameter.grad is not None) == is_active(path, arch), path
            if path.endswith("depthwise.weight") and path.startswith("stages") and parameter.grad is not None:
                stage, position = map(int, path.split(".")[1:3])
                shape = network.macro.layer_shapes[stage][position]
                used = shape.mid_channels(arch.stages[stage][position].expand)
                assert not parameter.grad[used:].any()


@pytest.mark.parametrize("base", ["SE_B", "SE_D", "EE_B", "EE_D"])
def test_inverted_bottlenecks_alone_are_the_base_network(base: str) -> None:
    plain = random_network(FAMILIES[base])
    parallel = random_network(dataclasses.replace(plain.macro, parallel_blocks=True), seed=1)
    weights = {name.replace(".mbconv", ""): name for name in parallel.state_dict()}
    state = parallel.state_dict() | {weights[name]: tensor for name, tensor in plain.state_dict().items()}
    parallel.load_state_dict(state)
    for arch in some_archs(plain):
        with torch.no_grad():
            assert torch.equal(parallel(images(), arch), plain(images(), arch))


def test_the_outputs_of_active_blocks_are_added() -> None:
    network = random_network(FAMILIES["SE_P"])
    for position in (0, 1):  # the first strides and changes channels
        block = network.stages[1][position]  # type: ignore[index]
        channels = block.shape.in_channels
        x = torch.randn(2, channels, 9, 9, generator=torch.Generator().manual_seed(0))

        def answer(blocks: int, block: Any = block, x: torch.Tensor = x) -> Any:
            layer = Layer(5, 4, blocks)
            return block(x.clone(), layer, normalize_by_stored, sliced(block.parts(layer)))

        with torch.no_grad():
            one = {blocks: answer(blocks) for blocks in (4, 2, 1)}
            for blocks in (3, 5, 6, 7):
                torch.testing.assert_close(answer(blocks), sum(one[bit] for bit in one if blocks & bit))
        assert (
            one[4].shape == one[2].shape == one[1].shape == (2, block.shape.out_channels, *((5, 5), (9, 9))[position])
        )


def test_super_networks_side_by_side_answer_by_width() -> None:
    narrow = random_network(FAMILIES["EE_D"])
    wide = random_network(dataclasses.replace(narrow.macro, width=0.5))
    both = SuperNetworks([narrow, wide])
    assert both[0.35] is narrow
    assert list(both) == [narrow, wide]
    space = SearchSpace.of((narrow.macro, wide.macro), (32,))
    with torch.no_grad():
        for arch in (space.smallest, space.largest):
            assert torch.equal(both(images(), arch), both[arch.width](images(), arch))


def kernel(layer: ElasticDepthwise, size: int, channels: int) -> torch.Tensor:
    return layer.kernel(size, sliced(layer.parts(size, channels)))


def test_smaller_kernels_begin_as_the_centre_of_the_larger() -> None:
    layer = ElasticDepthwise(6, 1)
    torch.nn.init.normal_(layer.weight)
    torch.testing.assert_close(kernel(layer, 7, 4), layer.weight[:4])
    torch.testing.assert_close(kernel(layer, 5, 4), layer.weight[:4, :, 1:-1, 1:-1])
    torch.testing.assert_close(kernel(layer, 3, 6), layer.weight[:, :, 2:-2, 2:-2])


def test_kernel_transforms_are_applied_in_a_chain() -> None:
    layer = ElasticDepthwise(2, 1)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    five = (layer.matrix_7to5 @ layer.weight[1, 0, 1:-1, 1:-1].reshape(25)).view(5, 5)
    three = (layer.matrix_5to3 @ five[1:-1, 1:-1].reshape(9)).view(3, 3)
    torch.testing.assert_close(kernel(layer, 5, 2)[1, 0], five)
    torch.testing.assert_close(kernel(layer, 3, 2)[1, 0], three)


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
    weight = network.get_parameter("stages.4.1.project.weight").detach()
    assert float(weight.std()) == pytest.approx((2 / weight.shape[0]) ** 0.5, rel=0.05)
    linear = network.get_submodule("exits.5.classifier")
    assert isinstance(linear, torch.nn.Linear)
    assert float(linear.weight.detach().abs().max()) == pytest.approx(linear.in_features**-0.5, rel=0.02)
    assert not linear.bias.any()


def test_stored_statistics_are_used_when_asked_for(network: SuperNetwork) -> None:
    arch = some_archs(network)[0]
    with torch.no_grad():
        whole = network(images(), arch, normalize=normalize_by_stored)
        one = network(images()[:1], arch, normalize=normalize_by_stored)
    torch.testing.assert_close(one, whole[:1])


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("r32-w0.5-k3e3", "of width 0.5, the super-network of width 0.35"),
        ("r32-w0.35-k9e3", "kernel of 3, 5 or 7"),
        ("r32-w0.35-k4e3", "kernel of 3, 5 or 7"),
        ("r32-w0.35-k3e8", "expand ratio of 2..6"),
        ("r32-w0.35-k3e1", "expand ratio of 2..6"),
        ("r32-w0.35-k3e3c", "parallel blocks"),
        ("r32-w0.35-t", "parallel blocks"),
    ],
)
def test_architectures_of_other_super_networks_are_refused_everywhere(key: str, message: str) -> None:
    network, arch = random_network(FAMILIES["EE_D"]), Arch.from_key(key)
    for use in (
        lambda: network(images(), arch),
        lambda: calibrate(network, arch, [images()]),
        lambda: extract(network, arch),
        lambda: cost(network.macro, arch),
    ):
        with pytest.raises(ArchError, match=message):
            use()


@pytest.mark.parametrize("exits", [(), (1, 3), (3,), (0,)])
def test_exits_that_an_architecture_does_not_reach_are_refused(exits: tuple[int, ...]) -> None:
    network, arch = random_network(FAMILIES["EE_D"]), Arch.from_key("r32-w0.35-k3e3.k3e3-k3e3.k3e3")
    for use in (
        lambda: network(images(), arch, exits=exits),
        lambda: extract(network, arch, exits=exits),
        lambda: cost(network.macro, arch, exits=exits),
    ):
        with pytest.raises(ArchError, match="can answer at exits 1, 2 of EE_D"):
            use()
    single = random_network(FAMILIES["SE_B"])
    with pytest.raises(ArchError, match="can answer at exits none of SE_B; got 2"):
        single(images(), arch)


def test_exits_answer_in_ascending_order_and_once() -> None:
    network = random_network(FAMILIES["EE_D"])
    largest = SearchSpace.of(network.macro, (32,)).largest
    with torch.no_grad():
        expected = network(images(), largest, exits=(1, 3))
        assert torch.equal(network(images(), largest, exits=(3, 1, 3)), expected)
        assert extract(network, largest, exits=(3, 1, 3))(images()).shape == expected.shape


def test_super_networks_side_by_side_differ_in_width() -> None:
    network = random_network(FAMILIES["EE_D"])
    with pytest.raises(ConfigError, match="different widths"):
        SuperNetworks([network, network])
    with pytest.raises(ArchError, match=r"of width 0.35; got 0.5"):
        SuperNetworks([network])[0.5]
