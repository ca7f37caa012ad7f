"""Closed-form costs: the reference counts, and what torch itself counts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.flop_counter import FlopCounterMode

from nat2.space import Arch, CostTable, Layer, Macro, SearchSpace, cost
from nat2.supernet import StaticNetwork, SuperNetwork
from tests.space.test_arch import A_STAR
from tests.strategies import archs_in, macros, spaces


def constant(
    kernel: int, expand: int, depth: int, exit_number: int, resolution: int, width: float = 1.0, blocks: int = 4
) -> Arch:
    return Arch(resolution, width, ((Layer(kernel, expand, blocks),) * depth,) * exit_number)


OFA = Macro(classes=1000, early_exits=False, dense_skips=False)
OFA_WIDE = Macro(classes=1000, early_exits=False, dense_skips=False, width=1.2)
EE_D = Macro(classes=200)
EE_D_10 = Macro(classes=10)


@pytest.mark.parametrize(
    ("macro", "largest", "params", "millions"),
    [
        (OFA, True, 7_664_760, {128: 188.25, 160: 291.32, 192: 417.29, 224: 566.17}),
        (OFA, False, 3_410_792, {128: 41.48, 160: 63.24, 192: 89.84, 224: 121.28}),
        (OFA_WIDE, True, 10_701_632, {224: 843.10}),
        (OFA_WIDE, False, 4_602_456, {224: 193.08}),
    ],
)
def test_ofa_networks_have_the_published_counts(
    macro: Macro, largest: bool, params: int, millions: dict[int, float]
) -> None:
    for resolution, macs in millions.items():
        arch = constant(*((7, 6, 4) if largest else (3, 3, 2)), 5, resolution, macro.width)
        assert cost(macro, arch).params == params
        assert cost(macro, arch).macs / 1e6 == pytest.approx(macs, abs=0.005)


@pytest.mark.parametrize(
    ("arch", "params", "millions"),
    [
        *((constant(7, 6, 4, n, 64), p, m) for n, p, m in zip(
            range(1, 6), (123_672, 422_464, 1_095_024, 2_951_008, 6_639_960),
            (15.897, 23.454, 29.674, 42.059, 49.798), strict=True)),
        *((constant(3, 3, 2, n, 64), p, m) for n, p, m in zip(
            range(1, 6), (77_952, 187_288, 568_768, 1_171_992, 2_385_992),
            (4.045, 5.213, 6.634, 9.684, 11.433), strict=True)),
        *((constant(3, 3, 2, n, 48), p, m) for n, p, m in zip(
            range(1, 6), (77_952, 187_288, 568_768, 1_171_992, 2_385_992),
            (2.304, 2.999, 3.927, 5.833, 7.846), strict=True)),
        *((Arch.from_ofa({**A_STAR, "nd": n}, resolution=64, width=1.0), p, m) for n, p, m in zip(
            range(1, 6), (91_512, 254_656, 723_416, 1_890_088, 3_610_128),
            (7.623, 10.542, 13.332, 21.017, 23.743), strict=True)),
    ],
)  # fmt: skip
def test_early_exit_networks_have_the_reference_counts(arch: Arch, params: int, millions: float) -> None:
    assert cost(EE_D, arch).params == params
    assert cost(EE_D, arch).macs / 1e6 == pytest.approx(millions, abs=0.0005)


def test_other_reference_counts() -> None:
    all_exits = cost(EE_D, constant(7, 6, 4, 5, 64), exits=(1, 2, 3, 4, 5))
    assert all_exits.params == 8_193_912
    assert all_exits.macs / 1e6 == pytest.approx(54.539, abs=0.0005)
    star = Arch.from_ofa(A_STAR, resolution=224, width=1.0)
    assert cost(OFA, star).params == 4_634_928
    assert cost(OFA, star).macs / 1e6 == pytest.approx(264.63, abs=0.005)
    parallel = Macro(classes=200, parallel_blocks=True)
    parameters, macs, _ = cost(parallel, constant(7, 6, 4, 5, 64, blocks=7))
    assert parameters == 6_850_040
    assert macs == pytest.approx(52.616e6, abs=500)
    parameters, macs, _ = cost(parallel, constant(3, 3, 2, 1, 64, blocks=7))
    assert parameters == 79_512
    assert macs == pytest.approx(4.389e6, abs=500)
    wide = Arch.from_ofa(A_STAR, resolution=224, width=1.2)
    assert cost(OFA_WIDE, wide).params == 6_367_728
    assert cost(OFA_WIDE, wide).macs / 1e6 == pytest.approx(405.51, abs=0.005)
    tenths = [cost(EE_D_10, Arch.from_ofa({**A_STAR, "nd": n}, resolution=64, width=1.0)).params for n in range(1, 6)]
    assert tenths == [54_842, 193_666, 601_626, 1_719_658, 3_366_738]
    doubled = Macro(classes=200, width=1.2, early_exits=False, dense_skips=False, doubled_exit_widths=True)
    single = Macro(classes=200, width=1.2, early_exits=False, dense_skips=False)
    largest = constant(7, 6, 4, 5, 64, 1.2)
    assert cost(doubled, largest).params == 10_354_928
    assert cost(single, largest).params == 9_472_032


@pytest.mark.parametrize(
    ("early_exits", "parallel", "params"),
    [
        (False, False, (6_654_080, 10_369_048)),
        (False, True, (6_864_160, 10_673_488)),
        (True, False, (8_208_032, 13_331_256)),
        (True, True, (8_418_112, 13_635_696)),
    ],
)
@pytest.mark.parametrize("dense", [False, True])
def test_super_networks_have_the_reference_counts(
    early_exits: bool, parallel: bool, dense: bool, params: tuple[int, int]
) -> None:
    for width, expected in zip((1.0, 1.2), params, strict=True):
        macro = Macro(
            classes=200, width=width, early_exits=early_exits, dense_skips=dense, parallel_blocks=parallel,
            doubled_exit_widths=width == 1.2,
        )  # fmt: skip
        with torch.device("meta"):
            network = SuperNetwork(macro)
        assert sum(p.numel() for p in network.parameters()) == expected


@given(archs_in(SearchSpace(resolutions=(48, 64))))
def test_inverted_bottlenecks_alone_cost_what_the_base_network_does(arch: Arch) -> None:
    for dense in (False, True):
        base = cost(Macro(classes=200, dense_skips=dense), arch)
        assert cost(Macro(classes=200, dense_skips=dense, parallel_blocks=True), arch) == base


@given(st.data(), macros())
@settings(max_examples=60, deadline=None)
def test_counts_equal_those_of_torch(data: st.DataObject, macro: Macro) -> None:
    arch = data.draw(archs_in(SearchSpace.of(macro, (33, 48))))
    network = StaticNetwork(macro, arch).eval()
    images = torch.zeros(1, macro.channels, arch.resolution, arch.resolution)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        network(images)
    counted = cost(macro, arch)
    assert counted.params == sum(p.numel() for p in network.parameters())
    cropped = _cropped_taps(macro, arch)
    assert 2 * (counted.macs - cropped) == counter.get_total_flops()


@given(st.data(), macros(widths=(0.35, 1.2)))
@settings(max_examples=8, deadline=None)
def test_activation_memory_equals_that_of_the_traced_graph(data: st.DataObject, macro: Macro) -> None:
    arch = data.draw(archs_in(SearchSpace.of(macro, (8, 33, 48))))
    exits = None
    if macro.early_exits and data.draw(st.booleans()):
        exits = tuple(sorted(data.draw(st.sets(st.integers(1, arch.exit), min_size=1))))
    network = StaticNetwork(macro, arch, exits=exits).eval()
    assert cost(macro, arch, exits=exits).memory == peak_of_graph(network, arch.resolution)


def peak_of_graph(network: StaticNetwork, resolution: int) -> int:
    """The most values that must be held while a convolution or linear layer of the traced graph runs."""
    images = torch.zeros(1, network.macro.channels, resolution, resolution)
    nodes = list(make_fx(network.requires_grad_(False))(images).graph.nodes)
    # A view or a change in place is its input under another name; so is the part of a kernel that is used.
    same = {node: node for node in nodes}
    for node in nodes:
        if str(node.target).split(".")[1:2] in (["view"], ["t"], ["slice"], ["relu_"]):
            same[node] = same[node.args[0]]
    last_use: dict[object, int] = {}
    for step, node in enumerate(nodes):
        for used in node.all_input_nodes:
            last_use[same[used]] = step
    peak = 0
    for step, node in enumerate(nodes):
        if str(node.target).split(".")[1:2] in (["convolution"], ["addmm"], ["mm"]):
            live = [
                each for each in nodes[: step + 1]
                if same[each] is each and each.op != "get_attr" and last_use.get(each, -1) >= step
            ]  # fmt: skip
            peak = max(peak, sum(each.meta["tensor_meta"].shape.numel() for each in live))
    return peak


def _cropped_taps(macro: Macro, arch: Arch) -> int:
    """MACs of kernel taps that can only meet padding: counted by convention, and not computed on tiny maps."""
    sizes, total = macro.feature_sizes(arch.resolution), 0
    for stage, layers in enumerate(arch.stages):
        for shape, layer in zip(macro.layer_shapes[stage], layers, strict=False):
            side = sizes[stage + 1] if shape.stride == 1 else sizes[stage]
            used = min(layer.kernel, 2 * side - 1)
            total += shape.mid_channels(layer.expand) * (layer.kernel**2 - used**2) * sizes[stage + 1] ** 2
    return total


@given(spaces(), st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_a_population_costs_what_its_members_do(space: SearchSpace, seed: int) -> None:
    macros = {
        width: Macro(
            classes=7, width=width, early_exits=space.early_exits, parallel_blocks=space.parallel_blocks,
            dense_skips=bool(seed % 2),
        )
        for width in space.widths
    }  # fmt: skip
    genomes = space.sample(20, np.random.default_rng(seed))
    table = CostTable(space, macros)(genomes)
    archs = [space.decode(genome) for genome in genomes]
    np.testing.assert_array_equal(table, [cost(macros[arch.width], arch) for arch in archs])


def test_costs_grow_with_every_dimension() -> None:
    macro, small = Macro(classes=10), constant(3, 3, 2, 2, 48)
    for larger in (
        constant(5, 3, 2, 2, 48),
        constant(3, 4, 2, 2, 48),
        constant(3, 3, 3, 2, 48),
        constant(3, 3, 2, 3, 48),
    ):
        assert cost(macro, larger).params > cost(macro, small).params
        assert cost(macro, larger).macs > cost(macro, small).macs


@pytest.mark.real_data
def test_published_specialised_networks_have_the_counts_of_their_files(shared_data: Path) -> None:
    # Operations stand in the names of three of them, parameters and operations of four in OFA's list of results.
    listed = {
        "flops-595M_top1-80.0_finetune-75": (9.1, 595),
        "flops-482M_top1-79.6_finetune-75": (9.1, 482),
        "flops-389M_top1-79.1_finetune-75": (8.4, 389),
        "note10_lat-64ms_top1-80.2_finetune-75": (9.1, 743),
    }
    networks = json.loads((shared_data / "ofa_mbv3_surrogate" / "ofa_specialized_nets.json").read_text())
    ours = [network for network in networks if network["net"] == "MobileNetV3"]
    assert len(ours) == 34
    for network in ours:
        channels = network["block_out_channels"]
        width = 1.2 if channels[0] == 24 else 1.0
        macro = Macro(classes=1000, width=width, early_exits=False, dense_skips=False)
        arch = Arch.from_ofa(
            {"ks": network["block_ks"][1:], "e": network["block_expand"][1:], "d": network["stage_depth"]},
            resolution=network["image_size"],
            width=width,
        )
        shapes = [
            macro.first_shape,
            *(s for stage, d in zip(macro.layer_shapes, arch.depths, strict=True) for s in stage[:d]),
        ]
        assert [shape.out_channels for shape in shapes] == channels, network["name"]
        assert [shape.stride for shape in shapes] == network["block_stride"], network["name"]
        if network["name"] in listed:
            params, macs = listed[network["name"]]
            assert cost(macro, arch).params / 1e6 == pytest.approx(params, abs=0.05)
            assert cost(macro, arch).macs / 1e6 == pytest.approx(macs, rel=0.005)
